//! Dispatcher processes: owners of the core, subject to a crash between any two commands.

use longshore_core::Dispatcher;
use longshore_core::config::Config;
use longshore_core::event::Event;
use longshore_core::input::{Answer, CloudError, Input};
use longshore_core::time::Timestamp;

use crate::world::core_hook::OptionalHook;
use crate::world::events::{Happening, Origin, ProcessStep};
use crate::world::faults::Fault;
use crate::world::rng::Rng;
use crate::world::scheduler::Scheduler;
use crate::world::trace::Line;

/// Dispatcher process across all incarnations.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) incarnation: u32,
    pub(crate) core: Option<Dispatcher>,
    pub(crate) config: Config,
    wake_at: Option<Timestamp>,
    pub(crate) drain_due: bool,
    /// Offset of the process clock from the world clock, in nanoseconds: constant within an
    /// incarnation.
    ahead: i64,
    /// End of the current stall.
    pub(crate) stalled_until: Timestamp,
}

impl Process {
    /// Converts a world time to a time of the process clock.
    pub(crate) fn clock(&self, world: Timestamp) -> Timestamp {
        shifted(world, self.ahead)
    }

    /// Converts a time of the process clock to a world time.
    pub(crate) fn world_time(&self, own: Timestamp) -> Timestamp {
        shifted(own, -self.ahead)
    }
}

fn shifted(at: Timestamp, nanos: i64) -> Timestamp {
    match at {
        Timestamp::NEVER => at,
        _ => Timestamp::from_nanos(at.as_nanos().saturating_add_signed(nanos)),
    }
}

/// Maximum offset of a clock, in nanoseconds.
const AHEAD_MAX: u64 = 6 * 3600 * 1_000_000_000;

/// All processes.
#[derive(Debug)]
pub(crate) struct Processes {
    pub(crate) rng: Rng,
    /// Random stream of configuration changes during a run.
    pub(crate) wishes: Rng,
    pub(crate) all: Vec<Process>,
    pub(crate) inputs: u64,
    pub(crate) core_hook: OptionalHook,
}

impl Processes {
    pub(crate) fn new(seed: u64, config: &Config) -> Self {
        let process = |_| Process {
            incarnation: 0,
            core: None,
            config: config.clone(),
            wake_at: None,
            drain_due: false,
            ahead: 0,
            stalled_until: Timestamp::EPOCH,
        };
        Self {
            rng: Rng::new(seed, "process"),
            wishes: Rng::new(seed, "process: wishes"),
            all: (0..2).map(process).collect(),
            inputs: 0,
            core_hook: OptionalHook::default(),
        }
    }

    /// Returns the origin for commands of the process.
    pub(crate) fn origin(&self, index: usize) -> Origin {
        Origin {
            process: index,
            incarnation: self.all[index].incarnation,
        }
    }

    /// Returns the running processes.
    pub(crate) fn up(&self) -> Vec<Origin> {
        let all = self.all.iter().enumerate();
        all.filter(|(_, process)| process.core.is_some())
            .map(|(index, _)| self.origin(index))
            .collect()
    }

    /// Starts a process with an empty state.
    pub(crate) fn begin(&mut self, scheduler: &mut Scheduler, index: usize) {
        let seed = self.rng.seed();
        let process = &mut self.all[index];
        if scheduler.faults.strikes(&mut self.rng, Fault::ClockSteps) {
            let off = i64::try_from(self.rng.below(2 * AHEAD_MAX)).unwrap_or(0);
            process.ahead = off - i64::try_from(AHEAD_MAX).unwrap_or(0);
            let ahead = process.ahead / 1_000_000_000;
            scheduler.note(|| format!("the clock of process {index} is {ahead} s ahead now"));
        }
        process.stalled_until = Timestamp::EPOCH;
        process.incarnation += 1;
        process.wake_at = None;
        process.drain_due = false;
        let config = process.config.clone();
        let now = process.clock(scheduler.now);
        let mut core = Dispatcher::new(config.clone(), seed, now);
        self.core_hook.apply(&mut core);
        process.core = Some(core);
        scheduler.trace.line(now, || Line::Begin {
            process: index,
            config: Box::new(config),
            seed,
        });
    }

    /// Ends a process.
    pub(crate) fn end(&mut self, scheduler: &mut Scheduler, index: usize) {
        let process = &mut self.all[index];
        if process.core.take().is_some() {
            process.incarnation += 1;
            scheduler
                .trace
                .line(scheduler.now, || Line::End { process: index });
        }
    }

    /// Feeds an input to the core; the caller drains the commands.
    pub(crate) fn hear(&mut self, scheduler: &mut Scheduler, index: usize, input: Input) {
        let process = &mut self.all[index];
        let Some(core) = &mut process.core else {
            return;
        };
        self.inputs += 1;
        if let Input::Reconfigured(config) = &input {
            process.config.clone_from(config);
        }
        let now = shifted(scheduler.now, process.ahead);
        let input = by_own_clock(input, process.ahead);
        scheduler.trace.line(now, || Line::Input {
            process: index,
            input: input.clone(),
        });
        core.handle_input(now, input);
    }

    /// Returns the next event of the core.
    pub(crate) fn event(&mut self, index: usize) -> Option<Event> {
        self.all[index].core.as_mut()?.poll_event()
    }

    /// True if a requested wake-up is due and not yet delivered.
    pub(crate) fn is_wake_due(&self, scheduler: &Scheduler, index: usize) -> bool {
        let wake_at = self.all[index].wake_at;
        wake_at.is_some_and(|at| at <= scheduler.now)
    }

    /// Defers a due wake-up of a stalled process to the end of the stall.
    pub(crate) fn put_off(&mut self, scheduler: &mut Scheduler, index: usize) {
        let process = &mut self.all[index];
        if process.wake_at == Some(scheduler.now) {
            process.wake_at = Some(process.stalled_until);
            let wake = ProcessStep::Wake(process.incarnation);
            scheduler.at(process.stalled_until, Happening::Process(index, wake));
        }
    }

    /// Passes the core's deadlines, unless the core has since requested another wake-up time. True if
    /// the deadlines have passed.
    pub(crate) fn wake(&mut self, scheduler: &mut Scheduler, index: usize) -> bool {
        let process = &mut self.all[index];
        if process.wake_at != Some(scheduler.now) {
            return false;
        }
        process.wake_at = None;
        let now = process.clock(scheduler.now);
        if let Some(core) = &mut process.core {
            scheduler
                .trace
                .line(now, || Line::Timeout { process: index });
            core.handle_timeout(now);
        }
        true
    }

    /// Schedules the process's next requested wake-up.
    pub(crate) fn set_alarm(&mut self, scheduler: &mut Scheduler, index: usize) {
        let process = &mut self.all[index];
        let Some(core) = &process.core else { return };
        let Some((at, _)) = core.poll_timeout() else {
            return;
        };
        let at = process.world_time(at).max(scheduler.now);
        if process.wake_at.is_none_or(|set| at < set) {
            process.wake_at = Some(at);
            let wake = ProcessStep::Wake(process.incarnation);
            scheduler.at(at, Happening::Process(index, wake));
        }
    }
}

/// Converts times computed from durations by the adapters to the clock of the process.
fn by_own_clock(mut input: Input, ahead: i64) -> Input {
    if let Input::Answer { answer, .. } = &mut input {
        let error = match answer {
            Answer::Instances(Err(error))
            | Answer::Created(Err(error))
            | Answer::CloudDone(Err(error)) => Some(error),
            _ => None,
        };
        if let Some(CloudError::RateLimited {
            until: Some(until), ..
        }) = error
        {
            *until = shifted(*until, ahead);
        }
    }
    input
}
