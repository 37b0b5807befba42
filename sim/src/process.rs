//! The dispatcher processes: they hold the core, and may die between any two commands.

use longshore_core::Dispatcher;
use longshore_core::config::Config;
use longshore_core::input::Input;
use longshore_core::time::Timestamp;

use crate::chance::Chance;
use crate::oracle::Ledger;
use crate::stage::{Happening, Origin, Stage};
use crate::tamper::Tamper;
use crate::trace::Line;

/// What happens to a process by itself.
#[derive(Clone, Debug)]
pub(crate) enum ProcessStep {
    /// The weather changes, perhaps.
    Tick,
    /// Its next deadline is due.
    Wake(u32),
    /// It drains its commands at last.
    Drain(u32),
    /// It is started, or started again.
    Restart,
    /// It is told whether it may act.
    Leader(u32, bool),
    /// It ends for good.
    Retire,
}

/// A dispatcher process, through its lives.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) incarnation: u32,
    pub(crate) core: Option<Dispatcher>,
    pub(crate) config: Config,
    pub(crate) ledger: Ledger,
    wake_at: Option<Timestamp>,
    pub(crate) drain_due: bool,
}

/// All processes.
#[derive(Debug)]
pub(crate) struct Processes {
    pub(crate) chance: Chance,
    pub(crate) all: Vec<Process>,
    pub(crate) inputs: u64,
    pub(crate) tamper: Tamper,
}

impl Processes {
    pub(crate) fn new(seed: u64, config: &Config) -> Self {
        let process = |_| Process {
            incarnation: 0,
            core: None,
            config: config.clone(),
            ledger: Ledger::default(),
            wake_at: None,
            drain_due: false,
        };
        Self {
            chance: Chance::new(seed, "process"),
            all: (0..2).map(process).collect(),
            inputs: 0,
            tamper: Tamper::default(),
        }
    }

    /// Where a command of this process comes from.
    pub(crate) fn origin(&self, index: usize) -> Origin {
        Origin {
            process: index,
            incarnation: self.all[index].incarnation,
        }
    }

    /// Processes that are up.
    pub(crate) fn up(&self) -> Vec<Origin> {
        let all = self.all.iter().enumerate();
        all.filter(|(_, process)| process.core.is_some())
            .map(|(index, _)| self.origin(index))
            .collect()
    }

    /// A process begins, knowing nothing.
    pub(crate) fn begin(&mut self, stage: &mut Stage, index: usize) {
        let seed = self.chance.seed();
        let process = &mut self.all[index];
        process.incarnation += 1;
        process.ledger = Ledger::default();
        process.wake_at = None;
        process.drain_due = false;
        let config = process.config.clone();
        let mut core = Dispatcher::new(config.clone(), seed, stage.now);
        self.tamper.apply(&mut core);
        process.core = Some(core);
        stage.trace.line(stage.now, || Line::Begin {
            process: index,
            config: Box::new(config),
            seed,
        });
    }

    /// A process is no more.
    pub(crate) fn end(&mut self, stage: &mut Stage, index: usize) {
        let process = &mut self.all[index];
        if process.core.take().is_some() {
            process.incarnation += 1;
            stage.trace.line(stage.now, || Line::End { process: index });
        }
    }

    /// The core hears something; commands are drained by the caller.
    pub(crate) fn hear(&mut self, stage: &mut Stage, index: usize, input: Input) {
        let process = &mut self.all[index];
        let Some(core) = &mut process.core else {
            return;
        };
        self.inputs += 1;
        process.ledger.hear(stage.now, &input);
        stage.trace.line(stage.now, || Line::Input {
            process: index,
            input: input.clone(),
        });
        core.handle_input(stage.now, input);
    }

    /// The core's deadlines pass, unless it has asked to be woken at another time since.
    pub(crate) fn wake(&mut self, stage: &mut Stage, index: usize) {
        let process = &mut self.all[index];
        if process.wake_at != Some(stage.now) {
            return;
        }
        process.wake_at = None;
        if let Some(core) = &mut process.core {
            stage
                .trace
                .line(stage.now, || Line::Timeout { process: index });
            core.handle_timeout(stage.now);
        }
    }

    /// Sees to it that the process is woken when it wants to.
    pub(crate) fn set_alarm(&mut self, stage: &mut Stage, index: usize) {
        let process = &mut self.all[index];
        let Some(core) = &process.core else { return };
        let Some((at, _)) = core.poll_timeout() else {
            return;
        };
        let at = at.max(stage.now);
        if process.wake_at.is_none_or(|set| at < set) {
            process.wake_at = Some(at);
            let wake = ProcessStep::Wake(process.incarnation);
            stage.at(at, Happening::Process(index, wake));
        }
    }
}
