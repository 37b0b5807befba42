//! Signals as events of the supervisor.

use std::io;
use std::sync::mpsc::{SyncSender, TrySendError};

use signal_hook::consts::{SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

/// What happens to a running container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The user's program ended with this status.
    Exited(i32),
    /// Somebody wants the container to stop: the signal.
    Stop(i32),
    /// Send what is logged so far.
    Flush,
    /// The price history may have changed.
    Prices,
}

/// Takes over SIGUSR2, which a `--list` sends and which would end a process that does not expect it.
/// Must be the first thing a runner does.
pub(crate) fn guard() -> io::Result<Signals> {
    Signals::new([SIGUSR2])
}

/// Takes over the other signals, and sends all as events from a thread of its own.
pub(crate) fn watch(mut signals: Signals, events: SyncSender<Event>) -> io::Result<()> {
    for signal in [SIGTERM, SIGINT, SIGQUIT, SIGUSR1] {
        signals.add_signal(signal)?;
    }
    let thread = std::thread::Builder::new().name("signals".to_owned());
    thread.spawn(move || {
        for signal in signals.forever() {
            let gone = match signal {
                // A repeated wish for flushing or prices may be lost, a wish to stop never.
                SIGUSR1 => matches!(
                    events.try_send(Event::Flush),
                    Err(TrySendError::Disconnected(_))
                ),
                SIGUSR2 => matches!(
                    events.try_send(Event::Prices),
                    Err(TrySendError::Disconnected(_))
                ),
                signal => events.send(Event::Stop(signal)).is_err(),
            };
            if gone {
                return;
            }
        }
    })?;
    Ok(())
}
