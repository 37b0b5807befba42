//! Crashes, restarts, stalls, leadership changes and configuration changes of the processes.

use std::time::Duration;

use longshore_core::config::Config;
use longshore_core::input::Input;

use crate::world::World;
use crate::world::coverage::CoverageMark;
use crate::world::draw_config::redraw_settings;
use crate::world::events::{Happening, ProcessStep};
use crate::world::faults::Fault;
use crate::world::observation::Observation;

/// Time after the end of a second leader until all its commands are done and known to the remaining
/// process: longer than any command's deadline, a late answer or a late start, and longer than two
/// complete polls. Containers started by the second leader stay excused for the whole run.
const RIVALS_LAST: Duration = Duration::from_secs(15 * 60);
pub(super) const PROCESS_TICK: Duration = Duration::from_secs(60);

impl World {
    /// Crashes a process and schedules its restart.
    pub(crate) fn crash(&mut self, index: usize) {
        if self.processes.all[index].core.is_none() {
            return;
        }
        if self.runners.programs() > 0 {
            self.scheduler.mark(CoverageMark::RestartedWhileRunning);
        }
        self.processes.end(&mut self.scheduler, index);
        let rng = &mut self.processes.rng;
        let slow = self.scheduler.faults.strikes(rng, Fault::RestartSlow);
        let pause = if slow {
            rng.secs(30, 1200)
        } else {
            rng.millis(500, 20_000)
        };
        if index == 0 {
            if self
                .scheduler
                .faults
                .strikes(rng, Fault::RestartReconfigured)
            {
                self.processes.all[0].config = self.other_config();
            }
            self.scheduler
                .after(pause, Happening::Process(0, ProcessStep::Restart));
        }
    }

    pub(super) fn process_step(&mut self, index: usize, step: ProcessStep) {
        let incarnation = self.processes.all[index].incarnation;
        match step {
            ProcessStep::Tick => self.process_tick(),
            ProcessStep::Wake(life) if life == incarnation && self.stalls(index) => {
                self.processes.put_off(&mut self.scheduler, index);
            }
            ProcessStep::Drain(life) if life == incarnation && self.stalls(index) => {
                let until = self.processes.all[index].stalled_until;
                self.scheduler.at(until, Happening::Process(index, step));
            }
            ProcessStep::Wake(life) if life == incarnation => {
                if self.processes.wake(&mut self.scheduler, index) {
                    self.observe(Observation::Timeout { process: index });
                }
                self.drain(index);
            }
            ProcessStep::Drain(life) if life == incarnation => {
                self.processes.all[index].drain_due = false;
                self.drain(index);
            }
            ProcessStep::Restart => {
                if self.processes.all[index].core.is_none() {
                    self.processes.begin(&mut self.scheduler, index);
                    self.observe(Observation::Begin { process: index });
                    self.scheduler.mark(CoverageMark::Restarted);
                    let to = self.processes.origin(index);
                    self.deliver(to, Input::Leadership { held: true });
                }
            }
            ProcessStep::Leader(life, held) if life == incarnation => {
                if held {
                    self.scheduler.mark(CoverageMark::LeadershipRegained);
                }
                let to = self.processes.origin(index);
                self.deliver(to, Input::Leadership { held });
            }
            ProcessStep::Retire => self.processes.end(&mut self.scheduler, index),
            ProcessStep::Wake(_) | ProcessStep::Drain(_) | ProcessStep::Leader(..) => {}
        }
    }

    /// True if two processes act, or if actions of a second process may still be unknown to the
    /// first.
    pub(crate) fn rivals(&self) -> bool {
        self.scheduler.now < self.rivals_until
    }

    /// True if a process is stalled.
    pub(crate) fn stalls(&self, index: usize) -> bool {
        self.scheduler.now < self.processes.all[index].stalled_until
    }

    fn process_tick(&mut self) {
        let scheduler = &mut self.scheduler;
        scheduler.after(PROCESS_TICK, Happening::Process(0, ProcessStep::Tick));
        let strikes = |world: &mut Self, fault| {
            let rng = &mut world.processes.rng;
            world.scheduler.faults.strikes(rng, fault)
        };
        if strikes(self, Fault::Crash) {
            self.crash(0);
        }
        if self.processes.all[0].core.is_none() {
            return;
        }
        if !self.stalls(0) && strikes(self, Fault::Stalls) {
            let span = Duration::from_secs(self.processes.rng.uneven(1, 600));
            self.scheduler
                .note(|| format!("the dispatcher's host stands still for {span:?}"));
            self.processes.all[0].stalled_until = self.scheduler.now + span;
        }
        if strikes(self, Fault::Reconfigured) {
            let config = self.other_config();
            self.reconfigure(config);
        }
        if strikes(self, Fault::LeadershipLost) {
            let pause = self.processes.rng.secs(1, 600);
            self.lose_leadership(pause);
        } else if self.processes.all[1].core.is_none() && strikes(self, Fault::TwoLeaders) {
            let overlap = self.processes.rng.secs(1, 60);
            let reign = overlap + self.processes.rng.secs(1, 300);
            self.rivals_until = self.scheduler.now + reign + RIVALS_LAST;
            let life = self.processes.all[0].incarnation;
            let scheduler = &mut self.scheduler;
            scheduler.note(|| "a second process believes that it may act".to_owned());
            self.processes.all[1].config = self.processes.all[0].config.clone();
            scheduler.after(Duration::ZERO, Happening::Process(1, ProcessStep::Restart));
            let lost = ProcessStep::Leader(life, false);
            scheduler.after(overlap, Happening::Process(0, lost));
            scheduler.after(reign, Happening::Process(1, ProcessStep::Retire));
            let regained = ProcessStep::Leader(life, true);
            scheduler.after(reign, Happening::Process(0, regained));
        }
    }

    pub(crate) fn lose_leadership(&mut self, pause: Duration) {
        let life = self.processes.all[0].incarnation;
        let regained = ProcessStep::Leader(life, true);
        self.scheduler.after(pause, Happening::Process(0, regained));
        let to = self.processes.origin(0);
        self.deliver(to, Input::Leadership { held: false });
    }

    pub(crate) fn reconfigure(&mut self, config: Config) {
        let to = self.processes.origin(0);
        self.deliver(to, Input::Reconfigured(Box::new(config)));
    }

    /// Returns a changed configuration: types added or removed, other limits.
    fn other_config(&mut self) -> Config {
        let rng = &mut self.processes.rng;
        let mut config = self.plan.config.clone();
        let names: Vec<_> = config.types.keys().cloned().collect();
        if rng.one_in(2)
            && names.len() > 1
            && let Some(name) = rng.pick(&names)
        {
            config.types.remove(name);
            self.scheduler.mark(CoverageMark::TypeRemoved);
        }
        if rng.one_in(3) {
            let max = u32::try_from(rng.between(1, 10)).ok();
            if max < config.limits.instances {
                self.scheduler.mark(CoverageMark::LimitsCut);
            }
            config.limits.instances = max;
        }
        if rng.one_in(3) {
            config.timeouts.idle = rng.secs(5, 600);
        }
        if let Some(budget) = config.limits.budgets.first_mut()
            && rng.one_in(2)
        {
            budget.limit.0 *= 2;
        }
        redraw_settings(&mut self.processes.wishes, &mut config);
        config
    }
}
