//! What an operator asked for.

use super::Dispatcher;
use crate::fleet::vm::{BehaviorCause, ShutdownReason};
use crate::ids::VmKey;
use crate::input::Operator;
use crate::planted::Planted;
use crate::signals::StopReason;

impl Dispatcher {
    /// Carries out a wish. Wishes for what does not exist do nothing: whoever takes them asks the
    /// view first, and tells.
    pub(super) fn on_operator(&mut self, wish: Operator) {
        match wish {
            Operator::SetIdleBehavior { instance, behavior } => {
                if let Some(key) = self.vm_named(&instance)
                    && !self.planted(Planted::WishUnheard)
                {
                    self.set_behavior(key, behavior, BehaviorCause::Operator);
                }
            }
            Operator::KillInstance { instance, reason } => {
                if let Some(key) = self.vm_named(&instance) {
                    self.begin_shutdown(key, ShutdownReason::Operator(reason));
                }
            }
            Operator::KillContainer { container, reason } => {
                let hosts: Vec<VmKey> = self.fleet.hosts(container).collect();
                for key in hosts {
                    self.stop(key, container, &StopReason::Operator(reason.clone()));
                }
            }
        }
    }
}
