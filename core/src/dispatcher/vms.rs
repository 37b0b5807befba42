//! Reconciliation of instances.

use super::Dispatcher;
use crate::cancel_reason::CancelReason;
use crate::capacity::boot_breaker::Kind;
use crate::event::{BootOutcome, Event};
use crate::fleet::vm::{BehaviorCause, Phase, Runner, RunnerPhase, ShutdownReason, Vm};
use crate::ids::{ContainerId, VmKey};
use crate::input::IdleBehavior;
use crate::mutants::Mutant;
use crate::signals::StopStage;
use crate::time::Timestamp;
use crate::timers::TimeoutReason;

/// Next action for an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
enum NextAction {
    /// Reconcile again at that time.
    Wait(Timestamp),
    /// Forget a create request without any instance.
    WriteOff,
    /// Cordon the instance: no more containers; destroyed after a probe without runners.
    Cordon(ShutdownReason),
    /// Uncordon the instance.
    Uncordon,
    Shutdown(ShutdownReason),
    /// Report a run lock held for too long without a runner.
    Fault,
}

impl Dispatcher {
    pub(super) fn reconcile_vm(&mut self, key: VmKey) {
        let Some(vm) = self.fleet.get(key) else {
            return;
        };
        match self.next_for_vm(vm) {
            NextAction::Wait(at) if at == Timestamp::NEVER => {
                self.timers.cancel(TimeoutReason::ReconcileVm(key));
            }
            // An early reconciliation is harmless, and moving the deadline with each probe would
            // cost more.
            NextAction::Wait(at) => self.timers.set_earlier(TimeoutReason::ReconcileVm(key), at),
            NextAction::WriteOff => self.write_off(key),
            NextAction::Cordon(reason) => self.cordon(key, reason),
            NextAction::Uncordon => self.uncordon(key),
            NextAction::Shutdown(reason) => self.begin_shutdown(key, reason),
            NextAction::Fault => self.note_fault(key, "a run lock is held and its runner is gone"),
        }
        self.write_tag(key);
    }

    fn next_for_vm(&self, vm: &Vm) -> NextAction {
        match vm.phase {
            Phase::Creating => match vm.lifecycle.write_off_at {
                Some(at) if at <= self.now => NextAction::WriteOff,
                Some(at) => NextAction::Wait(at),
                None => NextAction::Wait(Timestamp::NEVER),
            },
            Phase::Shutdown => NextAction::Wait(Timestamp::NEVER),
            Phase::Booting | Phase::Unknown => self.next_for_booting(vm),
            Phase::Ready | Phase::Cordoned => self.next_for_ready(vm),
        }
    }

    fn next_for_booting(&self, vm: &Vm) -> NextAction {
        if vm.behavior.idle == IdleBehavior::Hold {
            return NextAction::Wait(Timestamp::NEVER);
        }
        if let Some(next) = self.next_for_unkillable(vm) {
            return next;
        }
        let nothing_runs = vm.live_runners().next().is_none() && !vm.unprobed();
        if vm.behavior.idle == IdleBehavior::Drain && nothing_runs {
            return NextAction::Shutdown(ShutdownReason::Drained);
        }
        match self.boot_due(vm) {
            Some((deadline, _)) if deadline > self.now => NextAction::Wait(deadline),
            Some((_, reason)) => NextAction::Shutdown(reason),
            None => NextAction::Wait(Timestamp::NEVER),
        }
    }

    /// Deadline of an instance not ready yet, with the reason; `None` while the rate limit holds
    /// back the probe. Time in the probe queue does not count.
    pub(crate) fn boot_due(&self, vm: &Vm) -> Option<(Timestamp, ShutdownReason)> {
        if vm.probe.queued_since.is_some() || self.mutant(Mutant::BootTimeoutIgnored) {
            return None;
        }
        let begun = vm.lifecycle.appeared_at.unwrap_or(vm.lifecycle.since);
        let booting = begun + self.config.timeouts.booting + vm.probe.queued_for;
        // The instance lists runners, and at least one is alive: the boot timeout does not apply
        // while probes succeed.
        let busy = vm.probe.listed && vm.live_runners().next().is_some();
        let silent = vm.probe.list_from + self.config.timeouts.probe + vm.probe.queued_for;
        if busy && silent > booting {
            Some((silent, ShutdownReason::Unresponsive))
        } else {
            Some((booting, ShutdownReason::BootTimeout))
        }
    }

    fn next_for_ready(&self, vm: &Vm) -> NextAction {
        let held = vm.behavior.idle == IdleBehavior::Hold && !self.mutant(Mutant::IdleHoldIgnored);
        if vm.phase == Phase::Cordoned && (held || !vm.idle()) {
            return NextAction::Uncordon;
        }
        let stale = self.stale_due(vm);
        if held {
            return match stale {
                Some(due) if due <= self.now => NextAction::Fault,
                due => NextAction::Wait(due.unwrap_or(Timestamp::NEVER)),
            };
        }
        if let Some(next) = self.next_for_unkillable(vm) {
            return next;
        }
        let silent = self.silent_due(vm);
        if silent.is_some_and(|due| due <= self.now) {
            return NextAction::Shutdown(ShutdownReason::Unresponsive);
        }
        // Without an unanswered probe, check again later.
        let mut next = silent.unwrap_or(self.now + self.config.timeouts.probe);
        if let Some(due) = stale {
            if due <= self.now {
                return NextAction::Fault;
            }
            next = next.min(due);
        }
        if vm.phase == Phase::Ready && vm.idle() {
            if vm.behavior.idle == IdleBehavior::Drain || vm.health.must_replace {
                return NextAction::Cordon(ShutdownReason::Drained);
            }
            let due = vm.work.idle_since + self.config.timeouts.idle;
            if due <= self.now {
                return NextAction::Cordon(ShutdownReason::Idle);
            }
            next = next.min(due);
        }
        NextAction::Wait(next)
    }

    /// Deadline of a run lock without a runner; `None` after the fault was reported.
    fn stale_due(&self, vm: &Vm) -> Option<Timestamp> {
        let known = vm.health.fault.is_some() && vm.behavior.idle != IdleBehavior::Run;
        let since = vm.health.stale_since.filter(|_| !known)?;
        Some(since + self.config.timeouts.stale_run_lock)
    }

    /// Deadline of an unresponsive ready instance; `None` without an unanswered probe.
    pub(crate) fn silent_due(&self, vm: &Vm) -> Option<Timestamp> {
        if vm.probe.queued_since.is_some() || self.mutant(Mutant::SilenceIgnored) {
            return None;
        }
        let since = vm.probe.unanswered_since?;
        let mut timeout = self.config.timeouts.probe;
        if self.mutant(Mutant::TimeoutProbeEarly) {
            timeout /= 2;
        }
        Some(since + timeout + vm.probe.queued_for)
    }

    /// Terminates an instance with unkillable runners after the end of all others, at the latest
    /// after `TimeoutUnkillable`.
    fn next_for_unkillable(&self, vm: &Vm) -> Option<NextAction> {
        let due = self.unkillable_due(vm)?;
        if self.mutant(Mutant::UnkillableStays) {
            return Some(NextAction::Wait(Timestamp::NEVER));
        }
        let all = vm
            .work
            .runners
            .values()
            .all(|r| unkillable_since(r).is_some());
        if all || due <= self.now {
            return Some(NextAction::Shutdown(ShutdownReason::Unkillable));
        }
        Some(NextAction::Wait(due))
    }

    /// Deadline of an instance with unkillable runners.
    pub(crate) fn unkillable_due(&self, vm: &Vm) -> Option<Timestamp> {
        let first = vm
            .work
            .runners
            .values()
            .filter_map(unkillable_since)
            .min()?;
        Some(first + self.config.timeouts.unkillable)
    }

    fn write_off(&mut self, key: VmKey) {
        if let Some(vm) = self.fleet.remove(key) {
            self.cancel_timers(&vm);
            if let Some(intent) = vm.identity.intent {
                let instance_type = vm.identity.type_name;
                self.out.event(Event::CreateWrittenOff {
                    intent,
                    instance_type,
                });
            }
            self.dirty.placement = true;
        }
    }

    pub(super) fn cordon(&mut self, key: VmKey, reason: ShutdownReason) {
        let now = self.now;
        let instance = self.fleet.update(key, |vm| {
            assert!(vm.idle(), "only idle instances are cordoned");
            assert_eq!(vm.phase, Phase::Ready, "only ready instances are cordoned");
            vm.phase = Phase::Cordoned;
            vm.shutdown.reason = Some(reason.clone());
            vm.shutdown.since = now;
            (
                vm.name(),
                vm.identity.type_name.clone(),
                vm.probe.complaint.clone(),
            )
        });
        if let Some((instance, instance_type, complaint)) = instance {
            self.out.event(Event::Terminating {
                instance,
                instance_type,
                reason: reason.clone(),
                complaint,
            });
            self.probe_now(key);
            self.dirty.vms.insert(key);
            if self.mutant(Mutant::CordonUnconfirmed) {
                self.begin_shutdown(key, reason);
            }
        }
    }

    pub(super) fn uncordon(&mut self, key: VmKey) {
        let now = self.now;
        let instance = self.fleet.update(key, |vm| {
            vm.phase = Phase::Ready;
            vm.shutdown.reason = None;
            vm.work.idle_since = now;
            vm.vacancy.room_since = now;
            vm.name()
        });
        if let Some(instance) = instance {
            self.out.event(Event::Uncordoned { instance });
            self.dirty.vms.insert(key);
            self.dirty.placement = true;
        }
    }

    /// Shuts down a cordoned instance after a probe begun since the cordon and without runners.
    pub(super) fn confirm_cordon(&mut self, started: Timestamp, key: VmKey) {
        let Some(vm) = self.fleet.get(key) else {
            return;
        };
        let confirmed = vm.phase == Phase::Cordoned
            && vm.idle()
            && started >= vm.shutdown.since
            && (vm.behavior.idle != IdleBehavior::Hold || self.mutant(Mutant::IdleHoldIgnored));
        if confirmed && let Some(reason) = vm.shutdown.reason.clone() {
            self.begin_shutdown(key, reason);
        }
    }

    /// Begins the shutdown. Irreversible after the first destroy: destroys are sent until the
    /// instance is gone.
    pub(super) fn begin_shutdown(&mut self, key: VmKey, reason: ShutdownReason) {
        let now = self.now;
        let Some(vm) = self.fleet.get(key) else {
            return;
        };
        if vm.phase == Phase::Shutdown {
            return;
        }
        // The cordon has reported the reason; an operator may have given another reason since.
        let reported = vm.phase == Phase::Cordoned && vm.shutdown.reason.as_ref() == Some(&reason);
        let instance_type = vm.identity.type_name.clone();
        let outcome = match reason {
            // A possibly preempted instance is no evidence about the type.
            ShutdownReason::BootTimeout if vm.liveness.absent_lists == 0 => BootOutcome::Failure,
            _ => BootOutcome::Aborted,
        };
        self.note_boot(key, outcome);
        let begun = self.fleet.update(key, |vm| {
            vm.shutdown.before = Some(vm.phase);
            vm.phase = Phase::Shutdown;
            vm.shutdown.reason = Some(reason.clone());
            vm.shutdown.since = now;
            let assigned = vm.work.runners.iter();
            let assigned = assigned.filter(|(_, r)| r.phase == RunnerPhase::Assigned);
            let assigned: Vec<ContainerId> = assigned.map(|(id, _)| *id).collect();
            (vm.name(), vm.probe.complaint.clone(), assigned)
        });
        let Some((instance, complaint, assigned)) = begun else {
            return;
        };
        for id in assigned {
            self.remove_runner(key, &id);
            self.dirty.containers.insert(id);
        }
        if !reported {
            self.out.event(Event::Terminating {
                instance,
                instance_type,
                reason,
                complaint,
            });
        }
        self.timers.cancel(TimeoutReason::ProbeVm(key));
        self.dequeue_probe(key);
        self.destroy(key);
    }

    /// Removes an instance that no longer exists. `confirmed` is true if the cloud reports the
    /// termination.
    pub(super) fn note_gone(&mut self, key: VmKey, confirmed: bool) {
        self.note_boot(key, BootOutcome::Disappeared);
        let unprobed_before = self.fleet.any_unprobed();
        let Some(vm) = self.fleet.remove(key) else {
            return;
        };
        self.cancel_timers(&vm);
        let instance = vm.name();
        let shutdown = vm.phase == Phase::Shutdown;
        if let (Some(id), Some(reason), true) =
            (&vm.identity.instance, &vm.shutdown.reason, shutdown)
        {
            let until = self.now + self.config.timeouts.disappear_grace;
            let sync = self.syncs.entry(vm.identity.cloud).or_default();
            sync.tombstones.insert(id.clone(), (until, reason.clone()));
        }
        let why = match (&vm.shutdown.reason, shutdown) {
            (Some(reason), true) => CancelReason::InstanceShutDown {
                instance: instance.clone(),
                reason: reason.clone(),
            },
            _ => CancelReason::InstanceDisappeared {
                instance: instance.clone(),
            },
        };
        self.out.event(Event::Gone {
            instance,
            instance_type: vm.identity.type_name.clone(),
            phase: vm.phase,
            runners: vm.live_runners().count(),
            expected: shutdown.then(|| self.now.since(vm.shutdown.since)),
        });
        for (id, runner) in vm.work.runners.iter() {
            if runner.phase == RunnerPhase::Assigned {
                self.dirty.containers.insert(*id);
            } else {
                self.note_runner_lost(*id, &vm, confirmed, why.clone());
            }
        }
        if unprobed_before && !self.fleet.any_unprobed() {
            self.mark_unowned_locks_dirty();
        }
        self.dirty.placement = true;
    }

    fn cancel_timers(&mut self, vm: &Vm) {
        let key = vm.key;
        for reason in [
            TimeoutReason::ProbeVm(key),
            TimeoutReason::ReconcileVm(key),
            TimeoutReason::DestroyVm(key),
        ] {
            self.timers.cancel(reason);
        }
        self.dequeue_probe(key);
        self.dequeue_destroy(vm.identity.cloud, key);
        for id in vm.work.runners.keys() {
            self.timers.cancel(TimeoutReason::SignalRunner(key, *id));
        }
    }

    /// Reports a fault once and drains the instance; a held instance stays.
    pub(super) fn note_fault(&mut self, key: VmKey, why: &str) {
        let Some(vm) = self.fleet.get(key) else {
            return;
        };
        let (behavior, known) = (vm.behavior.idle, vm.health.fault.is_some());
        if !known {
            let event = Event::Broken {
                instance: vm.name(),
                instance_type: vm.identity.type_name.clone(),
                why: why.to_owned(),
                held: behavior == IdleBehavior::Hold,
            };
            self.out.event(event);
            self.fleet
                .update(key, |vm| vm.health.fault = Some(why.to_owned()));
            self.note_boot(key, BootOutcome::Failure);
        }
        if behavior == IdleBehavior::Run {
            let cause = BehaviorCause::Broken(why.to_owned());
            self.set_behavior(key, IdleBehavior::Drain, cause);
        }
    }

    pub(super) fn set_behavior(
        &mut self,
        key: VmKey,
        behavior: IdleBehavior,
        cause: BehaviorCause,
    ) {
        let now = self.now;
        let changed = self.fleet.update(key, |vm| {
            let changed = vm.behavior.idle != behavior;
            vm.behavior.idle = behavior;
            if changed {
                vm.behavior.cause = cause.clone();
                vm.behavior.since = now;
            }
            if changed && behavior == IdleBehavior::Run {
                vm.work.idle_since = now;
                vm.vacancy.room_since = now;
            }
            changed.then(|| vm.name())
        });
        if let Some(Some(instance)) = changed {
            self.out.event(Event::BehaviorChanged {
                instance,
                behavior,
                cause,
            });
            self.dirty.vms.insert(key);
            self.dirty.placement = true;
        }
    }

    /// Counts the outcome of a boot, once for each instance.
    pub(super) fn note_boot(&mut self, key: VmKey, outcome: BootOutcome) {
        let counted = self.fleet.update(key, |vm| {
            let first = !std::mem::replace(&mut vm.health.boot_counted, true);
            let kind = (vm.identity.type_name.clone(), vm.identity.image.clone());
            (first && !vm.lifecycle.found).then(|| (vm.name(), kind, vm.last_words()))
        });
        if let Some(Some((instance, kind, why))) = counted {
            self.out.event(Event::Boot {
                instance,
                instance_type: kind.0.clone(),
                outcome,
            });
            self.update_boot_breaker(kind, outcome, why);
        }
    }

    /// Updates the boot breaker. Preempted and aborted boots are no evidence.
    fn update_boot_breaker(&mut self, kind: Kind, outcome: BootOutcome, why: String) {
        let (instance_type, image) = kind.clone();
        let boot_breaker = &mut self.capacity.boot_breaker;
        match outcome {
            BootOutcome::Success => {
                if boot_breaker.succeeded(&kind) {
                    self.out.event(Event::BootBackoffEnded {
                        instance_type,
                        image,
                    });
                }
            }
            BootOutcome::Failure => {
                let (max, jitter) = (self.config.limits.boot_failures, self.chance.jitter());
                if boot_breaker.failed(self.now, max, kind.clone(), jitter, why) {
                    let paused = boot_breaker.paused().find(|(paused, ..)| **paused == kind);
                    let (_, failures, pause) = paused.expect("the back-off has just begun");
                    self.out.event(Event::BootBackoffStarted {
                        instance_type,
                        image,
                        failures,
                        until: pause.until,
                        why: pause.why.clone(),
                    });
                }
            }
            BootOutcome::Aborted | BootOutcome::Disappeared => {}
        }
        self.dirty.placement = true;
    }

    /// Takes over the configuration of instance types.
    pub(super) fn refresh_instance_types(&mut self) {
        let keys: Vec<VmKey> = self.fleet.iter().map(|vm| vm.key).collect();
        for key in keys {
            let types = &self.config.types;
            let unowned = self.fleet.update(key, |vm| {
                let configured = types.get(&vm.identity.type_name);
                if let Some(offer) = configured {
                    vm.identity.offer = Some(offer.into());
                }
                configured.is_none() && vm.behavior.idle == IdleBehavior::Run
            });
            if unowned == Some(true) {
                self.set_behavior(key, IdleBehavior::Drain, BehaviorCause::TypeRemoved);
            }
            self.dirty.vms.insert(key);
        }
    }
}

/// Start of the time in which KILL had no effect.
fn unkillable_since(runner: &Runner) -> Option<Timestamp> {
    let escalation = runner.escalation.as_ref()?;
    (escalation.stage == StopStage::Unkillable).then_some(escalation.stage_since)
}
