//! Requests of operators.

use super::Dispatcher;
use crate::fleet::vm::{BehaviorCause, Phase, ShutdownReason};
use crate::ids::VmKey;
use crate::input::{IdleBehavior, OperatorRequest};
use crate::mutants::Mutant;
use crate::signals::StopReason;
use crate::timers::TimeoutReason;

impl Dispatcher {
    /// Carries out a request. A request for an unknown instance or container has no effect: the
    /// caller checks the view first and reports the error.
    pub(super) fn on_operator_request(&mut self, request: OperatorRequest) {
        match request {
            OperatorRequest::SetIdleBehavior { instance, behavior } => {
                if let Some(key) = self.vm_named(&instance)
                    && !self.mutant(Mutant::BehaviorRequestIgnored)
                {
                    self.set_behavior(key, behavior, BehaviorCause::Operator);
                    if behavior == IdleBehavior::Hold {
                        self.cancel_unsent_shutdown(key);
                    }
                }
            }
            OperatorRequest::KillInstance { instance, reason } => {
                if let Some(key) = self.vm_named(&instance) {
                    self.begin_shutdown(key, ShutdownReason::Operator(reason));
                }
            }
            OperatorRequest::KillContainer { container, reason } => {
                let hosts: Vec<VmKey> = self.fleet.hosts(container).collect();
                for key in hosts {
                    self.stop(key, container, &StopReason::Operator(reason.clone()));
                }
            }
        }
    }

    /// Cancels the shutdown of an idle instance after a hold, if the destroy still waits for the
    /// rate limit: a held instance is never terminated for lack of work.
    fn cancel_unsent_shutdown(&mut self, key: VmKey) {
        let Some(vm) = self.fleet.get(key) else {
            return;
        };
        let unsent = vm.phase == Phase::Shutdown && vm.shutdown.attempts == 0;
        let gently = matches!(
            vm.shutdown.reason,
            Some(ShutdownReason::Idle | ShutdownReason::Drained | ShutdownReason::MakeRoom)
        );
        if !unsent || !gently {
            return;
        }
        let (before, cloud) = (vm.shutdown.before, vm.identity.cloud);
        self.timers.cancel(TimeoutReason::DestroyVm(key));
        self.dequeue_destroy(cloud, key);
        self.uncordon(key);
        if let Some(before @ (Phase::Booting | Phase::Unknown)) = before {
            self.fleet.update(key, |vm| vm.phase = before);
        }
        self.probe_now(key);
    }
}
