//! What happened, line by line: the last few always, all of it when asked for.

use std::collections::VecDeque;

use longshore_core::command::Command;
use longshore_core::config::{Config, Seed};
use longshore_core::event::Event;
use longshore_core::input::{Answer, Input};
use longshore_core::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Lines kept to be shown beside a violation.
const LINES_KEPT: usize = 60;

/// One line of a trace.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    /// A dispatcher process begins.
    Begin {
        process: usize,
        config: Box<Config>,
        seed: Seed,
    },
    /// It learns something.
    Input { process: usize, input: Input },
    /// Its deadlines pass.
    Timeout { process: usize },
    /// It asks for something.
    Command { process: usize, command: Command },
    /// It tells something.
    Event { process: usize, event: Event },
    /// A fingerprint of all that it knows.
    State { process: usize, hash: u64 },
    /// It is no more.
    End { process: usize },
    /// The world did something.
    Note(String),
}

/// A line with its time.
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

/// Where lines go.
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
    /// Keeps everything.
    pub(crate) fn full() -> Self {
        Self {
            all: Some(Vec::new()),
            ..Self::default()
        }
    }

    /// Keeps nothing: no line is even made, since a run can be repeated.
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

    /// The last lines, readable.
    pub(crate) fn tail(&self) -> Vec<String> {
        self.last.iter().map(Stamped::text).collect()
    }

    /// Everything, one JSON object a line; nothing unless it was kept.
    pub(crate) fn take_all(&mut self) -> Vec<String> {
        self.all.take().unwrap_or_default()
    }
}
