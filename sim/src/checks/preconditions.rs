//! Whether a command makes sense in the state in which it is issued, as far as its process can know,
//! and beside what is under way already.

use longshore_core::command::{Action, CloudAction, QueueAction, VmAction};
use longshore_core::ids::{ContainerId, InstanceId};
use longshore_core::input::ContainerState;

use crate::checks::ledger::About;
use crate::world::World;

impl World {
    /// A command leaves a process: it changes what can be changed, and nothing twice.
    pub(crate) fn check_validity(&mut self, index: usize, action: &Action, about: &About) {
        let beside = self.clashes(index, about);
        let wrong = match action {
            Action::Queue(action) => self.check_change(index, action),
            Action::Cloud { action, .. } => match action {
                CloudAction::Destroy { instance } | CloudAction::Tag { instance, .. } => {
                    self.unheard_of(index, instance)
                }
                CloudAction::List | CloudAction::Create { .. } => None,
            },
            Action::Vm { instance, .. } => self.unheard_of(index, instance),
        };
        if let Some(text) = beside {
            self.scheduler.violate("one at a time", text);
        }
        if let Some(text) = wrong {
            self.scheduler.violate("valid commands", text);
        }
    }

    /// One change of a record or one start at a time, wherever that is; several VMs may be told to
    /// stop a container, but none where it is being started.
    fn clashes(&self, index: usize, about: &About) -> Option<String> {
        let now = self.scheduler.now;
        let ledger = &self.processes.all[index].ledger;
        // The others do no harm when a VM that was lost and found again gets one too many.
        if matches!(about, About::Create(_)) && ledger.is_open(now, about) {
            return Some(format!("{about:?} while the same is under way"));
        }
        let id = about.container()?;
        // What was asked of a VM that is gone since has no effect any more.
        let matters = |vm: &InstanceId| ledger.known.contains_key(vm);
        let clash = |other: &&About| match (about, *other) {
            (About::Record(_) | About::Start(..), About::Record(_)) => true,
            (About::Record(_) | About::Start(..), About::Start(vm, _)) => matters(vm),
            (About::Start(..), About::Signal(vm, _)) => matters(vm),
            (About::Signal(to, _), About::Start(vm, _) | About::Signal(vm, _)) => to == vm,
            _ => false,
        };
        let other = ledger.open_of(now, id).find(clash)?;
        Some(format!("{about:?} while {other:?} is under way"))
    }

    /// A record is changed only from a state in which that is possible.
    fn check_change(&self, index: usize, action: &QueueAction) -> Option<String> {
        let possible: (&ContainerId, &[ContainerState]) = match action {
            QueueAction::Lock { id } => (id, &[ContainerState::Queued]),
            QueueAction::Unlock { id } => (id, &[ContainerState::Locked]),
            QueueAction::Requeue { id, .. } => (id, &[ContainerState::Running]),
            QueueAction::Cancel { id, .. } => {
                (id, &[ContainerState::Locked, ContainerState::Running])
            }
            QueueAction::Poll { .. } | QueueAction::Lookup { .. } => return None,
        };
        let (id, states) = possible;
        let known = self.processes.all[index].ledger.states.get(id);
        let state = known.map(|(state, _)| *state);
        let valid = state.is_some_and(|state| states.contains(&state));
        (!valid).then(|| format!("{action:?}, but it is {state:?}"))
    }

    /// Nothing is asked of an instance that the process was never shown, or that the cloud has called
    /// ended.
    fn unheard_of(&self, index: usize, instance: &InstanceId) -> Option<String> {
        let heard_of = &self.processes.all[index].ledger.heard_of;
        let known = heard_of.contains_key(instance);
        (!known).then(|| format!("something is asked of {instance}, which is not known to exist"))
    }
}

/// The container that a command starts, if it does.
pub(crate) fn started(action: &Action) -> Option<ContainerId> {
    match action {
        Action::Vm {
            action: VmAction::Start { container, .. },
            ..
        } => Some(*container),
        _ => None,
    }
}
