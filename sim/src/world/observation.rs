//! Observations of a run, made by the world and judged by an observer.

use std::fmt;

use longshore_core::command::Command;
use longshore_core::event::Event;
use longshore_core::ids::{ContainerId, InstanceId};
use longshore_core::input::Input;

use crate::world::World;
use crate::world::coverage::CoverageMark;
use crate::world::events::{Origin, RunnerId};

/// One fact about a run. The number of a dispatcher process is 0, or 1 for a second leader.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Observation<'a> {
    /// A process starts, with a new core.
    Begin { process: usize },
    /// A process is about to take an input.
    Input { process: usize, input: &'a Input },
    /// A process has seen its deadlines pass.
    Timeout { process: usize },
    /// A process sends a command, with the deadline in the time of the world.
    Command {
        process: usize,
        command: &'a Command,
    },
    /// A process emits an event.
    Event { process: usize, event: &'a Event },
    /// A command is about to take effect on the queue, the cloud or a VM.
    Arrival { from: Origin, command: &'a Command },
    /// The user process of a container has started, beside `other` if `other` still runs.
    ProgramStart {
        container: ContainerId,
        runner: RunnerId,
        other: Option<RunnerId>,
    },
    /// A new instance has the id of a dead instance.
    IdReused { instance: &'a InstanceId },
    /// Time for checks too expensive for every event.
    Look,
    /// All work is done and the world has been quiet for a while.
    AtRest,
}

/// Findings on one observation.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) violations: Vec<(&'static str, String)>,
    pub(crate) marks: Vec<CoverageMark>,
}

impl Findings {
    /// Reports a broken rule.
    pub(crate) fn violate(&mut self, rule: &'static str, what: String) {
        self.violations.push((rule, what));
    }

    /// Counts a coverage mark.
    pub(crate) fn mark(&mut self, mark: CoverageMark) {
        self.marks.push(mark);
    }
}

/// Receiver of all observations of a run. Reads the world and never changes the world.
pub(crate) trait Observer: fmt::Debug {
    /// Judges an observation and adds to `findings`.
    fn observe(&mut self, world: &World, observation: Observation<'_>, findings: &mut Findings);
}

impl World {
    /// Shows an observation to the observer and records the findings.
    pub(crate) fn observe(&mut self, observation: Observation<'_>) {
        let Some(mut observer) = self.observer.take() else {
            return;
        };
        let mut findings = Findings::default();
        observer.observe(self, observation, &mut findings);
        self.observer = Some(observer);
        for mark in findings.marks {
            self.scheduler.mark(mark);
        }
        for (rule, what) in findings.violations {
            self.scheduler.violate(rule, what);
        }
    }
}
