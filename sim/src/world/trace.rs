//! Trace of a run, line by line: always the last lines, the whole run on request.

use std::collections::VecDeque;

use longshore_core::command::Command;
use longshore_core::config::{Config, Seed};
use longshore_core::event::Event;
use longshore_core::input::{Answer, Input};
use longshore_core::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Number of lines kept for the report of a violation.
const LINES_KEPT: usize = 60;

/// Line of a trace.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    /// Start of a dispatcher process.
    Begin {
        process: usize,
        config: Box<Config>,
        seed: Seed,
    },
    /// Input of a process.
    Input { process: usize, input: Input },
    /// Pass of a process's deadlines.
    Timeout { process: usize },
    /// Command of a process.
    Command { process: usize, command: Command },
    /// Event of a process.
    Event { process: usize, event: Event },
    /// Hash of a process's complete state.
    State { process: usize, hash: u64 },
    /// End of a process.
    End { process: usize },
    /// Note on a change in the world.
    Note(String),
}

/// Trace line with its time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Stamped {
    pub(crate) at: Timestamp,
    #[serde(flatten)]
    pub(crate) line: Line,
}

impl Stamped {
    pub(crate) fn text(&self) -> String {
        let what = match &self.line {
            Line::Begin { process, .. } => format!("p{process} begins"),
            Line::Input { process, input } => format!("p{process} <- {}", brief(input)),
            Line::Timeout { process } => format!("p{process} <- timeout"),
            Line::Command { process, command } => {
                format!("p{process} -> #{} {:?}", command.id.0, command.action)
            }
            Line::Event { process, event } => format!("p{process}  * {event}"),
            Line::State { process, hash } => format!("p{process} state {hash:016x}"),
            Line::End { process } => format!("p{process} ends"),
            Line::Note(text) => format!("       {text}"),
        };
        let since = self.at.since(crate::world::events::START);
        format!("{:>12.3} {what}", since.as_secs_f64())
    }
}

fn brief(input: &Input) -> String {
    match input {
        Input::Answer { id, answer } => match answer {
            Answer::Containers(Ok(list)) => format!("#{} {} containers", id.0, list.len()),
            Answer::Instances(Ok(list)) => format!("#{} {} instances", id.0, list.len()),
            other => format!("#{} {other:?}", id.0),
        },
        Input::Reconfigured(config) => format!("new configuration, {} types", config.types.len()),
        other => format!("{other:?}"),
    }
}

/// Sink of trace lines.
#[derive(Debug)]
pub(crate) struct Trace {
    last: VecDeque<Stamped>,
    last_max: usize,
    all: Option<Vec<String>>,
}

/// Keeps the last lines.
impl Default for Trace {
    fn default() -> Self {
        Self {
            last: VecDeque::new(),
            last_max: LINES_KEPT,
            all: None,
        }
    }
}

impl Trace {
    /// Creates a trace with all lines kept.
    pub(crate) fn full() -> Self {
        Self {
            all: Some(Vec::new()),
            ..Self::default()
        }
    }

    /// Creates a trace with no lines kept or even built; a run can be repeated with a trace.
    pub(crate) fn silent() -> Self {
        Self {
            last_max: 0,
            ..Self::default()
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.all.is_some()
    }

    pub(crate) fn line(&mut self, at: Timestamp, line: impl FnOnce() -> Line) {
        if self.last_max == 0 && self.all.is_none() {
            return;
        }
        let stamped = Stamped { at, line: line() };
        if let Some(all) = &mut self.all {
            let text = serde_json::to_string(&stamped);
            all.push(
                text.unwrap_or_else(|error| format!("{{\"unwritable\":{:?}}}", error.to_string())),
            );
        }
        if self.last.len() >= self.last_max {
            self.last.pop_front();
        }
        self.last.push_back(stamped);
    }

    /// Returns the last lines as readable text.
    pub(crate) fn tail(&self) -> Vec<String> {
        self.last.iter().map(Stamped::text).collect()
    }

    /// Returns all lines as JSON objects, an object per line; empty without a full trace.
    pub(crate) fn take_all(&mut self) -> Vec<String> {
        self.all.take().unwrap_or_default()
    }
}
