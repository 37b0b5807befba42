//! Replay of a saved trace: the core must emit the same commands, events and fingerprints, line by
//! line. A journal of the daemon is replayed too: commands and checksums must be the same.

use std::collections::{BTreeMap, VecDeque};

use longshore_core::Dispatcher;
use longshore_core::command::Command;

use longshore_journal as journal;

use crate::world::core_hook::CoreHook;
use crate::world::trace::{Line, Stamped};

/// Failure of a replay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// A line does not parse: the file was not written by `--trace`, or by another version.
    #[error("line {line} is not a line of a trace: {why}")]
    Unreadable {
        /// Line number, from 1.
        line: usize,
        /// Message of the JSON parser.
        why: String,
    },
    /// The journal is damaged or of another format.
    #[error("{0}")]
    Journal(String),
    /// The core behaved differently: the code has changed since, or is not deterministic.
    #[error("line {line}: the file has {expected}, the core {found}")]
    Differs {
        /// Line number, from 1.
        line: usize,
        /// Value in the trace.
        expected: String,
        /// Value produced by the core.
        found: String,
    },
}

/// Core, with the commands polled ahead of the corresponding trace lines.
struct Replayed {
    core: Dispatcher,
    held: VecDeque<Command>,
}

impl Replayed {
    /// Polls the core for commands: events become available only after a decision of the core.
    fn decide(&mut self) {
        self.held.extend(self.core.poll_command());
    }
}

/// Replays a trace or a journal, and returns the number of lines or steps compared.
///
/// # Errors
/// An error for the first unreadable line, or for the first difference.
pub fn replay(text: &str) -> Result<usize, ReplayError> {
    replay_with(text, None)
}

/// Replays with a hook on every core; the hook must be the same as in the recorded run.
pub(crate) fn replay_with(text: &str, hook: Option<&CoreHook>) -> Result<usize, ReplayError> {
    if text.lines().next().is_some_and(journal::is_header) {
        return replay_journal(text, hook);
    }
    let mut cores: BTreeMap<usize, Replayed> = BTreeMap::new();
    let mut compared = 0;
    for (index, row) in text.lines().enumerate() {
        let line = index + 1;
        let stamped: Stamped =
            serde_json::from_str(row).map_err(|error| ReplayError::Unreadable {
                line,
                why: error.to_string(),
            })?;
        let outcome = one(&mut cores, stamped, hook);
        match outcome {
            Ok(counts) => compared += usize::from(counts),
            Err((expected, found)) => {
                return Err(ReplayError::Differs {
                    line,
                    expected,
                    found,
                });
            }
        }
    }
    Ok(compared)
}

/// Replays a journal of the daemon: compares commands and verifies checksums. A journal contains no
/// events and no fingerprints.
fn replay_journal(text: &str, hook: Option<&CoreHook>) -> Result<usize, ReplayError> {
    let prepare = |core: &mut Dispatcher| {
        if let Some(hook) = hook {
            hook(core);
        }
    };
    let broken = |error: journal::ReplayError| ReplayError::Journal(error.to_string());
    match journal::replay_lines(text.as_bytes(), prepare, |_| {}).map_err(broken)? {
        journal::Verdict::Same { steps, .. } => Ok(usize::try_from(steps).unwrap_or(usize::MAX)),
        journal::Verdict::Different {
            line,
            written,
            replayed,
            ..
        } => Err(ReplayError::Differs {
            line: usize::try_from(line).unwrap_or(usize::MAX),
            expected: format!("{written:?}"),
            found: format!("{replayed:?}"),
        }),
    }
}

/// Replays one line. Returns true if the line was compared; the error contains the expected and the
/// found value.
fn one(
    cores: &mut BTreeMap<usize, Replayed>,
    row: Stamped,
    hook: Option<&CoreHook>,
) -> Result<bool, (String, String)> {
    let at = row.at;
    match row.line {
        Line::Begin {
            process,
            config,
            seed,
        } => {
            let mut core = Dispatcher::new(*config, seed, at);
            if let Some(hook) = hook {
                hook(&mut core);
            }
            let held = VecDeque::new();
            cores.insert(process, Replayed { core, held });
        }
        Line::End { process } => {
            cores.remove(&process);
        }
        Line::Input { process, input } => {
            if let Some(replayed) = cores.get_mut(&process) {
                replayed.core.handle_input(at, input);
            }
        }
        Line::Timeout { process } => {
            if let Some(replayed) = cores.get_mut(&process) {
                replayed.core.handle_timeout(at);
            }
        }
        Line::Event { process, event } => {
            let Some(replayed) = cores.get_mut(&process) else {
                return Ok(false);
            };
            replayed.decide();
            let found = replayed.core.poll_event();
            return same(Some(event), found);
        }
        Line::Command { process, command } => {
            let Some(replayed) = cores.get_mut(&process) else {
                return Ok(false);
            };
            if replayed.held.is_empty() {
                replayed.decide();
            }
            return same(Some(command), replayed.held.pop_front());
        }
        Line::State { process, hash } => {
            let Some(replayed) = cores.get_mut(&process) else {
                return Ok(false);
            };
            replayed.decide();
            same(None, replayed.held.pop_front())?;
            return same(hash, replayed.core.state_hash());
        }
        Line::Note(_) => {}
    }
    Ok(false)
}

fn same<T: PartialEq + std::fmt::Debug>(expected: T, found: T) -> Result<bool, (String, String)> {
    if expected == found {
        Ok(true)
    } else {
        Err((format!("{expected:?}"), format!("{found:?}")))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use longshore_core::input::Input;

    use super::*;
    use crate::run::run;
    use crate::world::plan::{Plan, Profile};

    #[test]
    fn replay_own_trace_matches() {
        for seed in 0..10 {
            let trace = run(&Plan::generate(seed, Profile::Lite), true).trace;
            let compared = replay(&trace.join("\n"));
            assert!(matches!(compared, Ok(lines) if lines > 100), "{compared:?}");
        }
    }

    /// Journal in the format of the daemon, of a core with few inputs.
    fn journal_of_a_short_run() -> String {
        let directory = std::env::temp_dir().join(format!("longshore-sim-{}", std::process::id()));
        let start = crate::world::events::START;
        let (config, seed) = (Plan::calm(1).config, [7; 32]);
        let header = journal::Header::new(&config, seed, start);
        let mut writer = journal::Writer::create(&directory, &header).expect("journal is writable");
        let mut core = Dispatcher::new(config, seed, start);
        for seconds in 0..30 {
            let now = start + Duration::from_secs(seconds * 10);
            let inputs = match seconds {
                0 => vec![Input::Leadership { held: true }],
                _ => vec![Input::QueueChanged],
            };
            let commands = journal::Step::apply(&mut core, now, inputs.clone());
            while core.poll_event().is_some() {}
            let step = journal::Step::new(now, inputs, commands);
            writer.step(step).expect("journal is writable");
        }
        let text = std::fs::read_to_string(&writer.path).expect("journal file exists");
        std::fs::remove_dir_all(&directory).expect("directory can be removed");
        text
    }

    #[test]
    fn replay_changed_journal_detected() {
        let text = journal_of_a_short_run();
        assert_eq!(replay(&text), Ok(30));
        let other = text.replacen(
            "\"Poll\":{\"queued_max\":10000}",
            "\"Poll\":{\"queued_max\":9}",
            1,
        );
        assert_ne!(other, text, "journal contains the first poll");
        let differs = replay(&other);
        assert!(
            matches!(differs, Err(ReplayError::Differs { line: 2, .. })),
            "{differs:?}"
        );
        let without_a_line: Vec<&str> = text
            .lines()
            .enumerate()
            .filter(|(line, _)| *line != 20)
            .map(|(_, row)| row)
            .collect();
        let lost = replay(&(without_a_line.join("\n") + "\n"));
        assert!(lost.is_err(), "{lost:?}");
        let newer = replay(&text.replacen("\"version\":1", "\"version\":2", 1));
        assert!(matches!(newer, Err(ReplayError::Journal(_))), "{newer:?}");
    }

    #[test]
    fn replay_changed_trace_detected() {
        let mut trace = run(&Plan::generate(3, Profile::Lite), true).trace;
        let last = trace.iter().rposition(|row| row.contains("\"state\":"));
        let last = last.expect("trace contains a fingerprint");
        trace[last] = r#"{"at":1,"state":{"process":0,"hash":7}}"#.to_owned();
        let differs = replay(&trace.join("\n"));
        assert!(
            matches!(differs, Err(ReplayError::Differs { line, .. }) if line == last + 1),
            "{differs:?}"
        );
        let unreadable = replay("not a trace");
        assert!(matches!(
            unreadable,
            Err(ReplayError::Unreadable { line: 1, .. })
        ));
    }
}
