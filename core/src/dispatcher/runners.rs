//! Runners: assignment, start, stop, exit.

use super::Dispatcher;
use crate::cancel_reason::CancelReason;
use crate::command::{Signal, VmAction};
use crate::event::Event;
use crate::fleet::vm::{BehaviorCause, Phase, Runner, RunnerPhase, Vm};
use crate::ids::{ContainerId, VmKey, VmName};
use crate::input::{ContainerState, IdleBehavior, SignalReport, VmError};
use crate::mutants::Mutant;
use crate::outbox::Purpose;
use crate::queue::entry::Exit;
use crate::resources::Resources;
use crate::signals::{StopEscalation, StopReason, StopStage};
use crate::time::Timestamp;
use crate::timers::TimeoutReason;

/// Number of consecutive failed starts before an instance takes no more containers.
const START_FAILURES_MAX: u32 = 3;

impl Dispatcher {
    /// Assigns room on an instance to a container being locked.
    pub(super) fn assign_runner(
        &mut self,
        key: VmKey,
        id: ContainerId,
        (need, supervisor): (Resources, bool),
    ) {
        let runner = Runner {
            phase: RunnerPhase::Assigned,
            since: self.now,
            need: Some(need),
            supervisor,
            provable_from: Timestamp::NEVER,
            escalation: None,
        };
        let Some(vm) = self.fleet.add_runner(key, id, runner) else {
            return;
        };
        assert_eq!(
            vm.phase,
            Phase::Ready,
            "containers are assigned to ready instances"
        );
        assert_eq!(
            vm.behavior.idle,
            IdleBehavior::Run,
            "held instances take no containers"
        );
        self.out.event(Event::Assigned {
            container: id,
            instance: vm.name(),
        });
    }

    /// Starts a locked container on the assigned instance.
    pub(super) fn start(&mut self, key: VmKey, id: ContainerId) {
        let (now, Some(entry), Some(vm)) = (self.now, self.queue.get_mut(&id), self.fleet.get(key))
        else {
            return;
        };
        let mut usable = vm.takes_containers() && vm.phase == Phase::Ready;
        usable |= self.mutants.has(Mutant::HoldIgnoredAtStart);
        if !usable {
            // The instance was held or drained during the lock.
            self.remove_runner(key, &id);
            self.dirty.containers.insert(id);
            return;
        }
        entry.exit = None;
        let first = !std::mem::replace(&mut entry.started_here, true);
        let (instance, instance_type) = (vm.name(), vm.identity.type_name.clone());
        let waited = now.since(entry.created_at);
        let ready_wait = now.since(entry.first_seen.max(vm.vacancy.room_since));
        let action = VmAction::Start {
            container: id,
            instance_type: instance_type.clone(),
        };
        let timeout = self.config.timeouts.vm_answer;
        if self
            .ask_vm(key, timeout, Purpose::Start(key, id), action)
            .is_none()
        {
            self.remove_runner(key, &id);
            self.dirty.containers.insert(id);
            return;
        }
        #[cfg(feature = "mutants")]
        self.start_elsewhere(key, id);
        self.fleet.update(key, |vm| {
            let runner = vm
                .work
                .runners
                .get_mut(&id)
                .expect("the container is assigned");
            runner.phase = RunnerPhase::Starting;
            runner.since = now;
        });
        self.out.event(Event::StartIssued {
            container: id,
            instance,
            instance_type,
            waited,
            ready_wait,
            first,
        });
    }

    pub(super) fn on_started(&mut self, key: VmKey, id: ContainerId, result: Result<(), VmError>) {
        let now = self.now;
        let starting = |vm: &Vm| {
            let runner = vm.work.runners.get(&id)?;
            (runner.phase == RunnerPhase::Starting)
                .then(|| (vm.name(), runner.escalation.is_some()))
        };
        let Some((instance, stopping)) = self.fleet.get(key).and_then(starting) else {
            return;
        };
        // An earlier start may have taken effect late, on this instance too: a container in state
        // Running needs a probe.
        let runs = self.queue.get(&id);
        let runs = runs.is_some_and(|entry| entry.state == ContainerState::Running);
        let phase = match &result {
            Ok(()) => RunnerPhase::Alive,
            Err(_) if self.mutant(Mutant::UnsureIsGone) => RunnerPhase::Assigned,
            Err(_) if runs => RunnerPhase::Unsure,
            Err(VmError::Unreachable(_) | VmError::IdentityMismatch(_)) => RunnerPhase::Assigned,
            Err(VmError::Failed(_) | VmError::Lost(_)) => RunnerPhase::Unsure,
        };
        self.fleet.update(key, |vm| {
            if result.is_err() {
                vm.health.quarantined_since = Some(now);
                vm.health.start_failures += 1;
            } else {
                vm.health.start_failures = 0;
            }
            let runner = vm
                .work
                .runners
                .get_mut(&id)
                .expect("the runner is starting");
            runner.phase = phase;
            runner.provable_from = now;
        });
        let failures = self.fleet.get(key).map_or(0, |vm| vm.health.start_failures);
        if failures >= START_FAILURES_MAX {
            self.note_fault(key, "containers cannot be started on it");
        }
        let container = id;
        match result {
            Ok(()) => self.out.event(Event::Started {
                container,
                instance,
            }),
            Err(error) if phase == RunnerPhase::Assigned => {
                // The start had no effect, so no process is left.
                self.out.event(Event::StartFailed {
                    container,
                    instance: instance.clone(),
                    error: error.to_string(),
                });
                let reason = CancelReason::StartFailed { instance, error };
                self.end_runner(key, id, reason);
                self.probe_now(key);
                return;
            }
            Err(error) => {
                let error = error.to_string();
                self.out.event(Event::StartUnsure {
                    container,
                    instance,
                    error,
                });
                self.probe_now(key);
            }
        }
        if stopping {
            self.timers
                .set(TimeoutReason::SignalRunner(key, id), self.now);
        }
    }

    /// Removes a runner from an instance, without a conclusion about the container.
    pub(super) fn remove_runner(&mut self, key: VmKey, id: &ContainerId) {
        let now = self.now;
        self.timers.cancel(TimeoutReason::SignalRunner(key, *id));
        if let Some(runner) = self.fleet.remove_runner(key, id) {
            self.fleet.update(key, |vm| {
                vm.vacancy.room_since = now;
                if runner.phase != RunnerPhase::Assigned {
                    vm.vacancy.ended_at = now;
                }
                if vm.idle() {
                    vm.work.idle_since = now;
                }
            });
            self.dirty.vms.insert(key);
            self.dirty.placement = true;
        }
    }

    /// Removes a runner. `reason` is for the owner of the container, in case that no result was
    /// reported.
    pub(super) fn end_runner(&mut self, key: VmKey, id: ContainerId, reason: CancelReason) {
        let Some(instance) = self.fleet.get(key).map(Vm::name) else {
            return;
        };
        self.remove_runner(key, &id);
        self.note_exit(id, Some(key), instance, reason);
    }

    pub(super) fn note_exit(
        &mut self,
        id: ContainerId,
        on: Option<VmKey>,
        instance: VmName,
        reason: CancelReason,
    ) {
        let at = self.now;
        if let Some(entry) = self.queue.get_mut(&id) {
            entry.exit = Some(Box::new(Exit {
                at,
                on,
                reason,
                interrupted: false,
            }));
        }
        self.out.event(Event::RunnerExited {
            container: id,
            instance,
        });
        self.dirty.containers.insert(id);
    }

    /// Begins to stop a runner; no effect on a runner being stopped already.
    pub(super) fn stop(&mut self, key: VmKey, id: ContainerId, reason: &StopReason) {
        let Some(vm) = self.fleet.get(key) else {
            return;
        };
        let Some(runner) = vm.work.runners.get(&id) else {
            return;
        };
        if runner.phase == RunnerPhase::Assigned {
            self.remove_runner(key, &id);
            self.dirty.containers.insert(id);
            return;
        }
        if runner.escalation.is_some() || vm.phase == Phase::Shutdown {
            return;
        }
        let (now, instance) = (self.now, vm.name());
        self.fleet.update(key, |vm| {
            let runner = vm.work.runners.get_mut(&id).expect("the runner exists");
            runner.escalation = Some(Box::new(StopEscalation::new(now, reason.clone())));
        });
        self.out.event(Event::Stopping {
            container: id,
            instance,
            reason: reason.clone(),
        });
        self.timers.set(TimeoutReason::SignalRunner(key, id), now);
    }

    /// Stops every runner of a container unknown to the queue.
    pub(super) fn stop_unknown(&mut self, id: ContainerId) {
        let hosts: Vec<VmKey> = self.fleet.hosts(id).collect();
        for key in hosts {
            self.stop(key, id, &StopReason::UnknownContainer);
        }
    }

    /// Sends the next signal to a runner being stopped.
    pub(super) fn signal(&mut self, key: VmKey, id: ContainerId) {
        let Some(vm) = self.fleet.get(key) else {
            return;
        };
        let instance = vm.name();
        let (held, gone) = (
            vm.behavior.idle == IdleBehavior::Hold,
            vm.phase == Phase::Shutdown,
        );
        let Some(Runner {
            phase,
            escalation: Some(escalation),
            ..
        }) = vm.work.runners.get(&id)
        else {
            return;
        };
        // A starting runner holds no lock yet and would look gone. A signal to the previous runner
        // on the same instance may be in flight: the answer to that signal leads here again.
        let before = self.signals.contains_key(&(id, key));
        if before || *phase == RunnerPhase::Starting || gone {
            return;
        }
        let mut escalation = escalation.clone();
        let down = escalation.advance(self.now, &self.config.timeouts);
        let container = id;
        if down && escalation.stage == StopStage::Unkillable {
            self.out.event(Event::Unkillable {
                container,
                instance: instance.clone(),
                held,
            });
            if !held {
                let cause = BehaviorCause::Unkillable(container);
                self.set_behavior(key, IdleBehavior::Drain, cause);
            }
            self.dirty.vms.insert(key);
        }
        let mut signal = escalation.stage.signal();
        if self.mutant(Mutant::KillNeverSent) {
            signal = Signal::Term;
        }
        let action = VmAction::Signal { container, signal };
        let timeout = self.config.timeouts.vm_answer;
        escalation.in_flight = self.ask_vm(key, timeout, Purpose::Signal(key, id), action);
        if let Some(sent) = escalation.in_flight {
            self.signals.insert((id, key), sent);
            self.out.event(Event::Signalling {
                container,
                instance,
                signal,
            });
        } else {
            let at = self.now + self.config.timeouts.signal;
            self.timers.set(TimeoutReason::SignalRunner(key, id), at);
        }
        let marks_must_replace =
            escalation.stage != StopStage::Term && !self.config.kill_reaches_tree;
        self.fleet.update(key, |vm| {
            vm.health.must_replace |= marks_must_replace;
            vm.work
                .runners
                .get_mut(&id)
                .expect("the runner exists")
                .escalation = Some(escalation);
        });
    }

    /// True if a signal to any runner of a container is in flight.
    pub(super) fn any_signal_in_flight(&self, id: ContainerId) -> bool {
        let all_vms = (id, VmKey(0))..=(id, VmKey(u64::MAX));
        self.signals.range(all_vms).next().is_some()
    }

    pub(super) fn on_signalled(
        &mut self,
        key: VmKey,
        id: ContainerId,
        result: Result<SignalReport, VmError>,
    ) {
        let sent = self.signals.remove(&(id, key));
        self.dirty.containers.insert(id);
        let ended = self.fleet.update(key, |vm| {
            let escalation = vm.work.runners.get_mut(&id)?.escalation.as_mut()?;
            let answered = escalation.in_flight == sent;
            escalation.in_flight = None;
            Some((escalation.reason.clone(), answered))
        });
        let Some(Some((reason, answered))) = ended else {
            return;
        };
        if !answered {
            // The answer belongs to the previous runner.
            self.timers
                .set(TimeoutReason::SignalRunner(key, id), self.now);
            return;
        }
        match result {
            Ok(SignalReport::Gone) => {
                self.end_runner(key, id, CancelReason::Stopped(reason));
            }
            Ok(SignalReport::Alive) | Err(_) => {
                let at = self.now + self.config.timeouts.signal;
                self.timers.set(TimeoutReason::SignalRunner(key, id), at);
            }
        }
    }

    /// Sets the resources of runners found on instances, after the record of the container is
    /// known.
    pub(super) fn update_needs(&mut self, id: ContainerId) {
        let Some((need, supervisor)) = self.known_need(id) else {
            return;
        };
        let hosts: Vec<VmKey> = self.fleet.hosts(id).collect();
        for key in hosts {
            self.fleet.update(key, |vm| {
                if let Some(runner) = vm.work.runners.get_mut(&id) {
                    runner.need = Some(need);
                    runner.supervisor = supervisor;
                }
            });
        }
    }

    /// Resources of a container, and true for a supervisor; `None` without a valid record.
    pub(super) fn known_need(&self, id: ContainerId) -> Option<(Resources, bool)> {
        let class = *self.queue.get(&id)?.class.as_ref().ok()?;
        let class = &self.queue.class(class).class;
        Some((class.need, class.supervisor))
    }
}
