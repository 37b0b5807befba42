//! The rules about commands, each checked where it could be broken.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use longshore_core::ShutdownReason;
use longshore_core::command::{Action, CloudAction, Command, QueueAction, VmAction};
use longshore_core::config::{Config, InstanceType};
use longshore_core::ids::{CommandId, ContainerId, InstanceId};
use longshore_core::input::{ContainerState, IdleBehavior};
use longshore_core::resources::{Demand, MIB, Resources};
use longshore_core::time::Timestamp;

use crate::checks::ledger::{About, CreateRequest, Open};
use crate::checks::preconditions::started;
use crate::world::World;
use crate::world::coverage::CoverageMark;
use crate::world::dense_map::DenseMap;
use crate::world::events::Origin;
use crate::world::queue::Record;
use crate::world::vm::VmCall;

/// What the rules remember of a run.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    minute: u64,
    counts: BTreeMap<(Origin, Call), u32>,
    /// The same of probes, by far the most calls.
    probes: BTreeMap<Origin, DenseMap<InstanceId, u32>>,
    /// Since when each container has had no better reason to wait than "just seen".
    pub(crate) vague: BTreeMap<ContainerId, Timestamp>,
    /// Containers that an operator wanted to be stopped.
    pub(crate) stopped: BTreeSet<ContainerId>,
    /// Containers that were started while two processes acted: nobody can promise much of them.
    contested: BTreeSet<ContainerId>,
    /// Cancels on their way, and the type that would have held their container by the configuration
    /// that their process had when it decided.
    cancels: BTreeMap<(Origin, CommandId), Option<String>>,
    /// Processes, and containers cancelled by these because of `MaxSchedulingTime`.
    pub(crate) timed_out: BTreeSet<(usize, ContainerId)>,
}

/// Calls that are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Call {
    Poll,
    Lookup,
    List,
    Create,
    Update(ContainerId),
    Destroy(InstanceId),
    Tag(InstanceId),
    Probe(InstanceId),
    Start(InstanceId),
    Signal(InstanceId, ContainerId),
}

impl Call {
    fn of(action: &Action) -> Self {
        match action {
            Action::Queue(QueueAction::Poll { .. }) => Self::Poll,
            Action::Queue(QueueAction::Lookup { .. }) => Self::Lookup,
            Action::Queue(
                QueueAction::Lock { id }
                | QueueAction::Unlock { id }
                | QueueAction::Requeue { id, .. }
                | QueueAction::Cancel { id, .. },
            ) => Self::Update(*id),
            Action::Cloud { action, .. } => match action {
                CloudAction::List => Self::List,
                CloudAction::Create { .. } => Self::Create,
                CloudAction::Destroy { instance } => Self::Destroy(instance.clone()),
                CloudAction::Tag { instance, .. } => Self::Tag(instance.clone()),
            },
            Action::Vm {
                instance, action, ..
            } => match action {
                VmAction::Probe { .. } => Self::Probe(instance.clone()),
                VmAction::Start { .. } => Self::Start(instance.clone()),
                VmAction::Signal { container, .. } => Self::Signal(instance.clone(), *container),
            },
        }
    }

    /// As many a minute are no tight loop yet, whatever goes wrong.
    fn bound(&self, config: &Config) -> u32 {
        let timeouts = &config.timeouts;
        match self {
            Self::Create => creates_max(config),
            // Hints come as often as they like: a tenth of a second is left between two.
            Self::Poll | Self::Lookup => times(Duration::from_millis(100)),
            // What is awaited is asked for every second.
            Self::List => times(Duration::from_secs(1)),
            // A VM that was doubted for several reasons is asked once for each.
            Self::Probe(_) => 2 * times(Duration::from_secs(1)),
            Self::Update(_) => 40,
            // As many short containers may run one after the other.
            Self::Start(_) => 2 * times(Duration::from_secs(1)),
            Self::Signal(..) => times(timeouts.signal),
            Self::Destroy(_) => times(timeouts.shutdown),
            // One each ten seconds, and one for each new wish of an operator.
            Self::Tag(_) => 2 * times(Duration::from_secs(10)),
        }
    }
}

const MINUTE: Duration = Duration::from_secs(60);

/// How often something happens within a minute that happens once within this; what was late catches
/// up.
fn times(each: Duration) -> u32 {
    let times = MINUTE.as_nanos() / each.as_nanos().max(1);
    u32::try_from(times).unwrap_or(u32::MAX).saturating_add(4)
}

/// Creates within a minute: as many as our own rates allow, but no more than it takes to make all
/// instances anew a few times over, and to try again each type that fails, every five seconds.
fn creates_max(config: &Config) -> u32 {
    let limits = &config.limits;
    let rates = [limits.creates, limits.cloud_ops].into_iter().flatten();
    let rates = rates.map(|rate| times(rate.interval).saturating_add(rate.burst));
    let types = u32::try_from(config.types.len()).unwrap_or(u32::MAX);
    let retries = types.saturating_mul(times(Duration::from_secs(5)));
    let anew = limits.instances.map(|max| max.saturating_mul(3));
    let anew = anew.map(|anew| anew.saturating_add(retries));
    rates.chain(anew).min().unwrap_or(20_000)
}

impl World {
    /// A command leaves the core.
    pub(crate) fn check_command(&mut self, index: usize, command: &Command) {
        self.count_call(index, command);
        match &command.action {
            Action::Cloud {
                action: CloudAction::Destroy { instance },
                ..
            } => self.check_destroy(index, instance),
            Action::Vm {
                instance,
                action: VmAction::Start { container, .. },
                ..
            } => self.check_start(index, instance, *container),
            _ => {}
        }
        let about = About::of(&command.action);
        if let Action::Queue(QueueAction::Cancel { id, .. }) = &command.action {
            let record = self.queue.records.get(id);
            let config = &self.processes.all[index].config;
            let fits = record.and_then(|record| fits_easily(record, config));
            let from = self.processes.origin(index);
            self.memory.cancels.insert((from, command.id), fits);
        }
        if self.rivals() {
            self.memory.contested.extend(started(&command.action));
        }
        self.check_validity(index, &command.action, &about);
        let process = &mut self.processes.all[index];
        let (ledger, scheduler) = (&mut process.ledger, &mut self.scheduler);
        if !ledger.leader {
            let text = format!("{:?} without the right to act", command.action);
            scheduler.violate("leaders only", text);
        }
        let creates = match &command.action {
            Action::Cloud {
                action:
                    CloudAction::Create {
                        intent,
                        instance_type,
                        ..
                    },
                ..
            } => Some((*intent, instance_type.clone())),
            _ => None,
        };
        let open = Open {
            since: scheduler.now,
            deadline: command.deadline,
            about,
        };
        ledger.begin(command.id, open);
        if let Some((intent, type_name)) = creates {
            self.facts.asked(index, intent, &type_name);
            let grace = process.config.timeouts.create_ambiguous;
            let wish = CreateRequest {
                type_name,
                grace,
                answered: false,
                deadline: command.deadline,
                until: command.deadline + grace,
            };
            ledger.wishes.insert(intent, wish);
            self.check_limits(index);
        }
    }

    fn count_call(&mut self, index: usize, command: &Command) {
        let minute = self.scheduler.elapsed().as_secs() / 60;
        let memory = &mut self.memory;
        if minute != memory.minute {
            memory.minute = minute;
            memory.counts.clear();
            memory.probes.clear();
        }
        let call = Call::of(&command.action);
        if let Action::Vm {
            instance, action, ..
        } = &command.action
            && let VmAction::Start { container, .. } = action
        {
            // Another attempt has another runner, which may have to be stopped as well.
            let signals = Call::Signal(instance.clone(), *container);
            let from = self.processes.origin(index);
            memory.counts.remove(&(from, signals));
        }
        let bound = call.bound(&self.processes.all[index].config);
        let from = self.processes.origin(index);
        let count = match &call {
            Call::Probe(instance) => {
                let probes = memory.probes.entry(from).or_default();
                probes.or_insert_with(instance, || 0)
            }
            _ => memory.counts.entry((from, call)).or_default(),
        };
        *count += 1;
        if *count == bound + 1 {
            let text = format!("more than {bound} times a minute: {:?}", command.action);
            self.scheduler.violate("no tight loops", text);
        }
    }

    /// Limits hold over all that the process knows of and has asked for.
    fn check_limits(&mut self, index: usize) {
        let (process, now) = (&self.processes.all[index], self.scheduler.now);
        let (ledger, limits) = (&process.ledger, &process.config.limits);
        // Most of the time the sum of all that may count is small enough.
        let at_most = ledger.known.len() + ledger.wishes.len();
        let many = limits.instances.is_some_and(|max| at_most > max as usize);
        if !many && limits.creates_in_flight.is_none() && limits.price_per_hour.is_none() {
            return;
        }
        let known = ledger.known.keys();
        let known: Vec<_> = known
            .filter_map(|id| self.cloud.instances.get(id))
            .filter(|instance| instance.ended.is_none())
            .collect();
        let wishes: Vec<_> = ledger.counted_wishes(now).collect();
        let count = known.len() + wishes.len();
        let mut broken = Vec::new();
        if limits.instances.is_some_and(|max| count > max as usize) {
            broken.push(format!("{count} instances, limit {:?}", limits.instances));
        }
        let in_flight = wishes
            .iter()
            .filter(|wish| !wish.answered && wish.deadline > now)
            .count();
        if limits
            .creates_in_flight
            .is_some_and(|max| in_flight > max as usize)
        {
            broken.push(format!("{in_flight} creates in flight"));
        }
        let types = &process.config.types;
        let prices = known.iter().map(|i| &i.type_name);
        let prices = prices.chain(wishes.iter().map(|w| &w.type_name));
        let price: u64 = prices
            .filter_map(|name| types.get(name))
            .map(|offer| offer.price.0)
            .sum();
        if limits.price_per_hour.is_some_and(|max| price > max.0) {
            broken.push(format!("price {price} an hour"));
        }
        for text in broken {
            self.scheduler.violate("limits", text);
        }
    }

    /// Containers start only where they may and fit.
    fn check_start(&mut self, index: usize, instance: &InstanceId, container: ContainerId) {
        let ledger = &self.processes.all[index].ledger;
        let mut wrong = Vec::new();
        let behavior = ledger.behavior.get(instance).map(|(b, _)| *b);
        if behavior.unwrap_or_default() != IdleBehavior::Run {
            wrong.push(format!("the VM is to {behavior:?}"));
        }
        if !ledger.proved.contains_key(instance) {
            wrong.push("the VM has not shown that it is ready".to_owned());
        }
        if ledger.preempted.contains(instance) {
            wrong.push("the cloud has said that it takes the VM back".to_owned());
        }
        if let Some((reason, _)) = ledger.leaving.get(instance) {
            wrong.push(format!("the VM is being given back: {reason}"));
        }
        if ledger.broken.contains_key(instance) {
            wrong.push("the VM reports itself broken".to_owned());
        }
        let state = ledger.states.get(&container).map(|(state, _)| *state);
        if state != Some(ContainerState::Locked) {
            wrong.push(format!("the container is {state:?}"));
        }
        wrong.extend(self.check_lifecycle(index, instance, container));
        if !self.rivals() {
            wrong.extend(self.check_room(index, instance, container));
        }
        for text in wrong {
            let text = format!("{container} starts on {instance}, but {text}");
            self.scheduler.violate("valid starts", text);
        }
    }

    /// What must not be interrupted is not started where it can be; what may be, only there, unless
    /// the configuration lets it fall back.
    fn check_lifecycle(
        &mut self,
        index: usize,
        instance: &InstanceId,
        container: ContainerId,
    ) -> Option<String> {
        let config = &self.processes.all[index].config;
        let vm = self.vms.alive.get(instance)?;
        let offer = config.types.get(&vm.type_name)?;
        let record = self.queue.records.get(&container)?;
        let wanted = record.demand.as_ref().ok()?.preemptible;
        let rule = &config.sizing.spot_fallback;
        let may_fall_back = rule.interruptions.is_some() || rule.after.is_some();
        match (wanted, offer.preemptible) {
            (false, true) => Some("the VM may be taken back at any time".to_owned()),
            (true, false) if !may_fall_back => Some("the VM is not preemptible".to_owned()),
            (true, false) => {
                self.scheduler.mark(CoverageMark::StartedOnDemand);
                None
            }
            _ => None,
        }
    }

    /// What really runs on a VM fits into it.
    fn check_room(
        &self,
        index: usize,
        instance: &InstanceId,
        container: ContainerId,
    ) -> Option<String> {
        let process = &self.processes.all[index];
        let vm = self.vms.alive.get(instance)?;
        let offer = process.config.types.get(&vm.type_name)?;
        let now = self.scheduler.now;
        let starting = process.ledger.starting_on(now, instance);
        let on_it = self.runners.containers_on(instance).chain(starting);
        let mut all: Vec<ContainerId> = on_it.chain([container]).collect();
        all.sort_unstable();
        all.dedup();
        all.retain(|id| !self.is_excused(id));
        let demand = |id: &ContainerId| self.queue.records.get(id)?.demand.as_ref().ok();
        let image = demand(&container).and_then(|demand| demand.vm_image.clone());
        let image = image.unwrap_or_else(|| process.config.image.clone());
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

    /// Whether a container's runner may be where no process could know of it.
    fn is_excused(&self, id: &ContainerId) -> bool {
        self.vms.late.contains(id) || self.memory.contested.contains(id)
    }

    /// A VM goes for good reason only, and not while something runs that should not end.
    fn check_destroy(&mut self, index: usize, instance: &InstanceId) {
        let ledger = &self.processes.all[index].ledger;
        let now = self.scheduler.now;
        let Some((reason, since)) = ledger.leaving.get(instance).cloned() else {
            let text = format!("{instance} is destroyed without a reason");
            return self.scheduler.violate("reasons", text);
        };
        let gently = matches!(
            reason,
            ShutdownReason::Idle | ShutdownReason::Drained | ShutdownReason::MakeRoom
        );
        if !ledger.destroyed.contains(instance)
            && let Some((IdleBehavior::Hold, held_at)) = ledger.behavior.get(instance)
            && !matches!(reason, ShutdownReason::Operator(_))
        {
            let too_late = *held_at >= since && (!gently || now.since(*held_at) < LAST_MOMENT);
            if !too_late {
                let text = format!("{instance} is destroyed though it is held: {reason}");
                self.scheduler.violate("held VMs stay", text);
            }
        }
        // A late start may come between the last probe, which told the truth, and the destroy.
        let mut running = self.runners.containers_on(instance);
        let running = running.find(|id| !self.is_excused(id));
        if gently
            && !self.rivals()
            && let Some(container) = running
        {
            let text = format!("{instance} is destroyed ({reason}) though {container} runs on it");
            self.scheduler.violate("busy VMs stay", text);
        }
        let ledger = &mut self.processes.all[index].ledger;
        ledger.destroyed.insert(instance.clone());
    }

    /// A change reaches the queue: a cancel must be true.
    pub(crate) fn check_update(&mut self, from: Origin, command: CommandId, action: &QueueAction) {
        let (id, error) = match action {
            QueueAction::Cancel { id, error } => (id, error.as_ref()),
            QueueAction::Requeue { id, why } => (id, Some(why)),
            _ => return,
        };
        let fitted = self.memory.cancels.remove(&(from, command)).flatten();
        let Some(record) = self.queue.records.get(id).filter(|r| !r.deleted) else {
            return;
        };
        let refused = matches!(action, QueueAction::Requeue { .. })
            && self.queue.requeues
            && record.state != ContainerState::Running;
        if refused {
            return;
        }
        if self.rivals() {
            return;
        }
        let timed_out = self.memory.timed_out.contains(&(from.process, *id));
        let wrong = match record.state {
            ContainerState::Queued | ContainerState::Locked if timed_out => {
                self.impatient(from.process, *id)
            }
            ContainerState::Running => self
                .runners
                .program_on(*id)
                // What it runs on is being destroyed: the end is near.
                .filter(|vm| !self.cloud.instances.get(vm).is_some_and(|vm| vm.leaving))
                .filter(|vm| {
                    let process = &self.processes.all[from.process];
                    !process.ledger.destroyed.contains(vm)
                })
                .map(|vm| format!("it runs on {vm}")),
            ContainerState::Queued | ContainerState::Locked => {
                fitted.map(|name| format!("it fits on {name}"))
            }
            ContainerState::Complete => Some("it completed".to_owned()),
            ContainerState::Cancelled => None,
        };
        if let Some(wrong) = wrong {
            let text = format!("{id} is ended ({error:?}) though {wrong}");
            self.scheduler.violate("true ends", text);
        }
    }

    /// A signal reaches a VM: what runs and is wanted is left alone.
    pub(crate) fn check_vm_call(&mut self, call: &VmCall<'_>) {
        let VmAction::Signal { container, .. } = call.action else {
            return;
        };
        let Some(record) = self.queue.records.get(container) else {
            return;
        };
        let excused = record.deleted
            || record.unwanted
            || record.state != ContainerState::Running
            || self.memory.stopped.contains(container)
            || self.rivals();
        if !excused && self.runners.program_on(*container) == Some(call.instance) {
            let text = format!(
                "{container} is signalled on {} though it is wanted",
                call.instance
            );
            self.scheduler.violate("running work is left alone", text);
        }
    }
}

/// A hold may come when a destroy is about to leave: inputs may be taken before commands are drained.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// What a container takes at the very least.
fn least(demand: &Demand) -> Resources {
    Resources {
        vcpus: demand.vcpus,
        ram: demand.ram,
        scratch: demand.tmp,
        gpus: demand.gpu.as_ref().map_or(0, |gpu| gpu.count),
    }
}

/// A configured type that holds a container with much to spare.
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
