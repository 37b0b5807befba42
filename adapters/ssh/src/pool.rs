//! Pool of SSH connections: one connection per VM, kept open, and commands on the connections.
//!
//! - Before the identity of a VM is verified, the only command sent is the command reading the
//!   instance secret.
//! - [`ExecError::NotSent`] means that nothing was done. After any other error the command may have
//!   been done.
//! - No call lasts longer than its deadline. Each step of a connection has a timeout: 10 s for TCP,
//!   key exchange, login and channel each, 20 s for the identity check. A silent peer is
//!   disconnected after about 10 s.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use longshore_core::ids::{CloudId, InstanceId};
use longshore_core::input::VmError;
use longshore_secret::Secret;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::address::Address;
use crate::connection::Dialer;
use crate::exec::{ChannelError, Exec, ExecError, Output, unreachable};
use crate::settings::{SettingsError, SshSettings};
use crate::vm_link::VmLink;

/// VM as the target of commands.
#[derive(Clone, Debug)]
pub struct Target {
    /// Cloud of the instance.
    pub cloud: CloudId,
    /// Instance id in the cloud.
    pub instance: InstanceId,
    /// `host`, `host:port` or `[v6]:port`, as last reported by the cloud.
    pub address: String,
    /// Expected instance secret. An instance without a secret is never trusted.
    pub secret: Secret,
}

impl Target {
    /// Key of the instance, independent of the address.
    #[must_use]
    pub fn key(&self) -> InstanceKey {
        InstanceKey {
            cloud: self.cloud,
            instance: self.instance.clone(),
        }
    }
}

/// Unique key of an instance across all clouds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceKey {
    /// Cloud of the instance.
    pub cloud: CloudId,
    /// Instance id in the cloud.
    pub instance: InstanceId,
}

/// Connections to VMs, dialed on first use and kept until the connection breaks or the instance is
/// forgotten.
pub struct Pool {
    dialer: Arc<Dialer>,
    links: Mutex<HashMap<InstanceKey, Arc<VmLink>>>,
}

impl Pool {
    /// Returns a pool without connections.
    ///
    /// # Errors
    /// If a setting is invalid.
    pub fn new(settings: SshSettings) -> Result<Self, SettingsError> {
        settings.check()?;
        let connects = Semaphore::new(settings.connects_max.min(Semaphore::MAX_PERMITS));
        Ok(Self {
            dialer: Arc::new(Dialer { settings, connects }),
            links: Mutex::default(),
        })
    }

    pub(crate) fn settings(&self) -> &SshSettings {
        &self.dialer.settings
    }

    /// Runs a command on a VM, over the existing connection or a new connection. Once sent, the
    /// command runs to its end or deadline even if the returned future is dropped.
    ///
    /// # Errors
    /// See [`ExecError`] for the meaning of each error. A non-zero exit status is not an error.
    pub async fn run(
        &self,
        target: &Target,
        exec: &Exec,
        deadline: Instant,
    ) -> Result<Output, ExecError> {
        if target.secret.is_empty() {
            return Err(ExecError::NotSent(VmError::IdentityMismatch(
                "the instance has no secret: its tag is missing".into(),
            )));
        }
        let address = Address::parse(&target.address, self.dialer.settings.default_port)
            .map_err(unreachable)?;
        let link = self.link(&target.key());
        // The existing connection may be dead: then nothing was sent, and a new connection is
        // dialed.
        for _ in 0..2 {
            let connection = link
                .connection(&address, &target.secret, deadline)
                .await
                .map_err(ExecError::NotSent)?;
            match connection.run(exec, deadline).await {
                Ok(output) => return Ok(output),
                Err(ChannelError::Final(error)) => return Err(error),
                Err(ChannelError::ConnectionClosed) => {}
            }
        }
        Err(unreachable(
            "the connection ended before the command was sent",
        ))
    }

    /// Host key of an instance with a verified identity, a line in OpenSSH format.
    #[must_use]
    pub fn host_key(&self, instance: &InstanceKey) -> Option<String> {
        let link = self.links().get(instance).map(Arc::clone)?;
        link.pin()?.to_openssh().ok()
    }

    /// Drops the connection, running commands and the pinned host key of a terminated instance. If
    /// used again, the instance counts as new.
    pub fn forget(&self, instance: &InstanceKey) {
        let link = self.links().remove(instance);
        if let Some(link) = link {
            link.forget();
        }
    }

    fn link(&self, instance: &InstanceKey) -> Arc<VmLink> {
        let mut links = self.links();
        if let Some(link) = links.get(instance) {
            return Arc::clone(link);
        }
        let link = VmLink::new(Arc::clone(&self.dialer));
        links.insert(instance.clone(), Arc::clone(&link));
        link
    }

    fn links(&self) -> std::sync::MutexGuard<'_, HashMap<InstanceKey, Arc<VmLink>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
