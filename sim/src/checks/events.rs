//! What the core tells and shows, checked and marked.

use std::time::Duration;

use longshore_core::event::{BootOutcome, Event, Level};
use longshore_core::ids::InstanceId;
use longshore_core::input::{CloudError, ContainerState};
use longshore_core::{CancelReason, CreateBlocked, ShutdownReason, StopReason, WaitReason};

use crate::world::World;
use crate::world::coverage::CoverageMark;
use crate::world::trace::Line;

/// No container may wait longer than this without a real reason.
const VAGUE_MAX: Duration = Duration::from_secs(900);
/// What is over and runs nowhere is forgotten within this.
const MEMORY_MAX: Duration = Duration::from_secs(2 * 3600);

impl World {
    /// The core tells something.
    pub(crate) fn check_event(&mut self, index: usize, event: &Event) {
        if event.level() == Level::Error {
            self.scheduler.violate("no errors", event.to_string());
        }
        let now = self.scheduler.now;
        if let Event::Terminating {
            instance, reason, ..
        } = event
        {
            self.check_leaving(index, &InstanceId::from(instance.as_str()), reason);
        }
        let process = &mut self.processes.all[index];
        let shown_until = now + process.config.timeouts.disappear_grace;
        let ledger = &mut process.ledger;
        match event {
            Event::Terminating {
                instance, reason, ..
            } => {
                let id = InstanceId::from(instance.as_str());
                ledger.leaving.insert(id, (reason.clone(), now));
            }
            Event::Uncordoned { instance } => {
                ledger.leaving.remove(&InstanceId::from(instance.as_str()));
            }
            // One that is found again is decided anew, unless a list was merely behind.
            Event::Gone { instance, .. } => {
                let id = InstanceId::from(instance.as_str());
                if let Some((reason, _)) = ledger.leaving.remove(&id) {
                    ledger.buried.insert(id, (reason, shown_until));
                }
            }
            Event::BehaviorChanged {
                instance, behavior, ..
            } => {
                let id = InstanceId::from(instance.as_str());
                ledger.behavior.insert(id, (*behavior, now));
            }
            _ => {}
        }
        if let Event::Created { intent, .. } = event
            && ledger.lost.remove(intent)
        {
            self.scheduler.mark(CoverageMark::LostCreateMatched);
        }
        if let Event::Created { instance_type, .. } = event
            && self.processes.all[index]
                .ledger
                .failed
                .remove(instance_type)
        {
            self.scheduler.mark(CoverageMark::CanarySucceeded);
        }
        if let Event::ContainerCancelled { container, reason } = event {
            let timed_out = matches!(reason, CancelReason::SchedulingTimeout { .. });
            let cancelled = (index, *container);
            match timed_out {
                true => self.memory.timed_out.insert(cancelled),
                false => self.memory.timed_out.remove(&cancelled),
            };
        }
        if let Some(mark) = mark_of(event) {
            self.scheduler.mark(mark);
        }
        self.mark_unsure(index, event);
    }

    fn mark_unsure(&mut self, index: usize, event: &Event) {
        let ledger = &mut self.processes.all[index].ledger;
        match event {
            Event::StartUnsure { container, .. } => {
                ledger.unsure.insert(*container);
            }
            Event::ContainerState {
                container,
                to: ContainerState::Running,
                ..
            } if ledger.unsure.remove(container) => {
                self.scheduler.mark(CoverageMark::StartUnsureFound)
            }
            _ => {}
        }
    }

    /// After everything was drained: a fingerprint, where somebody wants to compare.
    pub(crate) fn check_state(&mut self, index: usize) {
        let scheduler = &mut self.scheduler;
        if !scheduler.trace.is_full() {
            return;
        }
        if let Some(core) = &self.processes.all[index].core {
            let hash = core.state_hash();
            let (process, now) = (index, self.processes.all[index].clock(scheduler.now));
            scheduler.trace.line(now, || Line::State { process, hash });
        }
    }

    /// What is too dear for every event: everything that waits has a reason, and nothing is
    /// remembered for ever.
    pub(crate) fn look(&mut self) {
        let Some(core) = &self.processes.all[0].core else {
            return self.memory.vague.clear();
        };
        let view = core.view();
        if !view.is_leader() || self.queue.is_stormy(self.scheduler.now) || self.stalls(0) {
            return self.memory.vague.clear();
        }
        let now = self.scheduler.now;
        let mut wrong = Vec::new();
        let mut marks = Vec::new();
        let mut vague = std::collections::BTreeMap::new();
        let containers = view.containers();
        let untrue = self.untrue_reasons(&view, &containers);
        wrong.extend(untrue.into_iter().map(|text| ("true reasons", text)));
        let excess = self.excess(&core.memory_stats());
        wrong.extend(excess.into_iter().map(|text| ("bounded memory", text)));
        for container in containers {
            let id = container.id;
            let waits = matches!(
                container.state,
                ContainerState::Queued | ContainerState::Locked
            );
            match &container.waiting {
                None if waits => wrong.push(("reasons", format!("{id} waits for no reason"))),
                Some(WaitReason::LockedElsewhere) if self.queue.is_locked_elsewhere(id) => {}
                Some(
                    WaitReason::NotEvaluated | WaitReason::Updating | WaitReason::LockedElsewhere,
                ) => {
                    let since = self.memory.vague.get(&id).copied().unwrap_or(now);
                    if now.since(since) > VAGUE_MAX {
                        let why = &container.waiting;
                        let text = format!("{id} waits for {why:?} since {since}");
                        wrong.push(("reasons", text));
                    }
                    vague.insert(id, since);
                }
                Some(WaitReason::CreateBlocked(blocked)) => {
                    marks.extend(blocked.iter().filter_map(|(_, why)| match why {
                        CreateBlocked::MaxInstances => Some(CoverageMark::WaitedForInstances),
                        CreateBlocked::MaxPricePerHour => Some(CoverageMark::WaitedForPrice),
                        CreateBlocked::Budget { .. } => Some(CoverageMark::WaitedForBudget),
                        CreateBlocked::Containers { .. } => Some(CoverageMark::WaitedForOverload),
                        CreateBlocked::Supervisors { .. } => {
                            Some(CoverageMark::WaitedForSupervisors)
                        }
                        CreateBlocked::BootsFail { .. } => Some(CoverageMark::WaitedForBoots),
                        _ => None,
                    }));
                }
                _ => {}
            }
            let record = self.queue.records.get(&id);
            let ended = record.and_then(|record| record.ended_at);
            if container.instance.is_none() && ended.is_some_and(|at| now.since(at) > MEMORY_MAX) {
                wrong.push(("bounded memory", format!("{id} is remembered for too long")));
            }
        }
        self.memory.vague = vague;
        for mark in marks {
            self.scheduler.mark(mark);
        }
        for (rule, text) in wrong {
            self.scheduler.violate(rule, text);
        }
    }

    /// What each thing that is stuck waits for.
    pub(crate) fn stuck(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let view = self.processes.all[0].core.as_ref().map(|core| core.view());
        for (id, record) in self.queue.open_records().take(10) {
            let shown = view.as_ref().and_then(|view| view.container(*id));
            let why = shown.map(|c| format!("{:?} on {:?}, {:?}", c.state, c.instance, c.waiting));
            lines.push(format!(
                "{id} is {:?}, priority {}, locked {} times; the core: {why:?}",
                record.state, record.priority, record.lock_count
            ));
        }
        for instance in self.cloud.living().take(10) {
            let id = &instance.record.id;
            let shown = view.as_ref().and_then(|view| view.instance(id));
            let why = shown.map(|v| {
                format!(
                    "{:?}, {:?}, containers {:?}, leaving {:?}, complaint {:?}",
                    v.phase, v.idle_behavior, v.containers, v.terminating, v.complaint
                )
            });
            lines.push(format!("{id} exists; the core: {why:?}"));
        }
        for instance in view.iter().flat_map(|v| v.instances()).take(10) {
            let gone = instance.instance.as_ref();
            if gone.is_none_or(|id| !self.cloud.is_alive(id)) {
                lines.push(format!("the core has {instance:?}"));
            }
        }
        for container in view.iter().flat_map(|v| v.containers()).take(10) {
            lines.push(format!("the core has {container:?}"));
        }
        lines
    }
}

fn mark_of(event: &Event) -> Option<CoverageMark> {
    Some(match event {
        Event::ContainerCancelled { reason, .. } => match reason {
            CancelReason::SchedulingTimeout { .. } => CoverageMark::SchedulingTimedOut,
            CancelReason::InstanceDisappeared { .. } | CancelReason::Preempted { .. } => {
                CoverageMark::CancelledVmGone
            }
            CancelReason::RunnerExited { .. } => CoverageMark::CancelledNoResult,
            CancelReason::Unsatisfiable(_) | CancelReason::Malformed(_) => {
                CoverageMark::UnsatisfiableCancelled
            }
            _ => return None,
        },
        Event::Stopping { reason, .. } => match reason {
            StopReason::PriorityZero => CoverageMark::StoppedAtPriorityZero,
            StopReason::EarlierAttempt => CoverageMark::StoppedEarlierAttempt,
            StopReason::UnknownContainer => CoverageMark::StoppedUnknown,
            StopReason::Final => CoverageMark::StoppedFinal,
            _ => return None,
        },
        Event::Signalling {
            signal: longshore_core::command::Signal::Kill,
            ..
        } => CoverageMark::KillNeeded,
        Event::Unkillable { held: true, .. } => CoverageMark::UnkillableHeld,
        Event::Unkillable { .. } => CoverageMark::KillFailed,
        Event::CreateWrittenOff { .. } => CoverageMark::CreateWrittenOff,
        Event::InstanceFound { .. } => CoverageMark::InstanceFound,
        Event::RunnerFound { .. } => CoverageMark::RunnerAdopted,
        Event::StartUnsure { .. } => CoverageMark::StartUnsure,
        Event::Uncordoned { .. } => CoverageMark::Uncordoned,
        Event::Terminating { reason, .. } => match reason {
            ShutdownReason::Idle => CoverageMark::IdleShutdown,
            ShutdownReason::Drained => CoverageMark::DrainShutdown,
            ShutdownReason::MakeRoom => CoverageMark::MadeRoom,
            ShutdownReason::BootTimeout => CoverageMark::BootTimeout,
            ShutdownReason::Unresponsive => CoverageMark::Unresponsive,
            ShutdownReason::Unkillable => CoverageMark::UnkillableVmDestroyed,
            ShutdownReason::Operator(_) => return None,
        },
        Event::Broken { held: true, .. } => CoverageMark::BrokenHeld,
        Event::Broken { .. } => CoverageMark::BrokenDrained,
        Event::Boot {
            outcome: BootOutcome::Disappeared,
            ..
        }
        | Event::Gone { expected: None, .. } => CoverageMark::Disappeared,
        Event::DestroyIssued { attempt, .. } if *attempt > 1 => CoverageMark::DestroyRepeated,
        Event::CloudCalled {
            error: Some(error), ..
        } => match error {
            CloudError::Quota { .. } => CoverageMark::QuotaMet,
            CloudError::Capacity { .. } => CoverageMark::CapacityMissing,
            CloudError::RateLimited { .. } => CoverageMark::RateLimited,
            _ => return None,
        },
        Event::PreemptionNotice { .. } => CoverageMark::PreemptionNotice,
        Event::Interrupted { .. } => CoverageMark::Interrupted,
        Event::FellBack { .. } => CoverageMark::FellBack,
        Event::BootBackoffStarted { .. } => CoverageMark::BootBackoffStarted,
        Event::BootBackoffEnded { .. } => CoverageMark::BootBackoffEnded,
        Event::AddressChanged { .. } => CoverageMark::AddressChanged,
        Event::LateAnswer { .. } => CoverageMark::LateAnswer,
        Event::Reconfigured { .. } => CoverageMark::Reconfigured,
        _ => return None,
    })
}
