//! Check of a VM's host key, and refusal of channels opened by a VM.

use std::sync::{Arc, Mutex, PoisonError};

use russh::client::{ChannelOpenHandle, Handler, Msg, Session};
use russh::keys::{HashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{Channel, Error};

/// Host keys observed on a connection, shared between the handler and the dialing task.
#[derive(Clone, Default)]
pub(crate) struct ObservedKeys(Arc<Mutex<Keys>>);

#[derive(Default)]
struct Keys {
    accepted: Option<PublicKey>,
    refused: Option<PublicKey>,
}

impl ObservedKeys {
    /// Accepted host key, proved by the key exchange.
    pub(crate) fn accepted(&self) -> Option<PublicKey> {
        self.keys().accepted.clone()
    }

    /// Host key that differs from the expected key.
    pub(crate) fn refused(&self) -> Option<PublicKey> {
        self.keys().refused.clone()
    }

    fn keys(&self) -> std::sync::MutexGuard<'_, Keys> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Handler of one connection. Accepts only the pinned host key. Without a pinned key, accepts the
/// first key for the duration of the connection.
pub(crate) struct HostKeyCheck {
    pinned: Option<PublicKey>,
    observed: ObservedKeys,
}

impl HostKeyCheck {
    pub(crate) fn new(pinned: Option<PublicKey>) -> (Self, ObservedKeys) {
        let observed = ObservedKeys::default();
        let check = Self {
            pinned,
            observed: observed.clone(),
        };
        (check, observed)
    }

    /// True if the key is the expected key. Called at each key exchange, also when a session is
    /// rekeyed.
    fn accepts(&self, key: PublicKey) -> bool {
        let mut observed = self.observed.keys();
        let expected = self.pinned.as_ref().or(observed.accepted.as_ref());
        let accepted = expected.is_none_or(|expected| expected.key_data() == key.key_data());
        if accepted {
            observed.accepted = Some(key);
        } else {
            observed.refused = Some(key);
        }
        accepted
    }
}

/// Host key in the format of `ssh-keygen -l`.
pub(crate) fn fingerprint(key: &PublicKey) -> String {
    format!("{} {}", key.algorithm(), key.fingerprint(HashAlg::Sha256))
}

/// Refuses all channels opened by the VM, by dropping the reply: no forwarding was requested.
impl Handler for HostKeyCheck {
    type Error = Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Error> {
        Ok(self.accepts(key.public_key()))
    }

    async fn server_channel_open_session(
        &mut self,
        _: Channel<Msg>,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Error> {
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        _: Channel<Msg>,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Error> {
        Ok(())
    }

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Error> {
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Error> {
        Ok(())
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Error> {
        Ok(())
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Error> {
        Ok(())
    }

    async fn server_channel_open_x11(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Error> {
        Ok(())
    }
}
