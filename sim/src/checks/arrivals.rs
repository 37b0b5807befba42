//! Commands on arrival: a cancel is justified by the truth, and a wanted user process is never
//! signalled.

use std::collections::{BTreeMap, BTreeSet};

use longshore_core::command::{Action, Command, QueueAction, VmAction};
use longshore_core::config::{Config, InstanceType};
use longshore_core::ids::{CommandId, ContainerId, InstanceId};
use longshore_core::input::{ContainerState, Input, OperatorRequest};
use longshore_core::resources::MIB;

use crate::checks::check::{Check, Context};
use crate::checks::commands::least;
use crate::world::events::Origin;
use crate::world::observation::Findings;
use crate::world::queue::Record;

/// Commands on a container are justified at the time of arrival.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// Containers killed by the operator.
    killed: BTreeSet<ContainerId>,
    /// Cancels in flight, with a type large enough for the container, if any, by the configuration at
    /// the time of the decision.
    cancels: BTreeMap<(Origin, CommandId), Option<String>>,
}

/// Cancel or requeue about to end the attempt of a container.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlannedEnd<'a> {
    pub(super) id: ContainerId,
    pub(super) record: &'a Record,
    error: Option<&'a String>,
}

impl<'a> PlannedEnd<'a> {
    /// The end planned by a command, if the queue will grant the command and one leader acts.
    pub(super) fn of(at: &Context<'a>, command: &'a Command) -> Option<Self> {
        let queue = &at.world.queue;
        let (id, error, requeues) = match &command.action {
            Action::Queue(QueueAction::Cancel { id, error }) => (*id, error.as_ref(), false),
            Action::Queue(QueueAction::Requeue { id, why }) => (*id, Some(why), true),
            _ => return None,
        };
        let record = queue.records.get(&id).filter(|record| !record.deleted)?;
        let refused = requeues && queue.requeues && record.state != ContainerState::Running;
        (!refused && !at.world.rivals()).then_some(Self { id, record, error })
    }

    /// True if the container is waiting, and the core gives up the wait.
    pub(super) fn is_scheduling_timeout(&self, at: &Context<'_>) -> bool {
        let waits = matches!(
            self.record.state,
            ContainerState::Queued | ContainerState::Locked
        );
        waits && at.ledgers.timed_out.contains(&(at.process, self.id))
    }

    /// Text of a violation.
    pub(super) fn text(&self, wrong: &str) -> String {
        format!("{} is ended ({:?}) though {wrong}", self.id, self.error)
    }
}

impl Check for Arrivals {
    fn on_input(&mut self, _: &Context<'_>, input: &Input) {
        if let Input::OperatorRequest(OperatorRequest::KillContainer { container, .. }) = input {
            self.killed.insert(*container);
        }
    }

    fn on_command(&mut self, at: &Context<'_>, command: &Command, _: &mut Findings) {
        if let Action::Queue(QueueAction::Cancel { id, .. }) = &command.action {
            let record = at.world.queue.records.get(id);
            let fits = record.and_then(|record| fits_easily(record, at.config()));
            let from = at.world.processes.origin(at.process);
            self.cancels.insert((from, command.id), fits);
        }
    }

    fn on_arrival(
        &mut self,
        at: &Context<'_>,
        from: Origin,
        command: &Command,
        findings: &mut Findings,
    ) {
        match &command.action {
            Action::Queue(_) => {
                let fits = self.cancels.remove(&(from, command.id)).flatten();
                if let Some(end) = PlannedEnd::of(at, command)
                    && let Some(wrong) = unjustified(at, &end, fits)
                {
                    findings.violate("true ends", end.text(&wrong));
                }
            }
            Action::Vm {
                instance,
                action: VmAction::Signal { container, .. },
                ..
            } if self.is_wanted_on(at, instance, *container) => {
                let text = format!("{container} is signalled on {instance} though it is wanted");
                findings.violate("running work is left alone", text);
            }
            _ => {}
        }
    }
}

impl Arrivals {
    /// True if the user process of the container runs on the VM, and may go on.
    fn is_wanted_on(&self, at: &Context<'_>, vm: &InstanceId, container: ContainerId) -> bool {
        let Some(record) = at.world.queue.records.get(&container) else {
            return false;
        };
        let excused = record.deleted
            || record.unwanted
            || record.state != ContainerState::Running
            || self.killed.contains(&container)
            || at.world.rivals();
        !excused && at.world.runners.program_on(container) == Some(vm)
    }
}

/// Describes the fact against the end of a container, if any. Scheduling timeouts have a check of
/// their own.
fn unjustified(at: &Context<'_>, end: &PlannedEnd<'_>, fits: Option<String>) -> Option<String> {
    if end.is_scheduling_timeout(at) {
        return None;
    }
    match end.record.state {
        ContainerState::Running => {
            let vm = at.world.runners.program_on(end.id)?;
            // The user process ends anyway with a VM in destruction.
            let instance = at.world.cloud.instances.get(vm);
            let doomed = instance.is_some_and(|instance| instance.leaving);
            (!doomed && !at.ledger.destroyed.contains(vm)).then(|| format!("it runs on {vm}"))
        }
        ContainerState::Queued | ContainerState::Locked => {
            fits.map(|name| format!("it fits on {name}"))
        }
        ContainerState::Complete => Some("it completed".to_owned()),
        ContainerState::Cancelled => None,
    }
}

/// Configured type with much more room than the container needs.
fn fits_easily(record: &Record, config: &Config) -> Option<String> {
    let demand = record.demand.as_ref().ok()?;
    if demand.gpu.is_some() {
        return None;
    }
    let mut roomy = least(demand);
    roomy.vcpus = roomy.vcpus.max(1);
    roomy.ram = roomy.ram.saturating_mul(2).saturating_add(4096 * MIB);
    roomy.ram = roomy
        .ram
        .saturating_add(demand.keep_cache_ram.saturating_mul(2));
    let cached = demand.keep_cache_disk.saturating_add(demand.image_size);
    roomy.scratch = roomy.scratch.saturating_add(cached).saturating_mul(2);
    let fits = |offer: &InstanceType| {
        offer.preemptible == demand.preemptible && offer.resources.holds(&roomy)
    };
    let mut types = config.types.iter();
    let (name, _) = types.find(|(_, offer)| fits(offer))?;
    Some(name.to_string())
}
