//! Mutants with code of their own, and the switch for all mutants.

use super::Dispatcher;
use crate::command::VmAction;
use crate::fleet::vm::{Phase, Vm};
use crate::ids::{ContainerId, VmKey};
use crate::mutants::{Mutant, Mutants};
use crate::outbox::Purpose;

impl Dispatcher {
    /// Activates a mutant, in place of any other.
    pub fn plant(&mut self, mutant: Mutant) {
        self.mutants = Mutants::only(mutant);
        self.capacity.mutants = self.mutants;
    }

    /// `Mutant::DoubleStart`: starts the container on another ready VM as well.
    pub(super) fn start_elsewhere(&mut self, key: VmKey, id: ContainerId) {
        let ready = |vm: &&Vm| vm.phase == Phase::Ready && vm.key != key;
        let other = self.fleet.iter().find(ready);
        let Some(other) = other.filter(|_| self.mutant(Mutant::DoubleStart)) else {
            return;
        };
        let (other, instance_type) = (other.key, other.identity.type_name.clone());
        let action = VmAction::Start {
            container: id,
            instance_type,
        };
        let timeout = self.config.timeouts.vm_answer;
        self.ask_vm(other, timeout, Purpose::Start(other, id), action);
    }
}
