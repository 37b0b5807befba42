//! The way to one VM: up, being made, or down and not to be tried before some time.

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
/// Before the first success, when the VM is probably still booting.
const BACKOFF_BOOTING_MAX: Duration = Duration::from_secs(2);

/// The way to one VM, shared by all who want to go there.
pub(crate) struct Link {
    dialer: Arc<Dialer>,
    state: Mutex<State>,
}

struct State {
    /// Where the VM was last said to be.
    address: Option<Address>,
    /// The host key it was first seen with, once its identity was proved.
    pin: Option<PublicKey>,
    way: Way,
    /// Goes up when an attempt is no longer wanted, so that its result is not taken over.
    epoch: u64,
    backoff: Backoff,
    forgotten: bool,
}

enum Way {
    Down,
    Connecting(Attempt),
    Up(Arc<Connection>),
}

type Outcome = Result<Arc<Connection>, VmError>;

struct Attempt {
    outcome: watch::Receiver<Option<Outcome>>,
    task: AbortHandle,
}

impl Link {
    pub(crate) fn new(dialer: Arc<Dialer>) -> Arc<Self> {
        Arc::new(Self {
            dialer,
            state: Mutex::new(State {
                address: None,
                pin: None,
                way: Way::Down,
                epoch: 0,
                backoff: Backoff::default(),
                forgotten: false,
            }),
        })
    }

    /// A connection to this address, the one that is there or a new one. An attempt goes on when
    /// nobody waits for it any more, so that a short deadline does not keep a slow VM from ever
    /// being reached.
    pub(crate) async fn connection(
        self: &Arc<Self>,
        address: &Address,
        secret: &Secret,
        deadline: Instant,
    ) -> Outcome {
        loop {
            let (mut outcome, epoch) = match self.look(address, secret)? {
                Found::Connection(connection) => return Ok(connection),
                Found::Attempt(outcome, epoch) => (outcome, epoch),
            };
            match timeout_at(deadline, outcome.wait_for(Option::is_some)).await {
                Ok(Ok(done)) => {
                    if let Some(done) = done.as_ref() {
                        return done.clone();
                    }
                }
                // Called off, because the address changed or the instance was forgotten, or failed
                // without a word.
                Ok(Err(_)) => self.broke_off(epoch),
                Err(_) => {
                    return Err(VmError::Unreachable(format!(
                        "still connecting to {address} at the deadline"
                    )));
                }
            }
        }
    }

    fn look(self: &Arc<Self>, address: &Address, secret: &Secret) -> Result<Found, VmError> {
        let mut state = self.state();
        if state.forgotten {
            return Err(VmError::Unreachable("the instance was given up".into()));
        }
        if state.address.as_ref() != Some(address) {
            // What runs over the old connection may end; it closes itself then.
            state.leave();
            state.backoff = Backoff::default();
            state.address = Some(address.clone());
        }
        match &state.way {
            Way::Up(connection) if connection.is_usable() => {
                return Ok(Found::Connection(Arc::clone(connection)));
            }
            Way::Connecting(attempt) => {
                return Ok(Found::Attempt(attempt.outcome.clone(), state.epoch));
            }
            Way::Up(_) | Way::Down => {}
        }
        state.backoff.check(Instant::now())?;
        let attempt = self.attempt(&state, address.clone(), secret.clone());
        let outcome = attempt.outcome.clone();
        state.way = Way::Connecting(attempt);
        Ok(Found::Attempt(outcome, state.epoch))
    }

    fn attempt(self: &Arc<Self>, state: &State, address: Address, secret: Secret) -> Attempt {
        let (sender, outcome) = watch::channel(None);
        let (link, epoch, pin) = (Arc::clone(self), state.epoch, state.pin.clone());
        let task = tokio::spawn(async move {
            let dialed = link.dialer.dial(&address, pin.as_ref(), &secret).await;
            if let Some(outcome) = link.settle(epoch, &address, dialed) {
                sender.send_replace(Some(outcome));
            }
        });
        Attempt {
            outcome,
            task: task.abort_handle(),
        }
    }

    fn settle(
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
                state.way = Way::Up(Arc::clone(&connection));
                Ok(connection)
            }
            Err(error) => {
                tracing::debug!(%address, %error, "not connected");
                state.fail(error.clone());
                Err(error)
            }
        })
    }

    /// Clears away an attempt that ended without an outcome.
    fn broke_off(&self, epoch: u64) {
        let mut state = self.state();
        if state.epoch == epoch && matches!(state.way, Way::Connecting(_)) {
            state.epoch += 1;
            state.fail(VmError::Unreachable(
                "the attempt to connect broke off".into(),
            ));
        }
    }

    /// Drops the connection with what runs on it, and everything that is known about the VM.
    pub(crate) fn forget(&self) {
        let mut state = self.state();
        if let Way::Up(connection) = &state.way {
            connection.close();
        }
        state.leave();
        state.pin = None;
        state.forgotten = true;
    }

    /// The host key that the VM was first seen with, once its identity was proved.
    pub(crate) fn pin(&self) -> Option<PublicKey> {
        self.state().pin.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn leave(&mut self) {
        if let Way::Connecting(attempt) = &self.way {
            attempt.task.abort();
        }
        self.way = Way::Down;
        self.epoch += 1;
    }

    fn fail(&mut self, error: VmError) {
        self.way = Way::Down;
        let reached = self.pin.is_some();
        self.backoff.failed(error, Instant::now(), reached);
    }
}

enum Found {
    Connection(Arc<Connection>),
    Attempt(watch::Receiver<Option<Outcome>>, u64),
}

/// How long to leave a VM alone that could not be reached.
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
        // Beyond this the doubling has long passed the maximum.
        let doublings = self.failures.min(10);
        self.failures += 1;
        self.last = Some((error, now + (BACKOFF_MIN * (1 << doublings)).min(max)));
    }

    /// The last error with the time to wait, while there is any.
    fn check(&self, now: Instant) -> Result<(), VmError> {
        let Some((error, until)) = self.last.as_ref().filter(|(_, until)| now < *until) else {
            return Ok(());
        };
        let wait = until.duration_since(now).as_secs_f32();
        let later = |why: &str| format!("{why}; not tried again for {wait:.1} s");
        Err(match error {
            VmError::Unreachable(why) => VmError::Unreachable(later(why)),
            VmError::IdentityMismatch(why) => VmError::IdentityMismatch(later(why)),
            VmError::Failed(why) => VmError::Failed(later(why)),
            VmError::Lost(why) => VmError::Lost(later(why)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(reached: bool) -> Vec<u64> {
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
    fn waits_double_up_to_half_a_minute() {
        assert_eq!(
            waits(true)[..7],
            [500, 1000, 2000, 4000, 8000, 16_000, 30_000]
        );
        assert_eq!(waits(true)[11], 30_000);
    }

    #[test]
    fn a_booting_vm_is_tried_every_two_seconds_at_least() {
        assert_eq!(waits(false)[..4], [500, 1000, 2000, 2000]);
        assert_eq!(waits(false)[11], 2000);
    }

    #[tokio::test]
    async fn within_the_wait_the_last_error_is_the_answer() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        assert_eq!(backoff.check(now), Ok(()));
        backoff.failed(VmError::IdentityMismatch("other key".into()), now, true);
        let said = backoff.check(now).unwrap_err();
        assert_eq!(
            said,
            VmError::IdentityMismatch("other key; not tried again for 0.5 s".into())
        );
        assert_eq!(backoff.check(now + BACKOFF_MIN), Ok(()));
    }
}
