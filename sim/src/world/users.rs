//! Users: submissions, cancellations and priority changes.

use std::collections::BTreeMap;
use std::time::Duration;

use longshore_core::ids::ContainerId;
use longshore_core::input::ContainerState;
use longshore_core::resources::{Demand, MIB};

use crate::world::coverage::CoverageMark;
use crate::world::events::{Happening, UserStep};
use crate::world::faults::Fault;
use crate::world::queue::Queue;
use crate::world::rng::Rng;
use crate::world::scheduler::Scheduler;
use crate::world::workload::{Pattern, Workload};

/// Children still to be submitted by a supervisor.
#[derive(Clone, Copy, Debug)]
struct Brood {
    workload: usize,
    left: u32,
}

/// State of all users.
#[derive(Debug)]
pub(crate) struct Users {
    rng: Rng,
    pub(crate) workloads: Vec<Workload>,
    broods: BTreeMap<ContainerId, Brood>,
    /// Number of submitted containers of the recorded workload; a run has at most a single recorded
    /// workload.
    replayed: usize,
    /// Sum of the run times of all containers submitted so far.
    pub(crate) work: Duration,
}

const TICK: Duration = Duration::from_secs(30);

impl Users {
    pub(crate) fn new(seed: u64, workloads: Vec<Workload>) -> Self {
        Self {
            rng: Rng::new(seed, "users"),
            workloads,
            broods: BTreeMap::new(),
            replayed: 0,
            work: Duration::ZERO,
        }
    }

    pub(crate) fn begin(&mut self, scheduler: &mut Scheduler) {
        for index in 0..self.workloads.len() {
            let exact = matches!(self.workloads[index].pattern, Pattern::Recorded(_));
            let pause = if exact {
                Duration::ZERO
            } else {
                self.rng.secs(0, 120)
            };
            scheduler.after(pause, Happening::Users(Box::new(UserStep::Submit(index))));
        }
        scheduler.after(TICK, Happening::Users(Box::new(UserStep::Tick)));
    }

    /// Ends all submissions.
    pub(crate) fn stop(&mut self, queue: &mut Queue) {
        for workload in &mut self.workloads {
            workload.left = 0;
        }
        for (id, brood) in &mut self.broods {
            brood.left = 0;
            queue.weaned(*id);
        }
    }

    pub(crate) fn step(&mut self, scheduler: &mut Scheduler, queue: &mut Queue, step: &UserStep) {
        match step {
            UserStep::Submit(index) => self.go_on(scheduler, queue, *index),
            UserStep::Brood(id) => self.brood(scheduler, queue, *id),
            UserStep::GiveUp(ids) => {
                for id in ids {
                    queue.set_priority(scheduler, *id, 0);
                }
            }
            UserStep::Tick => self.tick(scheduler, queue),
            UserStep::Restore(id, priority) => queue.set_priority(scheduler, *id, *priority),
        }
    }

    fn go_on(&mut self, scheduler: &mut Scheduler, queue: &mut Queue, index: usize) {
        let Some(workload) = self.workloads.get(index) else {
            return;
        };
        let (many, gap) = match workload.pattern {
            Pattern::Steady { gap } | Pattern::Churn { gap } => (1, gap),
            Pattern::Bursty { gap, size } | Pattern::Storm { gap, size } => (size, gap),
            Pattern::Workflow { gap, children } => (children + 1, gap),
            Pattern::Recorded(_) => return self.replay(scheduler, queue, index),
        };
        let many = many.min(workload.left);
        if many == 0 {
            return;
        }
        match workload.pattern {
            Pattern::Workflow { .. } => self.supervise(scheduler, queue, index, many),
            Pattern::Storm { .. } => self.storm(scheduler, queue, index, many),
            Pattern::Churn { .. } => {
                self.submit(scheduler, queue, index);
                for _ in 0..3 {
                    self.change_mind(scheduler, queue, Fault::UserReprioritizes);
                }
            }
            _ => {
                for _ in 0..many {
                    self.submit(scheduler, queue, index);
                }
            }
        }
        let workload = &mut self.workloads[index];
        workload.left -= many;
        if workload.left > 0 {
            let pause = self.rng.span(gap / 2, gap * 3 / 2);
            scheduler.after(pause, Happening::Users(Box::new(UserStep::Submit(index))));
        }
    }

    /// Submits the next arrival of the recorded workload, and all arrivals at the same time.
    fn replay(&mut self, scheduler: &mut Scheduler, queue: &mut Queue, index: usize) {
        let workload = &mut self.workloads[index];
        let Pattern::Recorded(arrivals) = &workload.pattern else {
            return;
        };
        let arrivals = arrivals.clone();
        let done = self.replayed;
        let elapsed = scheduler.elapsed();
        let mut many = 0;
        for arrival in arrivals[done..].iter().take(workload.left as usize) {
            if arrival.at > elapsed {
                let pause = arrival.at - elapsed;
                scheduler.after(pause, Happening::Users(Box::new(UserStep::Submit(index))));
                break;
            }
            self.work += arrival.runs_for;
            let id = queue.submit_as(scheduler, arrival);
            if let Some(pause) = arrival.cancel_after {
                scheduler.after(
                    pause,
                    Happening::Users(Box::new(UserStep::GiveUp(vec![id]))),
                );
            }
            many += 1;
        }
        self.replayed += many as usize;
        self.workloads[index].left -= many;
    }

    /// Submits a supervisor; its children follow during its run.
    fn supervise(&mut self, scheduler: &mut Scheduler, queue: &mut Queue, index: usize, many: u32) {
        let workload = &self.workloads[index];
        let Some(demand) = self.rng.pick(&workload.demands) else {
            return;
        };
        let demand = Demand {
            vcpus: demand.vcpus.min(1),
            ram: demand.ram.min(256 * MIB),
            supervisor: true,
            ..Demand::default()
        };
        let runs_for = Duration::from_secs(self.rng.uneven(1, workload.run_secs.1));
        let priority = 1 + self.rng.below(workload.priorities);
        // A supervisor may occupy the room needed by its children: a bounded patience ends the
        // deadlock.
        let patience = self.rng.secs(20 * 60, 2 * 3600);
        self.work += runs_for + patience;
        let id = queue.submit(scheduler, Ok(demand), priority, runs_for);
        let left = many - 1;
        queue.await_children(id, left, patience);
        let brood = Brood {
            workload: index,
            left,
        };
        self.broods.insert(id, brood);
        let pause = self.rng.secs(1, 30);
        scheduler.after(pause, Happening::Users(Box::new(UserStep::Brood(id))));
    }

    /// Handles a supervisor's step: submits some children, or cancels the children of an ended
    /// supervisor.
    fn brood(&mut self, scheduler: &mut Scheduler, queue: &mut Queue, id: ContainerId) {
        let state = queue.state(id);
        let Some(brood) = self.broods.get(&id).copied() else {
            return;
        };
        if state.is_none_or(ContainerState::is_final) {
            self.broods.remove(&id);
            let orphans = queue.open_children(id);
            if !orphans.is_empty() {
                scheduler.mark(CoverageMark::Orphaned);
            }
            for child in orphans {
                queue.set_priority(scheduler, child, 0);
            }
            return;
        }
        if state == Some(ContainerState::Running) && brood.left > 0 {
            let many = u32::try_from(self.rng.between(1, 3)).unwrap_or(1);
            let many = many.min(brood.left);
            for _ in 0..many {
                if let Some(child) = self.submit(scheduler, queue, brood.workload) {
                    queue.adopt(id, child);
                }
            }
            let left = brood.left - many;
            self.broods.insert(id, Brood { left, ..brood });
        }
        let pause = self.rng.secs(10, 60);
        scheduler.after(pause, Happening::Users(Box::new(UserStep::Brood(id))));
    }

    /// Submits many containers, and cancels most of them soon after.
    fn storm(&mut self, scheduler: &mut Scheduler, queue: &mut Queue, index: usize, many: u32) {
        let ids = (0..many).filter_map(|_| self.submit(scheduler, queue, index));
        let mut ids: Vec<ContainerId> = ids.collect();
        let rng = &mut self.rng;
        ids.retain(|_| !rng.one_in(3));
        let pause = rng.secs(1, 600);
        scheduler.after(pause, Happening::Users(Box::new(UserStep::GiveUp(ids))));
    }

    fn submit(
        &mut self,
        scheduler: &mut Scheduler,
        queue: &mut Queue,
        index: usize,
    ) -> Option<ContainerId> {
        let workload = &self.workloads[index];
        let mut demand = self.rng.pick(&workload.demands)?.clone();
        let (low, high) = workload.run_secs;
        let runs_for = Duration::from_secs(self.rng.uneven(low, high));
        let priority = 1 + self.rng.below(workload.priorities);
        let demand = if scheduler
            .faults
            .strikes(&mut self.rng, Fault::RecordMalformed)
        {
            Err("mounts: expected an object, found a list".to_owned())
        } else if scheduler
            .faults
            .strikes(&mut self.rng, Fault::Unsatisfiable)
        {
            demand.ram = 1 << 50;
            Ok(demand)
        } else {
            Ok(demand)
        };
        self.work += runs_for;
        Some(queue.submit(scheduler, demand, priority, runs_for))
    }

    fn tick(&mut self, scheduler: &mut Scheduler, queue: &mut Queue) {
        scheduler.after(TICK, Happening::Users(Box::new(UserStep::Tick)));
        if scheduler.faults.strikes(&mut self.rng, Fault::CancelStorm) {
            let share = self.rng.between(1, 3);
            let ids: Vec<ContainerId> = queue.open_records().map(|(id, _)| *id).collect();
            for id in ids {
                if self.rng.below(3) < share {
                    queue.set_priority(scheduler, id, 0);
                }
            }
        }
        let wishes = [
            Fault::UserCancels,
            Fault::UserReprioritizes,
            Fault::UserFlaps,
            Fault::RecordDeleted,
        ];
        for fault in wishes {
            if scheduler.faults.strikes(&mut self.rng, fault) {
                self.change_mind(scheduler, queue, fault);
            }
        }
    }

    fn change_mind(&mut self, scheduler: &mut Scheduler, queue: &mut Queue, fault: Fault) {
        let open: Vec<(ContainerId, u64, ContainerState)> = queue
            .open_records()
            .map(|(id, record)| (*id, record.priority, record.state))
            .collect();
        let Some((id, priority, _)) = self.rng.pick(&open).copied() else {
            return;
        };
        match fault {
            Fault::UserCancels => queue.set_priority(scheduler, id, 0),
            Fault::UserReprioritizes => {
                let priority = 1 + self.rng.below(1000);
                queue.set_priority(scheduler, id, priority);
            }
            Fault::UserFlaps => {
                queue.set_priority(scheduler, id, 0);
                let pause = self.rng.millis(10, 60_000);
                let back = UserStep::Restore(id, priority.max(1));
                scheduler.after(pause, Happening::Users(Box::new(back)));
            }
            _ => queue.delete(scheduler, id),
        }
    }

    /// Draws the cancellation of a container at the moment of a lock, an unlock, a start or a
    /// report.
    pub(crate) fn loses_patience(&mut self, scheduler: &mut Scheduler) -> bool {
        scheduler
            .faults
            .strikes(&mut self.rng, Fault::CancelledAtWorst)
    }

    /// True if all workloads are submitted.
    pub(crate) fn idle(&self) -> bool {
        self.workloads.iter().all(|w| w.left == 0) && self.broods.values().all(|b| b.left == 0)
    }
}
