//! Preemption of instances, and the effect on containers: interrupted, not failed.

use super::Dispatcher;
use crate::cancel_reason::CancelReason;
use crate::event::Event;
use crate::fleet::vm::{BehaviorCause, Phase, ShutdownReason, Vm};
use crate::ids::{ContainerId, VmKey};
use crate::input::{ContainerState, IdleBehavior};
use crate::mutants::Mutant;
use crate::queue::entry::Entry;
use crate::time::Timestamp;

impl Dispatcher {
    /// Notes a preemption, reported by the instance or by a list: the instance takes no more
    /// containers, and running containers may use the remaining time.
    pub(super) fn note_preemption(&mut self, key: VmKey, at: Timestamp) {
        if self.mutant(Mutant::PreemptionNoticeIgnored) {
            return;
        }
        let noted = self.fleet.update(key, |vm| {
            let first = vm.health.preempted_at.is_none();
            vm.health.preempted_at.get_or_insert(at);
            let living = vm.phase != Phase::Shutdown;
            let drain = living && vm.behavior.idle == IdleBehavior::Run;
            let containers = vm.live_runners().count();
            (
                first.then(|| (vm.name(), containers)),
                drain,
                vm.identity.type_name.clone(),
            )
        });
        let Some((first, drain, instance_type)) = noted else {
            return;
        };
        if let Some((instance, containers)) = first {
            self.out.event(Event::PreemptionNotice {
                instance,
                instance_type,
                at,
                containers,
            });
            self.dirty.placement = true;
        }
        if drain {
            self.set_behavior(key, IdleBehavior::Drain, BehaviorCause::Preempted);
        }
    }

    /// Notes the loss of a runner together with the instance. `confirmed` is true if the cloud
    /// itself reports the instance as terminated, so that no process is left.
    pub(super) fn note_runner_lost(
        &mut self,
        id: ContainerId,
        vm: &Vm,
        confirmed: bool,
        why: CancelReason,
    ) {
        let stopping = vm
            .work
            .runners
            .get(&id)
            .is_some_and(|r| r.escalation.is_some());
        if stopping || !was_preempted(vm) {
            return self.note_exit(id, None, vm.name(), why);
        }
        let instance = vm.name();
        let reason = CancelReason::Preempted {
            instance: instance.clone(),
        };
        self.note_exit(id, None, instance.clone(), reason);
        let counts = |entry: &&mut Entry| {
            matches!(
                entry.state,
                ContainerState::Locked | ContainerState::Running
            )
        };
        let Some(entry) = self.queue.get_mut(&id).filter(counts) else {
            return;
        };
        entry.interruptions = entry.interruptions.saturating_add(1);
        let times = entry.interruptions;
        if let Some(exit) = &mut entry.exit {
            exit.interrupted = confirmed;
        }
        self.out.event(Event::Interrupted {
            container: id,
            instance,
            instance_type: vm.identity.type_name.clone(),
            times,
        });
        let max = self.config.sizing.spot_fallback.interruptions;
        if max.is_some_and(|max| times >= max) && self.queue.fall_back(&self.config, id) {
            self.out.event(Event::FellBack {
                container: id,
                interruptions: times,
            });
        }
    }
}

/// True if the cloud preempted the instance: announced, or a preemptible instance gone without a
/// request. False after a kill by an operator.
fn was_preempted(vm: &Vm) -> bool {
    let preemptible = vm
        .identity
        .offer
        .as_ref()
        .is_some_and(|offer| offer.preemptible);
    match &vm.shutdown.reason {
        Some(ShutdownReason::Operator(_)) => false,
        Some(_) if vm.phase == Phase::Shutdown => vm.health.preempted_at.is_some(),
        _ => vm.health.preempted_at.is_some() || preemptible,
    }
}
