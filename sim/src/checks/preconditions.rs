//! Preconditions of commands: possible in the state known to the process, and not beside a command in
//! conflict.

use longshore_core::command::{Action, CloudAction, Command, QueueAction};
use longshore_core::ids::{ContainerId, InstanceId};
use longshore_core::input::ContainerState;

use crate::checks::check::{Check, Context};
use crate::checks::ledger::Subject;
use crate::world::observation::Findings;

/// Every command is valid at its time of sending.
#[derive(Debug, Default)]
pub(super) struct Preconditions;

impl Check for Preconditions {
    fn on_command(&mut self, at: &Context<'_>, command: &Command, findings: &mut Findings) {
        let action = &command.action;
        if let Some(text) = conflict(at, &Subject::of(action)) {
            findings.violate("one at a time", text);
        }
        let wrong = match action {
            Action::Queue(action) => impossible_change(at, action),
            Action::Cloud { action, .. } => match action {
                CloudAction::Destroy { instance } | CloudAction::Tag { instance, .. } => {
                    unknown_instance(at, instance)
                }
                CloudAction::List | CloudAction::Create { .. } => None,
            },
            Action::Vm { instance, .. } => unknown_instance(at, instance),
        };
        if let Some(text) = wrong {
            findings.violate("valid commands", text);
        }
        if !at.ledger.leader {
            let text = format!("{action:?} without the right to act");
            findings.violate("leaders only", text);
        }
    }
}

/// Describes an open command in conflict, if any. At most one change of a record or one start is open
/// per container, on any VM. Several VMs may be told to stop a container, except a VM with an open
/// start of the container.
fn conflict(at: &Context<'_>, subject: &Subject) -> Option<String> {
    let (now, ledger) = (at.now(), at.ledger);
    // A second destroy, tag or probe of a VM lost and found again does no harm.
    if matches!(subject, Subject::Create(_)) && ledger.is_open(now, subject) {
        return Some(format!("{subject:?} while the same is under way"));
    }
    let id = subject.container()?;
    // Commands to a VM gone since have no effect.
    let matters = |vm: &InstanceId| ledger.listed.contains_key(vm);
    let clashes = |other: &&Subject| match (subject, *other) {
        (Subject::Record(_) | Subject::Start(..), Subject::Record(_)) => true,
        (Subject::Record(_) | Subject::Start(..), Subject::Start(vm, _)) => matters(vm),
        (Subject::Start(..), Subject::Signal(vm, _)) => matters(vm),
        (Subject::Signal(to, _), Subject::Start(vm, _) | Subject::Signal(vm, _)) => to == vm,
        _ => false,
    };
    let other = ledger.open_of(now, id).find(clashes)?;
    Some(format!("{subject:?} while {other:?} is under way"))
}

/// Describes a change of a record in a state without that change, if so.
fn impossible_change(at: &Context<'_>, action: &QueueAction) -> Option<String> {
    let possible: (&ContainerId, &[ContainerState]) = match action {
        QueueAction::Lock { id } => (id, &[ContainerState::Queued]),
        QueueAction::Unlock { id } => (id, &[ContainerState::Locked]),
        QueueAction::Requeue { id, .. } => (id, &[ContainerState::Running]),
        QueueAction::Cancel { id, .. } => (id, &[ContainerState::Locked, ContainerState::Running]),
        QueueAction::Poll { .. } | QueueAction::Lookup { .. } => return None,
    };
    let (id, states) = possible;
    let state = at.ledger.states.get(id).map(|(state, _)| *state);
    let valid = state.is_some_and(|state| states.contains(&state));
    (!valid).then(|| format!("{action:?}, but the state is {state:?}"))
}

/// Describes a command to an instance never seen by the process, or reported as terminated, if so.
fn unknown_instance(at: &Context<'_>, instance: &InstanceId) -> Option<String> {
    let known = at.ledger.first_seen.contains_key(instance);
    (!known).then(|| format!("a command to {instance}, not known to exist"))
}
