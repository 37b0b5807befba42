//! All VMs: for each the one connection that is kept, and commands on it.
//!
//! - Before a VM's identity is proved no command but the one that asks for its secret is sent.
//! - [`ExecError::NotSent`] means that nothing was done; every other way to end without an
//!   [`Output`] means that the command may have been done.
//! - Nothing waits for longer than the deadline of the call, and no step of a connection longer than
//!   its own: 10 s for TCP, key exchange, login and channel each, 20 s for the identity. A peer that
//!   falls silent is given up after about 10 s.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use longshore_core::ids::{CloudId, InstanceId};
use longshore_core::input::VmError;
use longshore_secret::Secret;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::address::Address;
use crate::connection::Dialer;
use crate::exec::{Exec, ExecError, Output, Refused, unreachable};
use crate::link::Link;
use crate::settings::{SettingsError, SshSettings};

/// A VM, as far as it concerns us.
#[derive(Clone, Debug)]
pub struct Target {
    /// Whose.
    pub cloud: CloudId,
    /// Which.
    pub instance: InstanceId,
    /// `host`, `host:port` or `[v6]:port`, as the cloud last said.
    pub address: String,
    /// What it must show to prove its identity; without one it is never trusted.
    pub secret: Secret,
}

impl Target {
    /// Its name, which stays when the address changes.
    #[must_use]
    pub fn key(&self) -> InstanceKey {
        InstanceKey {
            cloud: self.cloud,
            instance: self.instance.clone(),
        }
    }
}

/// A VM's name among those of all clouds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceKey {
    /// Whose.
    pub cloud: CloudId,
    /// Which.
    pub instance: InstanceId,
}

/// Connections to VMs, made when first needed and kept until they break or are given up.
pub struct Pool {
    dialer: Arc<Dialer>,
    links: Mutex<HashMap<InstanceKey, Arc<Link>>>,
}

impl Pool {
    /// A pool without connections.
    ///
    /// # Errors
    /// A setting cannot work.
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

    /// Runs a command on a VM, over the connection that is there or a new one. Once sent it goes on
    /// to its end or deadline even if the returned future is dropped.
    ///
    /// # Errors
    /// See [`ExecError`] for what each means. A non-zero exit status is no error here.
    pub async fn run(
        &self,
        target: &Target,
        exec: &Exec,
        deadline: Instant,
    ) -> Result<Output, ExecError> {
        if target.secret.is_empty() {
            return Err(ExecError::NotSent(VmError::IdentityMismatch(
                "the instance has no secret that it could show: its tag is missing".into(),
            )));
        }
        let address = Address::parse(&target.address, self.dialer.settings.default_port)
            .map_err(unreachable)?;
        let link = self.link(&target.key());
        // A kept connection may turn out to be dead: then nothing was sent, and a new one is made.
        for _ in 0..2 {
            let connection = link
                .connection(&address, &target.secret, deadline)
                .await
                .map_err(ExecError::NotSent)?;
            match connection.run(exec, deadline).await {
                Ok(output) => return Ok(output),
                Err(Refused::Final(error)) => return Err(error),
                Err(Refused::Gone) => {}
            }
        }
        Err(unreachable(
            "the connection ended before the command was sent",
        ))
    }

    /// The host key of an instance that has proved its identity, a line in OpenSSH format.
    #[must_use]
    pub fn host_key(&self, instance: &InstanceKey) -> Option<String> {
        let link = self.links().get(instance).map(Arc::clone)?;
        link.pin()?.to_openssh().ok()
    }

    /// Drops an instance that is gone: its connection, what runs on it, and its host key. It may be
    /// used again afterwards and is then new.
    pub fn forget(&self, instance: &InstanceKey) {
        let link = self.links().remove(instance);
        if let Some(link) = link {
            link.forget();
        }
    }

    fn link(&self, instance: &InstanceKey) -> Arc<Link> {
        let mut links = self.links();
        if let Some(link) = links.get(instance) {
            return Arc::clone(link);
        }
        let link = Link::new(Arc::clone(&self.dialer));
        links.insert(instance.clone(), Arc::clone(&link));
        link
    }

    fn links(&self) -> std::sync::MutexGuard<'_, HashMap<InstanceKey, Arc<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
