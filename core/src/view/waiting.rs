//! Reasons of waiting containers.

use super::View;
use crate::fleet::vm::{Phase, RunnerPhase, Vm};
use crate::input::{ContainerState, IdleBehavior};
use crate::mutants::Mutant;
use crate::queue::entry::{Entry, Op};
use crate::time::Timestamp;
use crate::wait_reason::WaitReason;

impl View<'_> {
    /// Reason of the wait; `None` for a running or final container.
    pub(super) fn waiting_for(&self, entry: &Entry) -> Option<WaitReason> {
        let starting = matches!(entry.state, ContainerState::Queued | ContainerState::Locked);
        if !starting {
            return None;
        }
        if entry.priority == 0 {
            return Some(WaitReason::PriorityZero);
        }
        if !self.core.is_leader() || !self.core.is_synced() {
            return Some(WaitReason::Syncing);
        }
        if entry.state == ContainerState::Locked && !entry.locked_by_us && entry.op.is_none() {
            return Some(WaitReason::LockedElsewhere);
        }
        if let Some(why) = self.core.queue().cancel_reason(entry) {
            return Some(WaitReason::Unsatisfiable(why.to_string()));
        }
        if let Some(waiting) = self.waiting_at_host(entry) {
            return Some(waiting);
        }
        if let Some(at) = entry.retry_at.filter(|at| *at > self.core.now()) {
            return Some(WaitReason::Retry { at });
        }
        if entry.op.is_some() {
            return Some(WaitReason::Updating);
        }
        if !self.core.queue().is_waiting(&entry.id) {
            return Some(if self.core.fleet().any_unprobed() {
                WaitReason::Unprobed
            } else if self.core.is_queue_failing() {
                WaitReason::Queue
            } else {
                WaitReason::NotEvaluated
            });
        }
        (!self.core.mutant(Mutant::ReasonForgotten)).then(|| self.waiting_for_room(entry))
    }

    /// Expected time of the next termination: now with a terminating instance, otherwise the end of
    /// the idle timeout of an idle instance. O(instances).
    pub(super) fn next_release_at(&self) -> Option<Timestamp> {
        let release_at = |vm: &Vm| match vm.phase {
            Phase::Cordoned | Phase::Shutdown => Some(self.core.now()),
            Phase::Ready if vm.idle() && vm.behavior.idle != IdleBehavior::Hold => {
                Some(vm.work.idle_since + self.core.config().timeouts.idle)
            }
            _ => None,
        };
        self.core.fleet().iter().filter_map(release_at).min()
    }

    fn waiting_at_host(&self, entry: &Entry) -> Option<WaitReason> {
        let key = self.core.fleet().hosts(entry.id).next()?;
        let vm = self.core.fleet().get(key)?;
        let instance = vm.name();
        let phase = vm.work.runners.get(&entry.id)?.phase;
        let ours = entry.state == ContainerState::Locked || entry.op == Some(Op::Lock);
        Some(if ours || phase == RunnerPhase::Assigned {
            WaitReason::Starting { instance }
        } else {
            WaitReason::EarlierAttempt { instance }
        })
    }

    fn waiting_for_room(&self, entry: &Entry) -> WaitReason {
        let reason = self.core.instance_wait_reason(entry);
        #[cfg(feature = "mutants")]
        let reason = self.wrong_reason(reason);
        reason
    }
}
