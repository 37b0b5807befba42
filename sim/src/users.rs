//! The users: what they submit, and what they change their minds about.

use std::collections::BTreeMap;
use std::time::Duration;

use longshore_core::ids::ContainerId;
use longshore_core::input::ContainerState;
use longshore_core::resources::{Demand, MIB};

use crate::chance::Chance;
use crate::faults::Fault;
use crate::marks::Mark;
use crate::queue::Queue;
use crate::stage::{Happening, Stage};
use crate::workload::{Pattern, Workload};

/// What users do.
#[derive(Clone, Debug)]
pub(crate) enum UserStep {
    /// One of the workloads goes on.
    Submit(usize),
    /// A supervisor goes on.
    Brood(ContainerId),
    /// Somebody does not want these any more.
    GiveUp(Vec<ContainerId>),
    /// Somebody changes their mind, perhaps.
    Tick,
    /// A priority that was 0 for a moment is back.
    Restore(ContainerId, u64),
}

/// Children that a supervisor has still to submit.
#[derive(Clone, Copy, Debug)]
struct Brood {
    workload: usize,
    left: u32,
}

/// All users.
#[derive(Debug)]
pub(crate) struct Users {
    chance: Chance,
    pub(crate) workloads: Vec<Workload>,
    broods: BTreeMap<ContainerId, Brood>,
    /// How many of a recorded workload were submitted: there is at most one.
    replayed: usize,
    /// Time that all containers submitted so far run for, one after the other.
    pub(crate) work: Duration,
}

const TICK: Duration = Duration::from_secs(30);

impl Users {
    pub(crate) fn new(seed: u64, workloads: Vec<Workload>) -> Self {
        Self {
            chance: Chance::new(seed, "users"),
            workloads,
            broods: BTreeMap::new(),
            replayed: 0,
            work: Duration::ZERO,
        }
    }

    pub(crate) fn begin(&mut self, stage: &mut Stage) {
        for index in 0..self.workloads.len() {
            let exact = matches!(self.workloads[index].pattern, Pattern::Recorded(_));
            let pause = if exact {
                Duration::ZERO
            } else {
                self.chance.secs(0, 120)
            };
            stage.after(pause, Happening::Users(Box::new(UserStep::Submit(index))));
        }
        stage.after(TICK, Happening::Users(Box::new(UserStep::Tick)));
    }

    /// Nothing more is submitted.
    pub(crate) fn stop(&mut self, queue: &mut Queue) {
        for workload in &mut self.workloads {
            workload.left = 0;
        }
        for (id, brood) in &mut self.broods {
            brood.left = 0;
            queue.weaned(*id);
        }
    }

    pub(crate) fn step(&mut self, stage: &mut Stage, queue: &mut Queue, step: &UserStep) {
        match step {
            UserStep::Submit(index) => self.go_on(stage, queue, *index),
            UserStep::Brood(id) => self.brood(stage, queue, *id),
            UserStep::GiveUp(ids) => {
                for id in ids {
                    queue.set_priority(stage, *id, 0);
                }
            }
            UserStep::Tick => self.tick(stage, queue),
            UserStep::Restore(id, priority) => queue.set_priority(stage, *id, *priority),
        }
    }

    fn go_on(&mut self, stage: &mut Stage, queue: &mut Queue, index: usize) {
        let Some(workload) = self.workloads.get(index) else {
            return;
        };
        let (many, gap) = match workload.pattern {
            Pattern::Steady { gap } | Pattern::Churn { gap } => (1, gap),
            Pattern::Bursty { gap, size } | Pattern::Storm { gap, size } => (size, gap),
            Pattern::Workflow { gap, children } => (children + 1, gap),
            Pattern::Recorded(_) => return self.replay(stage, queue, index),
        };
        let many = many.min(workload.left);
        if many == 0 {
            return;
        }
        match workload.pattern {
            Pattern::Workflow { .. } => self.supervise(stage, queue, index, many),
            Pattern::Storm { .. } => self.storm(stage, queue, index, many),
            Pattern::Churn { .. } => {
                self.submit(stage, queue, index);
                for _ in 0..3 {
                    self.change_mind(stage, queue, Fault::UserReprioritizes);
                }
            }
            _ => {
                for _ in 0..many {
                    self.submit(stage, queue, index);
                }
            }
        }
        let workload = &mut self.workloads[index];
        workload.left -= many;
        if workload.left > 0 {
            let pause = self.chance.span(gap / 2, gap * 3 / 2);
            stage.after(pause, Happening::Users(Box::new(UserStep::Submit(index))));
        }
    }

    /// Submits the next of what was recorded, and all that come at the same time.
    fn replay(&mut self, stage: &mut Stage, queue: &mut Queue, index: usize) {
        let workload = &mut self.workloads[index];
        let Pattern::Recorded(arrivals) = &workload.pattern else {
            return;
        };
        let arrivals = arrivals.clone();
        let done = self.replayed;
        let elapsed = stage.elapsed();
        let mut many = 0;
        for arrival in arrivals[done..].iter().take(workload.left as usize) {
            if arrival.at > elapsed {
                let pause = arrival.at - elapsed;
                stage.after(pause, Happening::Users(Box::new(UserStep::Submit(index))));
                break;
            }
            self.work += arrival.runs_for;
            let id = queue.submit_as(stage, arrival);
            if let Some(pause) = arrival.cancel_after {
                stage.after(
                    pause,
                    Happening::Users(Box::new(UserStep::GiveUp(vec![id]))),
                );
            }
            many += 1;
        }
        self.replayed += many as usize;
        self.workloads[index].left -= many;
    }

    /// Submits a supervisor; its children come while it runs.
    fn supervise(&mut self, stage: &mut Stage, queue: &mut Queue, index: usize, many: u32) {
        let workload = &self.workloads[index];
        let Some(demand) = self.chance.pick(&workload.demands) else {
            return;
        };
        let demand = Demand {
            vcpus: demand.vcpus.min(1),
            ram: demand.ram.min(256 * MIB),
            supervisor: true,
            ..Demand::default()
        };
        let runs_for = Duration::from_secs(self.chance.uneven(1, workload.run_secs.1));
        let priority = 1 + self.chance.below(workload.priorities);
        // It may take the room that its children need: then its patience ends, not the world.
        let patience = self.chance.secs(20 * 60, 2 * 3600);
        self.work += runs_for + patience;
        let id = queue.submit(stage, Ok(demand), priority, runs_for);
        let left = many - 1;
        queue.await_children(id, left, patience);
        let brood = Brood {
            workload: index,
            left,
        };
        self.broods.insert(id, brood);
        let pause = self.chance.secs(1, 30);
        stage.after(pause, Happening::Users(Box::new(UserStep::Brood(id))));
    }

    /// What a supervisor does now: it submits some children, or has ended, and they with it.
    fn brood(&mut self, stage: &mut Stage, queue: &mut Queue, id: ContainerId) {
        let state = queue.state(id);
        let Some(brood) = self.broods.get(&id).copied() else {
            return;
        };
        if state.is_none_or(ContainerState::is_final) {
            self.broods.remove(&id);
            let orphans = queue.open_children(id);
            if !orphans.is_empty() {
                stage.mark(Mark::Orphaned);
            }
            for child in orphans {
                queue.set_priority(stage, child, 0);
            }
            return;
        }
        if state == Some(ContainerState::Running) && brood.left > 0 {
            let many = u32::try_from(self.chance.between(1, 3)).unwrap_or(1);
            let many = many.min(brood.left);
            for _ in 0..many {
                if let Some(child) = self.submit(stage, queue, brood.workload) {
                    queue.adopt(id, child);
                }
            }
            let left = brood.left - many;
            self.broods.insert(id, Brood { left, ..brood });
        }
        let pause = self.chance.secs(10, 60);
        stage.after(pause, Happening::Users(Box::new(UserStep::Brood(id))));
    }

    /// Submits many, and cancels most of them soon after.
    fn storm(&mut self, stage: &mut Stage, queue: &mut Queue, index: usize, many: u32) {
        let ids = (0..many).filter_map(|_| self.submit(stage, queue, index));
        let mut ids: Vec<ContainerId> = ids.collect();
        let chance = &mut self.chance;
        ids.retain(|_| !chance.one_in(3));
        let pause = chance.secs(1, 600);
        stage.after(pause, Happening::Users(Box::new(UserStep::GiveUp(ids))));
    }

    fn submit(
        &mut self,
        stage: &mut Stage,
        queue: &mut Queue,
        index: usize,
    ) -> Option<ContainerId> {
        let workload = &self.workloads[index];
        let mut demand = self.chance.pick(&workload.demands)?.clone();
        let (low, high) = workload.run_secs;
        let runs_for = Duration::from_secs(self.chance.uneven(low, high));
        let priority = 1 + self.chance.below(workload.priorities);
        let demand = if stage
            .faults
            .strikes(&mut self.chance, Fault::RecordMalformed)
        {
            Err("mounts: expected an object, found a list".to_owned())
        } else if stage.faults.strikes(&mut self.chance, Fault::Unsatisfiable) {
            demand.ram = 1 << 50;
            Ok(demand)
        } else {
            Ok(demand)
        };
        self.work += runs_for;
        Some(queue.submit(stage, demand, priority, runs_for))
    }

    fn tick(&mut self, stage: &mut Stage, queue: &mut Queue) {
        stage.after(TICK, Happening::Users(Box::new(UserStep::Tick)));
        if stage.faults.strikes(&mut self.chance, Fault::CancelStorm) {
            let share = self.chance.between(1, 3);
            let ids: Vec<ContainerId> = queue.open_records().map(|(id, _)| *id).collect();
            for id in ids {
                if self.chance.below(3) < share {
                    queue.set_priority(stage, id, 0);
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
            if stage.faults.strikes(&mut self.chance, fault) {
                self.change_mind(stage, queue, fault);
            }
        }
    }

    fn change_mind(&mut self, stage: &mut Stage, queue: &mut Queue, fault: Fault) {
        let open: Vec<(ContainerId, u64, ContainerState)> = queue
            .open_records()
            .map(|(id, record)| (*id, record.priority, record.state))
            .collect();
        let Some((id, priority, _)) = self.chance.pick(&open).copied() else {
            return;
        };
        match fault {
            Fault::UserCancels => queue.set_priority(stage, id, 0),
            Fault::UserReprioritizes => {
                let priority = 1 + self.chance.below(1000);
                queue.set_priority(stage, id, priority);
            }
            Fault::UserFlaps => {
                queue.set_priority(stage, id, 0);
                let pause = self.chance.millis(10, 60_000);
                let back = UserStep::Restore(id, priority.max(1));
                stage.after(pause, Happening::Users(Box::new(back)));
            }
            _ => queue.delete(stage, id),
        }
    }

    /// Whether a container is given up in the moment in which something decisive is done.
    pub(crate) fn loses_patience(&mut self, stage: &mut Stage) -> bool {
        stage
            .faults
            .strikes(&mut self.chance, Fault::CancelledAtWorst)
    }

    /// Whether all has been submitted.
    pub(crate) fn idle(&self) -> bool {
        self.workloads.iter().all(|w| w.left == 0) && self.broods.values().all(|b| b.left == 0)
    }
}
