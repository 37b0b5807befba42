//! Supervision of a running container until the end of its program.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::signals::Event;

/// Maximum time for killing processes left after the end of the program.
const LEFTOVERS_MAX: Duration = Duration::from_secs(5);

/// Reason for stopping a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Signal from the dispatcher.
    Signal(i32),
    /// Time limit exceeded.
    TimeLimit,
}

/// End of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    /// Exit status; 128 + N for signal N.
    pub(crate) code: i32,
    /// First reason for a stop, if any.
    pub(crate) stop: Option<Stop>,
    /// True if a process was killed at the memory limit.
    pub(crate) out_of_memory: bool,
}

/// Time limits of one container.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) run_time_max: Option<Duration>,
    /// Delay from TERM to KILL after the time limit. A TERM from outside is never followed by a
    /// KILL of the runner: the dispatcher escalates.
    pub(crate) term_grace: Duration,
}

/// Handles events until the program has ended and no process is left. Calls `on_idle_event` for
/// flush and price events.
pub(crate) fn supervise(
    engine: &mut dyn Engine,
    events: &Receiver<Event>,
    limits: Limits,
    say: &dyn Fn(&str),
    on_idle_event: &dyn Fn(Event),
) -> End {
    let mut stop = None;
    let mut terminated = false;
    let mut deadline = limits
        .run_time_max
        .and_then(|limit| Instant::now().checked_add(limit));
    let code = loop {
        let event = match deadline {
            Some(at) => events.recv_timeout(at.saturating_duration_since(Instant::now())),
            None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match event {
            Ok(Event::Exited(code)) => break code,
            Ok(Event::Stop(signal)) => {
                stop.get_or_insert(Stop::Signal(signal));
                say(&format!("received signal {signal}: stopping the container"));
                engine.terminate();
            }
            Ok(event) => on_idle_event(event),
            Err(RecvTimeoutError::Timeout) if terminated => {
                say("the container ignores TERM: killing the container");
                if let Err(pids) = engine.kill(LEFTOVERS_MAX) {
                    say(&format!("these processes cannot be killed: {pids:?}"));
                }
                deadline = Instant::now().checked_add(Duration::from_secs(1));
            }
            Err(RecvTimeoutError::Timeout) => {
                stop.get_or_insert(Stop::TimeLimit);
                terminated = true;
                say("the container's time limit is reached: stopping the container");
                engine.terminate();
                deadline = Instant::now().checked_add(limits.term_grace);
            }
            // The threads run as long as the program: without them no event can arrive.
            Err(RecvTimeoutError::Disconnected) => break 255,
        }
    };
    if let Err(pids) = engine.kill(LEFTOVERS_MAX) {
        say(&format!(
            "these processes of the container cannot be killed: {pids:?}"
        ));
    }
    End {
        code,
        stop,
        out_of_memory: engine.finish(),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::mpsc;

    use super::*;
    use crate::engine::{EngineError, Started};

    /// Engine whose program ends only when killed, and then sends the exit event.
    struct Stubborn {
        calls: RefCell<Vec<&'static str>>,
        exit: mpsc::SyncSender<Event>,
    }

    impl Engine for Stubborn {
        fn prepare(&mut self) -> Result<(), EngineError> {
            Ok(())
        }

        fn start(&mut self) -> Result<Started, EngineError> {
            Err(EngineError::Unknown(String::new()))
        }

        fn terminate(&self) {
            self.calls.borrow_mut().push("terminate");
        }

        fn kill(&self, _: Duration) -> Result<(), Vec<i32>> {
            self.calls.borrow_mut().push("kill");
            let _ = self.exit.try_send(Event::Exited(137));
            Ok(())
        }

        fn finish(&mut self) -> bool {
            self.calls.borrow_mut().push("finish");
            false
        }
    }

    fn run(run_time_max: Option<Duration>, sent: &[Event]) -> (End, Vec<&'static str>) {
        let (exit, events) = mpsc::sync_channel(8);
        sent.iter()
            .for_each(|event| exit.try_send(*event).unwrap_or_default());
        let mut engine = Stubborn {
            calls: RefCell::default(),
            exit,
        };
        let limits = Limits {
            run_time_max,
            term_grace: Duration::from_millis(5),
        };
        let end = supervise(&mut engine, &events, limits, &|_| {}, &|_| {});
        (end, engine.calls.into_inner())
    }

    #[test]
    fn time_limit_escalates_to_kill() {
        let (end, calls) = run(Some(Duration::from_millis(5)), &[]);
        assert_eq!((end.stop, end.code), (Some(Stop::TimeLimit), 137));
        assert_eq!(calls, ["terminate", "kill", "kill", "finish"]);
    }

    #[test]
    fn signal_is_forwarded_without_escalation() {
        let (end, calls) = run(
            None,
            &[Event::Stop(15), Event::Stop(15), Event::Exited(143)],
        );
        assert_eq!((end.stop, end.code), (Some(Stop::Signal(15)), 143));
        assert_eq!(calls, ["terminate", "terminate", "kill", "finish"]);
    }
}
