//! Runners on the VMs, and their user processes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use longshore_core::command::Signal;
use longshore_core::ids::{ContainerId, InstanceId};
use longshore_core::time::Timestamp;

use crate::world::coverage::CoverageMark;
use crate::world::dense_map::DenseMap;
use crate::world::events::{Happening, Report, RunnerId, RunnerStep, Told};
use crate::world::faults::Fault;
use crate::world::queue::Queue;
use crate::world::rng::Rng;
use crate::world::scheduler::Scheduler;

/// Phase of a runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// Setup, with no user code running.
    Setup,
    /// User code running.
    Running,
    /// User code ended, with the report of the result in progress.
    Reporting(Report),
    /// All work done, before the exit.
    Leaving,
}

#[derive(Clone, Debug)]
struct Runner {
    container: ContainerId,
    instance: InstanceId,
    life: Life,
    ignores_term: bool,
    ignores_kill: bool,
    lingers: bool,
    leaves_lock: bool,
    /// Number of failed reports so far.
    failures: u32,
}

/// Consequence of a step of a runner outside of the runners.
#[derive(Clone, Debug)]
pub(crate) enum RunnerOutcome {
    /// The runner has ended, and something keeps its lock.
    StaleLock {
        instance: InstanceId,
        container: ContainerId,
        until: Timestamp,
    },
    /// The user process of a container has started, beside `other` if `other` still runs.
    ProgramStart {
        container: ContainerId,
        other: Option<RunnerId>,
    },
}

/// All live runners.
#[derive(Debug)]
pub(crate) struct Runners {
    rng: Rng,
    /// Random stream for the delay of repeated reports.
    echoes: Rng,
    last: u64,
    alive: BTreeMap<RunnerId, Runner>,
    /// Runners on each VM with their containers, oldest first.
    by_vm: DenseMap<InstanceId, Vec<(RunnerId, ContainerId)>>,
    by_container: BTreeSet<(ContainerId, RunnerId)>,
    /// Live user processes, by container.
    programs: BTreeMap<ContainerId, RunnerId>,
    pub(crate) peak: usize,
}

const REPORT_FAILURES_MAX: u32 = 20;

impl Runners {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed, "runner"),
            echoes: Rng::new(seed, "runner: echoes"),
            last: 0,
            alive: BTreeMap::new(),
            by_vm: DenseMap::default(),
            by_container: BTreeSet::new(),
            programs: BTreeMap::new(),
            peak: 0,
        }
    }

    fn on_vm(&self, vm: &InstanceId) -> &[(RunnerId, ContainerId)] {
        self.by_vm.get(vm).map(Vec::as_slice).unwrap_or_default()
    }

    fn runner_on(&self, vm: &InstanceId, container: ContainerId) -> Option<RunnerId> {
        let mut on_vm = self.on_vm(vm).iter();
        on_vm.find(|(_, of)| *of == container).map(|(id, _)| *id)
    }

    /// True if a runner of the container is alive on the VM.
    pub(crate) fn holds(&self, vm: &InstanceId, container: ContainerId) -> bool {
        self.runner_on(vm, container).is_some()
    }

    /// Returns the containers of all live runners on a VM.
    pub(crate) fn containers_on(&self, vm: &InstanceId) -> impl Iterator<Item = ContainerId> {
        self.on_vm(vm).iter().map(|(_, container)| *container)
    }

    /// Returns the VMs with a live runner of the container.
    pub(crate) fn vms_of(&self, container: ContainerId) -> Vec<InstanceId> {
        let range = (container, RunnerId(0))..=(container, RunnerId(u64::MAX));
        let ids = self.by_container.range(range).map(|(_, id)| id);
        ids.map(|id| self.alive[id].instance.clone()).collect()
    }

    /// Returns the VM with the container's live user process.
    pub(crate) fn program_on(&self, container: ContainerId) -> Option<&InstanceId> {
        let id = self.programs.get(&container)?;
        self.alive.get(id).map(|runner| &runner.instance)
    }

    pub(crate) fn programs(&self) -> usize {
        self.programs.len()
    }

    /// Spawns a runner holding its lock.
    pub(crate) fn spawn(
        &mut self,
        scheduler: &mut Scheduler,
        vm: &InstanceId,
        container: ContainerId,
    ) {
        self.last += 1;
        let id = RunnerId(self.last);
        let rng = &mut self.rng;
        let faults = &mut scheduler.faults;
        let ignores_term = faults.strikes(rng, Fault::IgnoresTerm);
        let ignores_kill = faults.strikes(rng, Fault::IgnoresKill);
        let runner = Runner {
            container,
            instance: vm.clone(),
            life: Life::Setup,
            ignores_term: ignores_term || ignores_kill,
            ignores_kill,
            lingers: faults.strikes(rng, Fault::LingersAfterComplete),
            leaves_lock: faults.strikes(rng, Fault::StaleLock),
            failures: 0,
        };
        let setup = if faults.strikes(rng, Fault::SlowSetup) {
            rng.secs(10, 600)
        } else {
            rng.millis(200, 8000)
        };
        let step = if faults.strikes(rng, Fault::CrashBeforeRunning) {
            RunnerStep::Crash
        } else {
            RunnerStep::AskToRun
        };
        scheduler.note(|| format!("runner of {container} begins on {vm}"));
        self.insert(id, runner);
        scheduler.after(setup, Happening::Runner(id, step));
        if self.on_vm(vm).len() > 1 {
            scheduler.mark(CoverageMark::Packed);
        }
    }

    fn insert(&mut self, id: RunnerId, runner: Runner) {
        let on_vm = self.by_vm.or_insert_with(&runner.instance, Vec::new);
        on_vm.push((id, runner.container));
        self.by_container.insert((runner.container, id));
        self.alive.insert(id, runner);
        self.peak = self.peak.max(self.alive.len());
    }

    /// Adds a runner in the middle of its work, with no start by the dispatcher.
    pub(crate) fn plant(&mut self, vm: &InstanceId, container: ContainerId) {
        self.last += 1;
        let id = RunnerId(self.last);
        let runner = Runner {
            container,
            instance: vm.clone(),
            life: Life::Running,
            ignores_term: false,
            ignores_kill: false,
            lingers: false,
            leaves_lock: false,
            failures: 0,
        };
        self.insert(id, runner);
        self.programs.insert(container, id);
    }

    /// Makes all runners on a VM ignore TERM, and KILL if `kill_too`.
    pub(crate) fn harden(&mut self, vm: &InstanceId, kill_too: bool) {
        let hardened = self.alive.values_mut().filter(|r| r.instance == *vm);
        for runner in hardened {
            runner.ignores_term = true;
            runner.ignores_kill |= kill_too;
        }
    }

    /// Crashes all runners on a VM without reports.
    pub(crate) fn crash_on(&mut self, scheduler: &mut Scheduler, vm: &InstanceId) {
        self.vm_ended(scheduler, vm);
    }

    pub(crate) fn step(
        &mut self,
        scheduler: &mut Scheduler,
        queue: &mut Queue,
        id: RunnerId,
        step: &RunnerStep,
    ) -> Option<RunnerOutcome> {
        if let RunnerStep::ToldAgain(again) = step {
            let (container, told) = **again;
            Self::told_again(scheduler, queue, id, container, told);
            return None;
        }
        let runner = self.alive.get(&id)?;
        match (step, runner.life) {
            (RunnerStep::AskToRun, Life::Setup) => return self.ask_to_run(scheduler, queue, id),
            (RunnerStep::ProgramEnds, Life::Running)
                if queue.waits_for_children(scheduler, runner.container) =>
            {
                scheduler.mark(CoverageMark::WaitedForChildren);
                let pause = self.rng.secs(5, 20);
                scheduler.after(pause, Happening::Runner(id, RunnerStep::ProgramEnds));
            }
            (RunnerStep::ProgramEnds, Life::Running) => {
                self.end_program(scheduler, id, Report::Complete);
            }
            (RunnerStep::Report, Life::Reporting(report)) => {
                self.report(scheduler, queue, id, report);
            }
            (RunnerStep::Exit, _) => return self.leave(scheduler, id),
            (RunnerStep::Crash, Life::Setup | Life::Running) => {
                scheduler.note(|| format!("{id:?} crashes"));
                return self.leave(scheduler, id);
            }
            _ => {}
        }
        None
    }

    fn ask_to_run(
        &mut self,
        scheduler: &mut Scheduler,
        queue: &mut Queue,
        id: RunnerId,
    ) -> Option<RunnerOutcome> {
        let runner = self.alive.get_mut(&id).expect("just seen");
        let container = runner.container;
        match queue.may_run(scheduler, container, id) {
            Ok(true) => {}
            Ok(false) => {
                scheduler.mark(CoverageMark::GuardRefused);
                scheduler.note(|| format!("the queue refuses {id:?} of {container}"));
                runner.life = Life::Leaving;
                let pause = self.rng.millis(50, 3000);
                scheduler.after(pause, Happening::Runner(id, RunnerStep::Exit));
                return None;
            }
            Err(()) => {
                self.try_again(scheduler, id, RunnerStep::AskToRun);
                return None;
            }
        }
        self.tell_again(scheduler, id, container, Told::Start);
        let runner = self.alive.get_mut(&id).expect("just seen");
        runner.life = Life::Running;
        runner.failures = 0;
        let other = self.programs.insert(container, id);
        let runs_for = queue.run_time(container);
        scheduler.after(runs_for, Happening::Runner(id, RunnerStep::ProgramEnds));
        if scheduler
            .faults
            .strikes(&mut self.rng, Fault::CrashWhileRunning)
        {
            let pause = self.rng.span(Duration::ZERO, runs_for);
            scheduler.after(pause, Happening::Runner(id, RunnerStep::Crash));
        }
        Some(RunnerOutcome::ProgramStart { container, other })
    }

    /// Schedules a repeat of the runner's latest report after seconds or minutes, if the fault
    /// strikes. By then the runner may have ended, and its container may be in another attempt.
    fn tell_again(
        &mut self,
        scheduler: &mut Scheduler,
        id: RunnerId,
        container: ContainerId,
        told: Told,
    ) {
        if scheduler.faults.strikes(&mut self.rng, Fault::ReportsTwice) {
            let pause = self.echoes.secs(1, 300);
            let again = RunnerStep::ToldAgain(Box::new((container, told)));
            scheduler.after(pause, Happening::Runner(id, again));
        }
    }

    /// Handles a repeated report; the queue's answer is dropped.
    fn told_again(
        scheduler: &mut Scheduler,
        queue: &mut Queue,
        id: RunnerId,
        container: ContainerId,
        told: Told,
    ) {
        let state = queue.state(container);
        let heard = match told {
            Told::Start => queue.may_run(scheduler, container, id).map(drop),
            Told::Result(report) => queue.report(scheduler, container, id, report),
        };
        scheduler.note(|| {
            format!("{id:?} of {container}, which was {state:?}, tells {told:?} again: {heard:?}")
        });
    }

    fn try_again(&mut self, scheduler: &mut Scheduler, id: RunnerId, step: RunnerStep) {
        let runner = self.alive.get_mut(&id).expect("just seen");
        runner.failures += 1;
        if runner.failures > REPORT_FAILURES_MAX {
            return scheduler.after(Duration::ZERO, Happening::Runner(id, RunnerStep::Exit));
        }
        let pause = self.rng.secs(1, 60);
        scheduler.after(pause, Happening::Runner(id, step));
    }

    fn end_program(&mut self, scheduler: &mut Scheduler, id: RunnerId, report: Report) {
        let runner = self.alive.get_mut(&id).expect("just seen");
        if self.programs.get(&runner.container) == Some(&id) {
            self.programs.remove(&runner.container);
        }
        runner.life = Life::Reporting(report);
        let pause = self.rng.millis(50, 2000);
        let dies = scheduler
            .faults
            .strikes(&mut self.rng, Fault::CrashBeforeReport);
        let next = if dies {
            RunnerStep::Exit
        } else {
            RunnerStep::Report
        };
        scheduler.after(pause, Happening::Runner(id, next));
    }

    fn report(
        &mut self,
        scheduler: &mut Scheduler,
        queue: &mut Queue,
        id: RunnerId,
        report: Report,
    ) {
        let runner = self.alive.get_mut(&id).expect("just seen");
        let container = runner.container;
        if queue.report(scheduler, container, id, report).is_err() {
            return self.try_again(scheduler, id, RunnerStep::Report);
        }
        self.tell_again(scheduler, id, container, Told::Result(report));
        let runner = self.alive.get_mut(&id).expect("just seen");
        runner.life = Life::Leaving;
        let dies = scheduler
            .faults
            .strikes(&mut self.rng, Fault::CrashAfterComplete);
        runner.leaves_lock |= dies;
        let pause = if dies {
            Duration::ZERO
        } else if runner.lingers {
            self.rng.secs(5, 400)
        } else {
            self.rng.millis(5, 1500)
        };
        scheduler.after(pause, Happening::Runner(id, RunnerStep::Exit));
    }

    /// Ends a runner. Returns its lock if some other process keeps the lock.
    fn leave(&mut self, scheduler: &mut Scheduler, id: RunnerId) -> Option<RunnerOutcome> {
        let runner = self.remove(scheduler, id)?;
        runner.leaves_lock.then(|| RunnerOutcome::StaleLock {
            until: scheduler.now + self.rng.secs(1, 1200),
            instance: runner.instance,
            container: runner.container,
        })
    }

    fn remove(&mut self, scheduler: &mut Scheduler, id: RunnerId) -> Option<Runner> {
        let runner = self.alive.remove(&id)?;
        if let Some(on_vm) = self.by_vm.get_mut(&runner.instance) {
            on_vm.retain(|(other, _)| *other != id);
            if on_vm.is_empty() {
                self.by_vm.remove(&runner.instance);
            }
        }
        self.by_container.remove(&(runner.container, id));
        if self.programs.get(&runner.container) == Some(&id) {
            self.programs.remove(&runner.container);
        }
        scheduler.note(|| {
            format!(
                "runner of {} on {} is gone",
                runner.container, runner.instance
            )
        });
        Some(runner)
    }

    /// Ends all runners on an ended VM.
    pub(crate) fn vm_ended(&mut self, scheduler: &mut Scheduler, vm: &InstanceId) {
        let ids: Vec<RunnerId> = self.on_vm(vm).iter().map(|(id, _)| *id).collect();
        for id in ids {
            self.remove(scheduler, id);
        }
    }

    /// Sends a signal to a container's runner. Returns the end of the hold time if the runner
    /// leaves its lock held.
    pub(crate) fn signal(
        &mut self,
        scheduler: &mut Scheduler,
        vm: &InstanceId,
        container: ContainerId,
        signal: Signal,
    ) -> Option<Timestamp> {
        let id = self.runner_on(vm, container)?;
        let runner = self.alive.get_mut(&id)?;
        match signal {
            Signal::Kill if !runner.ignores_kill => {
                let leaves_lock = runner.leaves_lock;
                self.remove(scheduler, id);
                let until = scheduler.now + self.rng.secs(1, 600);
                leaves_lock.then_some(until)
            }
            Signal::Term if !runner.ignores_term => {
                match runner.life {
                    Life::Setup => {
                        runner.life = Life::Reporting(Report::Requeue);
                        let pause = self.rng.millis(50, 3000);
                        scheduler.after(pause, Happening::Runner(id, RunnerStep::Report));
                    }
                    Life::Running => {
                        self.end_program(scheduler, id, Report::Cancelled);
                    }
                    Life::Reporting(_) | Life::Leaving => {}
                }
                None
            }
            _ => None,
        }
    }
}
