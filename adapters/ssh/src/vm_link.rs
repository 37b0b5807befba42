//! Connection state of one VM: connected, connecting, or disconnected with back-off.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use longshore_core::input::VmError;
use longshore_secret::Secret;
use russh::keys::PublicKey;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

use crate::address::Address;
use crate::connection::{Connection, Dialer};

const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Maximum delay before the first success, while the VM is probably booting.
const BACKOFF_BOOTING_MAX: Duration = Duration::from_secs(2);

/// VmLink to one VM, shared by all callers.
pub(crate) struct VmLink {
    dialer: Arc<Dialer>,
    state: Mutex<State>,
}

struct State {
    /// Address last reported by the cloud.
    address: Option<Address>,
    /// Host key pinned when the identity was first verified.
    pin: Option<PublicKey>,
    connection: ConnectionState,
    /// Incremented when an attempt is obsolete. The result of an attempt with an older epoch is
    /// ignored.
    epoch: u64,
    backoff: Backoff,
    forgotten: bool,
}

enum ConnectionState {
    Down,
    Connecting(Attempt),
    Up(Arc<Connection>),
}

type Outcome = Result<Arc<Connection>, VmError>;

struct Attempt {
    outcome: watch::Receiver<Option<Outcome>>,
    task: AbortHandle,
}

impl VmLink {
    pub(crate) fn new(dialer: Arc<Dialer>) -> Arc<Self> {
        Arc::new(Self {
            dialer,
            state: Mutex::new(State {
                address: None,
                pin: None,
                connection: ConnectionState::Down,
                epoch: 0,
                backoff: Backoff::default(),
                forgotten: false,
            }),
        })
    }

    /// Returns the existing connection to an address, or dials. An attempt continues after all
    /// callers have timed out, so that a slow VM becomes reachable even with short deadlines.
    pub(crate) async fn connection(
        self: &Arc<Self>,
        address: &Address,
        secret: &Secret,
        deadline: Instant,
    ) -> Outcome {
        loop {
            let (mut outcome, epoch) = match self.find_or_dial(address, secret)? {
                FoundOrDialing::Connection(connection) => return Ok(connection),
                FoundOrDialing::Attempt(outcome, epoch) => (outcome, epoch),
            };
            match timeout_at(deadline, outcome.wait_for(Option::is_some)).await {
                Ok(Ok(done)) => {
                    if let Some(done) = done.as_ref() {
                        return done.clone();
                    }
                }
                // The attempt was aborted, because the address changed or the instance was
                // forgotten, or the task failed.
                Ok(Err(_)) => self.discard_attempt(epoch),
                Err(_) => {
                    return Err(VmError::Unreachable(format!(
                        "still connecting to {address} at the deadline"
                    )));
                }
            }
        }
    }

    fn find_or_dial(
        self: &Arc<Self>,
        address: &Address,
        secret: &Secret,
    ) -> Result<FoundOrDialing, VmError> {
        let mut state = self.state();
        if state.forgotten {
            return Err(VmError::Unreachable("the instance was forgotten".into()));
        }
        if state.address.as_ref() != Some(address) {
            // Commands on the old connection may end; the connection closes itself afterwards.
            state.disconnect();
            state.backoff = Backoff::default();
            state.address = Some(address.clone());
        }
        match &state.connection {
            ConnectionState::Up(connection) if connection.is_usable() => {
                return Ok(FoundOrDialing::Connection(Arc::clone(connection)));
            }
            ConnectionState::Connecting(attempt) => {
                return Ok(FoundOrDialing::Attempt(
                    attempt.outcome.clone(),
                    state.epoch,
                ));
            }
            ConnectionState::Up(_) | ConnectionState::Down => {}
        }
        state.backoff.check(Instant::now())?;
        let attempt = self.start_attempt(&state, address.clone(), secret.clone());
        let outcome = attempt.outcome.clone();
        state.connection = ConnectionState::Connecting(attempt);
        Ok(FoundOrDialing::Attempt(outcome, state.epoch))
    }

    fn start_attempt(self: &Arc<Self>, state: &State, address: Address, secret: Secret) -> Attempt {
        let (sender, outcome) = watch::channel(None);
        let (link, epoch, pin) = (Arc::clone(self), state.epoch, state.pin.clone());
        let task = tokio::spawn(async move {
            let dialed = link.dialer.dial(&address, pin.as_ref(), &secret).await;
            if let Some(outcome) = link.finish_attempt(epoch, &address, dialed) {
                sender.send_replace(Some(outcome));
            }
        });
        Attempt {
            outcome,
            task: task.abort_handle(),
        }
    }

    fn finish_attempt(
        &self,
        epoch: u64,
        address: &Address,
        dialed: Result<(Arc<Connection>, PublicKey), VmError>,
    ) -> Option<Outcome> {
        let mut state = self.state();
        if state.epoch != epoch || state.forgotten {
            if let Ok((connection, _)) = dialed {
                connection.close();
            }
            return None;
        }
        Some(match dialed {
            Ok((connection, key)) => {
                tracing::debug!(%address, first = state.pin.is_none(), "connected");
                state.pin.get_or_insert(key);
                state.backoff = Backoff::default();
                state.connection = ConnectionState::Up(Arc::clone(&connection));
                Ok(connection)
            }
            Err(error) => {
                tracing::debug!(%address, %error, "not connected");
                state.fail(error.clone());
                Err(error)
            }
        })
    }

    /// Removes an attempt that ended without an outcome.
    fn discard_attempt(&self, epoch: u64) {
        let mut state = self.state();
        if state.epoch == epoch && matches!(state.connection, ConnectionState::Connecting(_)) {
            state.epoch += 1;
            state.fail(VmError::Unreachable(
                "the task dialing the VM failed".into(),
            ));
        }
    }

    /// Drops the connection, running commands and all knowledge about the VM.
    pub(crate) fn forget(&self) {
        let mut state = self.state();
        if let ConnectionState::Up(connection) = &state.connection {
            connection.close();
        }
        state.disconnect();
        state.pin = None;
        state.forgotten = true;
    }

    /// Host key pinned when the identity was first verified.
    pub(crate) fn pin(&self) -> Option<PublicKey> {
        self.state().pin.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn disconnect(&mut self) {
        if let ConnectionState::Connecting(attempt) = &self.connection {
            attempt.task.abort();
        }
        self.connection = ConnectionState::Down;
        self.epoch += 1;
    }

    fn fail(&mut self, error: VmError) {
        self.connection = ConnectionState::Down;
        let reached = self.pin.is_some();
        self.backoff.failed(error, Instant::now(), reached);
    }
}

enum FoundOrDialing {
    Connection(Arc<Connection>),
    Attempt(watch::Receiver<Option<Outcome>>, u64),
}

/// Exponential back-off after failed attempts.
#[derive(Default)]
struct Backoff {
    failures: u32,
    last: Option<(VmError, Instant)>,
}

impl Backoff {
    fn failed(&mut self, error: VmError, now: Instant, reached: bool) {
        let max = if reached {
            BACKOFF_MAX
        } else {
            BACKOFF_BOOTING_MAX
        };
        // The maximum delay is reached long before ten doublings.
        let doublings = self.failures.min(10);
        self.failures += 1;
        self.last = Some((error, now + (BACKOFF_MIN * (1 << doublings)).min(max)));
    }

    /// Returns the last error, with the remaining delay, while backed off.
    fn check(&self, now: Instant) -> Result<(), VmError> {
        let Some((error, until)) = self.last.as_ref().filter(|(_, until)| now < *until) else {
            return Ok(());
        };
        let wait = until.duration_since(now).as_secs_f32();
        let backed_off = |why: &str| format!("{why}; not tried again for {wait:.1} s");
        Err(match error {
            VmError::Unreachable(why) => VmError::Unreachable(backed_off(why)),
            VmError::IdentityMismatch(why) => VmError::IdentityMismatch(backed_off(why)),
            VmError::Failed(why) => VmError::Failed(backed_off(why)),
            VmError::Lost(why) => VmError::Lost(backed_off(why)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delays(reached: bool) -> Vec<u64> {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        (0..12)
            .map(|_| {
                backoff.failed(VmError::Unreachable("refused".into()), now, reached);
                let (_, until) = backoff.last.as_ref().unwrap();
                until.duration_since(now).as_millis() as u64
            })
            .collect()
    }

    #[test]
    fn delays_double_up_to_30s() {
        assert_eq!(
            delays(true)[..7],
            [500, 1000, 2000, 4000, 8000, 16_000, 30_000]
        );
        assert_eq!(delays(true)[11], 30_000);
    }

    #[test]
    fn delays_of_booting_vm_stay_short() {
        assert_eq!(delays(false)[..4], [500, 1000, 2000, 2000]);
        assert_eq!(delays(false)[11], 2000);
    }

    #[tokio::test]
    async fn backed_off_link_returns_last_error() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        assert_eq!(backoff.check(now), Ok(()));
        backoff.failed(VmError::IdentityMismatch("other key".into()), now, true);
        let error = backoff.check(now).unwrap_err();
        assert_eq!(
            error,
            VmError::IdentityMismatch("other key; not tried again for 0.5 s".into())
        );
        assert_eq!(backoff.check(now + BACKOFF_MIN), Ok(()));
    }
}
