//! Starts and destroys: containers start only on a usable VM with room, and VMs are destroyed only for
//! a reason and without a running container.

use std::time::Duration;

use longshore_core::ShutdownReason;
use longshore_core::command::{Action, CloudAction, Command, VmAction};
use longshore_core::ids::{ContainerId, InstanceId};
use longshore_core::input::{ContainerState, IdleBehavior};
use longshore_core::resources::{Demand, Resources};
use longshore_core::time::Timestamp;

use crate::checks::check::{Check, Context};
use crate::checks::terminations::is_gentle;
use crate::world::coverage::CoverageMark;
use crate::world::observation::Findings;

/// A hold may come while a destroy waits for the drain of the commands.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// Starts and destroys are right by the facts known to the process, and by the truth.
#[derive(Debug, Default)]
pub(super) struct Commands;

impl Check for Commands {
    fn on_command(&mut self, at: &Context<'_>, command: &Command, findings: &mut Findings) {
        match &command.action {
            Action::Cloud {
                action: CloudAction::Destroy { instance },
                ..
            } => check_destroy(at, instance, findings),
            Action::Vm {
                instance,
                action: VmAction::Start { container, .. },
                ..
            } => check_start(at, instance, *container, findings),
            _ => {}
        }
    }
}

fn check_start(
    at: &Context<'_>,
    instance: &InstanceId,
    container: ContainerId,
    findings: &mut Findings,
) {
    let ledger = at.ledger;
    let mut wrong = Vec::new();
    let behavior = ledger.behavior.get(instance).map(|(behavior, _)| *behavior);
    if behavior.unwrap_or_default() != IdleBehavior::Run {
        wrong.push(format!("the VM is to {behavior:?}"));
    }
    if !ledger.verified_at.contains_key(instance) {
        wrong.push("the VM has had no complete good probe".to_owned());
    }
    if ledger.preempted.contains(instance) {
        wrong.push("the VM has a preemption notice".to_owned());
    }
    if let Some((reason, _)) = ledger.terminating.get(instance) {
        wrong.push(format!("the VM is terminating: {reason}"));
    }
    if ledger.broken.contains_key(instance) {
        wrong.push("the VM reports itself broken".to_owned());
    }
    let state = ledger.states.get(&container).map(|(state, _)| *state);
    if state != Some(ContainerState::Locked) {
        wrong.push(format!("the container is {state:?}"));
    }
    wrong.extend(wrong_lifecycle(at, instance, container, findings));
    if !at.world.rivals() {
        wrong.extend(lack_of_room(at, instance, container));
    }
    for text in wrong {
        let text = format!("{container} starts on {instance}, but {text}");
        findings.violate("valid starts", text);
    }
}

/// Describes a start on a VM of the wrong lifecycle, if so: preemptible containers run on preemptible
/// VMs, except for the spot fallback; others never.
fn wrong_lifecycle(
    at: &Context<'_>,
    instance: &InstanceId,
    container: ContainerId,
    findings: &mut Findings,
) -> Option<String> {
    let config = at.config();
    let vm = at.world.vms.alive.get(instance)?;
    let offer = config.types.get(&vm.type_name)?;
    let record = at.world.queue.records.get(&container)?;
    let wanted = record.demand.as_ref().ok()?.preemptible;
    let rule = &config.sizing.spot_fallback;
    let may_fall_back = rule.interruptions.is_some() || rule.after.is_some();
    match (wanted, offer.preemptible) {
        (false, true) => Some("the VM is preemptible".to_owned()),
        (true, false) if !may_fall_back => Some("the VM is not preemptible".to_owned()),
        (true, false) => {
            findings.mark(CoverageMark::StartedOnDemand);
            None
        }
        _ => None,
    }
}

/// Describes a lack of room for the container beside the runners really on the VM, if so.
fn lack_of_room(at: &Context<'_>, instance: &InstanceId, container: ContainerId) -> Option<String> {
    let config = at.config();
    let vm = at.world.vms.alive.get(instance)?;
    let offer = config.types.get(&vm.type_name)?;
    let starting = at.ledger.starting_on(at.now(), instance);
    let on_it = at.world.runners.containers_on(instance).chain(starting);
    let mut all: Vec<ContainerId> = on_it.chain([container]).collect();
    all.sort_unstable();
    all.dedup();
    all.retain(|id| !at.is_excused(id));
    let demand = |id: &ContainerId| at.world.queue.records.get(id)?.demand.as_ref().ok();
    let image = demand(&container).and_then(|demand| demand.vm_image.clone());
    let image = image.unwrap_or_else(|| config.image.clone());
    if image != vm.image {
        return Some(format!("the VM was booted from {}", vm.image));
    }
    let sum = all
        .iter()
        .filter_map(demand)
        .map(least)
        .fold(Resources::default(), |sum, need| sum.plus(&need));
    let fits = offer.resources.holds(&sum);
    (!fits).then(|| format!("{all:?} need {sum:?} of {:?}", offer.resources))
}

/// Smallest resources of a container, without any reserve.
pub(super) fn least(demand: &Demand) -> Resources {
    Resources {
        vcpus: demand.vcpus,
        ram: demand.ram,
        scratch: demand.tmp,
        gpus: demand.gpu.as_ref().map_or(0, |gpu| gpu.count),
    }
}

fn check_destroy(at: &Context<'_>, instance: &InstanceId, findings: &mut Findings) {
    let Some((reason, since)) = at.ledger.terminating.get(instance) else {
        let text = format!("{instance} is destroyed without a reason");
        return findings.violate("reasons", text);
    };
    if is_held(at, instance, reason, *since) {
        let text = format!("{instance} is destroyed though it is held: {reason}");
        findings.violate("held VMs stay", text);
    }
    // A late start may come between the last probe and the destroy.
    let mut running = at.world.runners.containers_on(instance);
    let running = running.find(|id| !at.is_excused(id));
    if is_gentle(reason)
        && !at.world.rivals()
        && let Some(container) = running
    {
        let text = format!("{instance} is destroyed ({reason}) though {container} runs on it");
        findings.violate("busy VMs stay", text);
    }
}

/// True if a hold of the VM was known in time and forbids the first destroy.
fn is_held(
    at: &Context<'_>,
    instance: &InstanceId,
    reason: &ShutdownReason,
    since: Timestamp,
) -> bool {
    let Some((IdleBehavior::Hold, held_at)) = at.ledger.behavior.get(instance) else {
        return false;
    };
    let too_late =
        *held_at >= since && (!is_gentle(reason) || at.now().since(*held_at) < LAST_MOMENT);
    let first = !at.ledger.destroyed.contains(instance);
    first && !too_late && !matches!(reason, ShutdownReason::Operator(_))
}
