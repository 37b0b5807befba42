//! Whom to let through: the host key of a VM, and nothing that a VM opens by itself.

use std::sync::{Arc, Mutex, PoisonError};

use russh::client::{ChannelOpenHandle, Handler, Msg, Session};
use russh::keys::{HashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{Channel, Error};

/// What a connection has seen of its peer, shared with whoever makes the connection.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<SeenKeys>>);

#[derive(Default)]
struct SeenKeys {
    accepted: Option<PublicKey>,
    refused: Option<PublicKey>,
}

impl Seen {
    /// The key that the peer has proved to hold.
    pub(crate) fn accepted(&self) -> Option<PublicKey> {
        self.keys().accepted.clone()
    }

    /// The key that was not the expected one.
    pub(crate) fn refused(&self) -> Option<PublicKey> {
        self.keys().refused.clone()
    }

    fn keys(&self) -> std::sync::MutexGuard<'_, SeenKeys> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Accepts the pinned host key, or, where there is none yet, the first one for the length of this
/// connection.
pub(crate) struct Gate {
    pinned: Option<PublicKey>,
    seen: Seen,
}

impl Gate {
    pub(crate) fn new(pinned: Option<PublicKey>) -> (Self, Seen) {
        let seen = Seen::default();
        let gate = Self {
            pinned,
            seen: seen.clone(),
        };
        (gate, seen)
    }

    /// Asked again at each renewal of the session's keys.
    fn admits(&self, key: PublicKey) -> bool {
        let mut seen = self.seen.keys();
        let expected = self.pinned.as_ref().or(seen.accepted.as_ref());
        let admitted = expected.is_none_or(|expected| expected.key_data() == key.key_data());
        if admitted {
            seen.accepted = Some(key);
        } else {
            seen.refused = Some(key);
        }
        admitted
    }
}

/// A host key as operators know it from `ssh-keygen -l`.
pub(crate) fn fingerprint(key: &PublicKey) -> String {
    format!("{} {}", key.algorithm(), key.fingerprint(HashAlg::Sha256))
}

/// What a VM opens by itself is refused, by dropping the reply: we asked for no forwarding.
impl Handler for Gate {
    type Error = Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Error> {
        Ok(self.admits(key.public_key()))
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
