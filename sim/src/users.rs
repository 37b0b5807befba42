//! The users: what they submit, and what they change their minds about.

use std::time::Duration;

use longshore_core::ids::ContainerId;
use longshore_core::input::ContainerState;
use longshore_core::resources::{Demand, MIB};

use crate::chance::Chance;
use crate::faults::Fault;
use crate::queue::Queue;
use crate::stage::{Happening, Stage};

/// What users do.
#[derive(Clone, Debug)]
pub(crate) enum UserStep {
    /// One of the workloads goes on.
    Submit(usize),
    /// Somebody changes their mind, perhaps.
    Tick,
    /// A priority that was 0 for a moment is back.
    Restore(ContainerId, u64),
}

/// How work comes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// One now and then.
    Steady { gap: Duration },
    /// Many at once, seldom.
    Bursty { gap: Duration, size: u32 },
    /// A long-running supervisor that submits its children step by step.
    Workflow { gap: Duration, children: u32 },
}

/// One user's work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Workload {
    pub(crate) pattern: Pattern,
    /// Containers still to be submitted.
    pub(crate) left: u32,
    pub(crate) demands: Vec<Demand>,
    pub(crate) run_secs: (u64, u64),
    pub(crate) priorities: u64,
}

/// All users.
#[derive(Debug)]
pub(crate) struct Users {
    chance: Chance,
    pub(crate) workloads: Vec<Workload>,
    /// Time that all containers submitted so far run for, one after the other.
    pub(crate) work: Duration,
}

const TICK: Duration = Duration::from_secs(30);

impl Users {
    pub(crate) fn new(seed: u64, workloads: Vec<Workload>) -> Self {
        Self {
            chance: Chance::new(seed, "users"),
            workloads,
            work: Duration::ZERO,
        }
    }

    pub(crate) fn begin(&mut self, stage: &mut Stage) {
        for index in 0..self.workloads.len() {
            let pause = self.chance.secs(0, 120);
            stage.after(pause, Happening::Users(UserStep::Submit(index)));
        }
        stage.after(TICK, Happening::Users(UserStep::Tick));
    }

    /// Nothing more is submitted.
    pub(crate) fn stop(&mut self) {
        for workload in &mut self.workloads {
            workload.left = 0;
        }
    }

    pub(crate) fn step(&mut self, stage: &mut Stage, queue: &mut Queue, step: &UserStep) {
        match step {
            UserStep::Submit(index) => self.go_on(stage, queue, *index),
            UserStep::Tick => self.tick(stage, queue),
            UserStep::Restore(id, priority) => queue.set_priority(stage, *id, *priority),
        }
    }

    fn go_on(&mut self, stage: &mut Stage, queue: &mut Queue, index: usize) {
        let Some(workload) = self.workloads.get(index) else {
            return;
        };
        let (now_many, gap) = match workload.pattern {
            Pattern::Steady { gap } => (1, gap),
            Pattern::Bursty { gap, size }
            | Pattern::Workflow {
                gap,
                children: size,
            } => (size, gap),
        };
        let supervised = matches!(workload.pattern, Pattern::Workflow { .. });
        let many = now_many.min(workload.left);
        for number in 0..many {
            self.submit(stage, queue, index, supervised && number == 0);
        }
        let workload = &mut self.workloads[index];
        workload.left -= many;
        if workload.left > 0 {
            let pause = self.chance.span(gap / 2, gap * 3 / 2);
            stage.after(pause, Happening::Users(UserStep::Submit(index)));
        }
    }

    fn submit(&mut self, stage: &mut Stage, queue: &mut Queue, index: usize, supervisor: bool) {
        let workload = &self.workloads[index];
        let Some(demand) = self.chance.pick(&workload.demands) else {
            return;
        };
        let mut demand = demand.clone();
        let (low, high) = workload.run_secs;
        let mut runs_for = Duration::from_secs(self.chance.uneven(low, high));
        if supervisor {
            demand = Demand {
                vcpus: demand.vcpus.min(1),
                ram: demand.ram.min(256 * MIB),
                supervisor: true,
                ..Demand::default()
            };
            runs_for += Duration::from_secs(high);
        }
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
        queue.submit(stage, demand, priority, runs_for);
    }

    fn tick(&mut self, stage: &mut Stage, queue: &mut Queue) {
        stage.after(TICK, Happening::Users(UserStep::Tick));
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
                stage.after(pause, Happening::Users(back));
            }
            _ => queue.delete(stage, id),
        }
    }

    /// Whether all has been submitted.
    pub(crate) fn idle(&self) -> bool {
        self.workloads.iter().all(|w| w.left == 0)
    }
}
