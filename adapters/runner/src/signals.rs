//! Signals as events of the supervisor.

use std::io;
use std::sync::mpsc::{SyncSender, TrySendError};

use signal_hook::consts::{SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

/// Event of a running container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The user's program ended with an exit status.
    Exited(i32),
    /// Stop request by a signal.
    Stop(i32),
    /// Request to send pending logs.
    Flush,
    /// The price history may have changed.
    Prices,
}

/// Installs a handler for SIGUSR2, sent by `--list`, whose default action ends the process. Must be
/// the first step of a runner.
pub(crate) fn guard() -> io::Result<Signals> {
    Signals::new([SIGUSR2])
}

/// Installs handlers for the other signals, and sends all signals as events from a separate thread.
pub(crate) fn watch(mut signals: Signals, events: SyncSender<Event>) -> io::Result<()> {
    for signal in [SIGTERM, SIGINT, SIGQUIT, SIGUSR1] {
        signals.add_signal(signal)?;
    }
    let thread = std::thread::Builder::new().name("signals".to_owned());
    thread.spawn(move || {
        for signal in signals.forever() {
            let gone = match signal {
                // A repeated flush or price event may be dropped, a stop event never.
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
