//! What an operator sees. Everything is computed when somebody looks; nothing is kept for it.

#[cfg(feature = "mutants")]
mod mutants;
mod waiting;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::capacity::budgets::BudgetLeft;
use crate::dispatcher::Dispatcher;
use crate::fleet::vm::{Phase, RunnerPhase, ShutdownReason, Vm};
use crate::ids::{Address, CloudId, ContainerId, ImageId, InstanceId, IntentId, TypeName, VmName};
use crate::input::{ContainerState, IdleBehavior};
use crate::queue::entry::Entry;
use crate::resources::{MicroDollars, Resources};
use crate::time::Timestamp;
use crate::wait_reason::WaitReason;

/// A read-only look at the dispatcher.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub(crate) core: &'a Dispatcher,
}

/// A container, as far as the dispatcher knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerView {
    /// Its uuid.
    pub id: ContainerId,
    /// Its state in the queue.
    pub state: ContainerState,
    /// Its priority.
    pub priority: u64,
    /// When it was submitted, by the queue's clock.
    pub created_at: Timestamp,
    /// When this process first saw it.
    pub first_seen: Timestamp,
    /// How often it was locked.
    pub lock_count: u32,
    /// How often the cloud took back what it ran on, as far as this process saw.
    pub interruptions: u32,
    /// What it takes from a VM; absent where its record is malformed.
    pub need: Option<Resources>,
    /// GPU memory it needs on each device, in bytes.
    pub gpu_vram: u64,
    /// Types that can hold it, cheapest first.
    pub eligible: Vec<TypeName>,
    /// The VM that it runs on, or that is kept for it.
    pub instance: Option<VmName>,
    /// Its place among all that wait, from 1.
    pub position: Option<usize>,
    /// What it waits for.
    pub waiting: Option<WaitReason>,
    /// The same as a sentence; empty once it runs.
    pub status: String,
    /// What would end the wait.
    pub unblocked_by: Option<String>,
}

/// An instance, as far as the dispatcher knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceView {
    /// Its name in its cloud; absent while it is only asked for.
    pub instance: Option<InstanceId>,
    /// The wish that it was created for.
    pub intent: Option<IntentId>,
    /// Its cloud.
    pub cloud: CloudId,
    /// Host and port, once it has one.
    pub address: Option<Address>,
    /// Its configured type.
    pub instance_type: TypeName,
    /// The image it was booted from.
    pub image: ImageId,
    /// Price per hour.
    pub price: MicroDollars,
    /// Where it is in its life.
    pub phase: Phase,
    /// Whether containers are on it.
    pub busy: bool,
    /// What it is for.
    pub idle_behavior: IdleBehavior,
    /// Since when it was asked for or found.
    pub since: Timestamp,
    /// Since when it has been idle.
    pub idle_since: Option<Timestamp>,
    /// When it last answered well.
    pub last_probe: Option<Timestamp>,
    /// What its last probe complained of.
    pub complaint: Option<String>,
    /// Why it cannot be trusted: it reports itself broken, or a lock on it has no runner.
    pub broken: Option<String>,
    /// The last container that was on it.
    pub last_container: Option<ContainerId>,
    /// The containers on it.
    pub containers: Vec<ContainerId>,
    /// When the cloud takes it back, if it has announced that.
    pub preempted_at: Option<Timestamp>,
    /// Why it is being given back.
    pub terminating: Option<ShutdownReason>,
}

/// A type and image of which none is created for a while, because its last boots all failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootBackoff {
    /// The configured type.
    pub instance_type: TypeName,
    /// The image that it was booted from.
    pub image: ImageId,
    /// Boots that failed in a row.
    pub failures: u32,
    /// One is tried at this time; where that is past, the try is under way or nobody needs one.
    pub until: Timestamp,
    /// The last complaint.
    pub why: String,
}

/// How instances are counted in metrics: the first that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Category {
    /// Containers are on it.
    InUse,
    /// Held by an operator.
    Hold,
    /// Asked for, or booting.
    Booting,
    /// Found after a restart and not heard yet.
    Unknown,
    /// Everything else.
    Idle,
}

impl Category {
    /// All, in the order of precedence.
    pub const ALL: [Self; 5] = [
        Self::InUse,
        Self::Hold,
        Self::Booting,
        Self::Unknown,
        Self::Idle,
    ];

    /// The label that the peer's metrics have for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InUse => "inuse",
            Self::Hold => "hold",
            Self::Booting => "booting",
            Self::Unknown => "unknown",
            Self::Idle => "idle",
        }
    }
}

/// Sums for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Containers by state and cheapest eligible type (`None` where no type fits).
    pub containers: BTreeMap<(ContainerState, Option<TypeName>), u64>,
    /// Runners alive or being started.
    pub runners: u64,
    /// Containers that will fit on a VM on its way.
    pub allocated_not_started: u64,
    /// Containers for which nothing can be created now.
    pub not_allocated: u64,
    /// When the oldest container that waits was submitted.
    pub oldest_waiting: Option<Timestamp>,
    /// Instances by category and type.
    pub instances: BTreeMap<(Category, TypeName), u64>,
    /// Their prices per hour, by category.
    pub price: BTreeMap<Category, MicroDollars>,
    /// The same by category and type.
    pub price_of_type: BTreeMap<(Category, TypeName), MicroDollars>,
    /// Types that something waits for and whose creates fail, one after the other, since when.
    pub failing: BTreeMap<TypeName, Timestamp>,
    /// What they offer, by category.
    pub resources: BTreeMap<Category, Resources>,
    /// When each VM that should answer last did so.
    pub last_probes: Vec<Timestamp>,
    /// Whether some quota was met lately.
    pub at_quota: bool,
    /// Types and images that do not boot.
    pub boot_backoffs: Vec<BootBackoff>,
    /// What is left of each budget.
    pub budgets: Vec<BudgetLeft>,
    /// How many containers may run at a time, while the queue's strength limits that.
    pub containers_max: Option<u32>,
    /// Commands whose answers are awaited, by kind.
    pub in_flight: BTreeMap<String, u64>,
}

impl Dispatcher {
    /// What an operator may see.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View { core: self }
    }
}

impl View<'_> {
    /// Whether this process may act.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.core.is_leader()
    }

    /// Whether queue and clouds have each been seen whole.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.core.is_synced()
    }

    /// All containers: those that run, then those that wait in their order, then the rest.
    /// O(n log n).
    #[must_use]
    pub fn containers(&self) -> Vec<ContainerView> {
        let positions = self.positions();
        let next_release_at = self.next_release_at();
        let mut views: Vec<ContainerView> = self
            .core
            .queue()
            .iter()
            .map(|entry| self.describe(entry, positions.get(&entry.id).copied(), next_release_at))
            .collect();
        views.sort_by_key(|c| {
            let running_first = !(c.instance.is_some() && c.waiting.is_none());
            (
                running_first,
                c.position.unwrap_or(usize::MAX),
                std::cmp::Reverse(c.priority),
                c.first_seen,
                c.id,
            )
        });
        views
    }

    /// One container. O(waiting containers + instances), for its position and its hopes.
    #[must_use]
    pub fn container(&self, id: ContainerId) -> Option<ContainerView> {
        let entry = self.core.queue().get(&id)?;
        let waits = self.core.queue().is_waiting(&id);
        let position = waits.then(|| self.positions().get(&id).copied()).flatten();
        Some(self.describe(entry, position, self.next_release_at()))
    }

    /// All instances, wishes included, by name.
    #[must_use]
    pub fn instances(&self) -> Vec<InstanceView> {
        let mut vms: Vec<&Vm> = self.core.fleet().iter().collect();
        vms.sort_by_key(|vm| (vm.identity.instance.as_ref(), vm.identity.intent));
        vms.into_iter().map(describe_vm).collect()
    }

    /// One instance. O(log instances).
    #[must_use]
    pub fn instance(&self, name: &InstanceId) -> Option<InstanceView> {
        let key = self.core.fleet().named(name)?;
        self.core.fleet().get(key).map(describe_vm)
    }

    /// Passes of placement made so far.
    #[must_use]
    pub fn passes(&self) -> u64 {
        self.core.passes()
    }

    /// Whether some instance has a runner of this container. O(log n).
    #[must_use]
    pub fn is_hosted(&self, id: ContainerId) -> bool {
        self.core.fleet().hosts(id).next().is_some()
    }

    /// Types and images that do not boot, and until when none is created. O(those).
    #[must_use]
    pub fn boot_backoffs(&self) -> Vec<BootBackoff> {
        let paused = self.core.capacity().boot_breaker.paused();
        let described = paused.map(|(kind, failures, pause)| BootBackoff {
            instance_type: kind.0.clone(),
            image: kind.1.clone(),
            failures,
            until: pause.until,
            why: pause.why.clone(),
        });
        described.collect()
    }

    /// What is left of each budget, in the order of the configuration.
    #[must_use]
    pub fn budgets(&self) -> Vec<BudgetLeft> {
        let price = self.core.fleet().price();
        self.core.capacity().budgets.left(price)
    }

    /// How many containers may run at a time, while the queue's strength limits that.
    #[must_use]
    pub fn containers_max(&self) -> Option<u32> {
        self.core.capacity().concurrency.max(self.core.now())
    }

    /// Runners on all instances and places kept for one; and those of them whose containers wait for
    /// others. O(1).
    #[must_use]
    pub fn runners(&self) -> (usize, usize) {
        let fleet = self.core.fleet();
        (fleet.runners(), fleet.supervisors())
    }

    /// Sums for metrics. O(n).
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals {
            at_quota: self.core.capacity().at_quota(self.core.now()),
            boot_backoffs: self.boot_backoffs(),
            budgets: self.budgets(),
            containers_max: self.containers_max(),
            ..Totals::default()
        };
        for entry in self.core.queue().iter() {
            self.count_container(&mut totals, entry);
        }
        for vm in self.core.fleet().iter() {
            count_vm(&mut totals, vm);
        }
        let classes = self.core.queue().classes().iter();
        let wanting = classes.filter(|(_, group)| group.any_waits());
        for name in wanting.flat_map(|(_, group)| group.types().iter()) {
            let offer = self.core.config().types.get(name);
            let since = offer.and_then(|offer| {
                let capacity = self.core.capacity();
                capacity.failing_since(self.core.now(), name, offer)
            });
            totals
                .failing
                .extend(since.map(|since| (name.clone(), since)));
        }
        for pending in self.core.outbox().in_flight() {
            let kind = pending.purpose.name().to_owned();
            *totals.in_flight.entry(kind).or_default() += 1;
        }
        totals
    }

    fn positions(&self) -> BTreeMap<ContainerId, usize> {
        let order = self.core.queue().waiting_in_order();
        let numbered = order.iter().enumerate();
        numbered.map(|(i, rank)| (rank.2, i + 1)).collect()
    }

    fn describe(
        &self,
        entry: &Entry,
        position: Option<usize>,
        next_release_at: Option<Timestamp>,
    ) -> ContainerView {
        let queue = self.core.queue();
        let group = entry.class.as_ref().ok().map(|id| queue.class(*id));
        let waiting = self.waiting_for(entry);
        let host = self.core.fleet().hosts(entry.id).next();
        let vm = host.and_then(|key| self.core.fleet().get(key));
        let gpu = group.and_then(|group| group.class.gpu.as_ref());
        ContainerView {
            id: entry.id,
            state: entry.state,
            priority: entry.priority,
            created_at: entry.created_at,
            first_seen: entry.first_seen,
            lock_count: entry.lock_count,
            interruptions: entry.interruptions,
            need: group.map(|group| group.class.need),
            gpu_vram: gpu.map_or(0, |gpu| gpu.vram),
            eligible: group
                .map(|group| group.types().to_vec())
                .unwrap_or_default(),
            instance: vm.map(Vm::name),
            position,
            status: match &waiting {
                Some(waiting) => waiting.describe(position).to_string(),
                None => String::new(),
            },
            unblocked_by: waiting
                .as_ref()
                .map(|w| w.remedy(self.core.now(), next_release_at)),
            waiting,
        }
    }

    fn count_container(&self, totals: &mut Totals, entry: &Entry) {
        let queue = self.core.queue();
        let group = entry.class.as_ref().ok().map(|id| queue.class(*id));
        let cheapest = group.and_then(|group| group.types().first().cloned());
        *totals
            .containers
            .entry((entry.state, cheapest))
            .or_default() += 1;
        if !queue.is_waiting(&entry.id) {
            return;
        }
        let oldest = totals.oldest_waiting.get_or_insert(entry.created_at);
        *oldest = (*oldest).min(entry.created_at);
        if self.core.fleet().reserved_for(&entry.id).is_some() {
            totals.allocated_not_started += 1;
        } else {
            totals.not_allocated += 1;
        }
    }
}

pub(crate) fn describe_vm(vm: &Vm) -> InstanceView {
    InstanceView {
        instance: vm.identity.instance.clone(),
        intent: vm.identity.intent,
        cloud: vm.identity.cloud,
        address: vm.identity.address.clone(),
        instance_type: vm.identity.type_name.clone(),
        image: vm.identity.image.clone(),
        price: vm.price(),
        phase: vm.phase,
        busy: !vm.idle(),
        idle_behavior: vm.behavior.idle,
        since: vm.lifecycle.since,
        idle_since: vm.idle().then_some(vm.work.idle_since),
        last_probe: vm.probe.good_at,
        complaint: vm.probe.complaint.clone(),
        broken: vm.health.fault.clone(),
        last_container: vm.work.last_container,
        containers: vm.work.runners.keys().copied().collect(),
        preempted_at: vm.health.preempted_at,
        terminating: vm.shutdown.reason.clone(),
    }
}

fn category(vm: &Vm) -> Category {
    if !vm.idle() {
        Category::InUse
    } else if vm.behavior.idle == IdleBehavior::Hold {
        Category::Hold
    } else {
        match vm.phase {
            Phase::Creating | Phase::Booting => Category::Booting,
            Phase::Unknown => Category::Unknown,
            Phase::Ready | Phase::Cordoned | Phase::Shutdown => Category::Idle,
        }
    }
}

fn count_vm(totals: &mut Totals, vm: &Vm) {
    let category = category(vm);
    let place = (category, vm.identity.type_name.clone());
    *totals.instances.entry(place).or_default() += 1;
    let of_type = (category, vm.identity.type_name.clone());
    let sums = [
        totals.price.entry(category).or_default(),
        totals.price_of_type.entry(of_type).or_default(),
    ];
    for price in sums {
        price.0 = price.0.saturating_add(vm.price().0);
    }
    let offered = totals.resources.entry(category).or_default();
    *offered = offered.plus(&vm.total());
    let runs = |r: &&crate::fleet::vm::Runner| r.phase != RunnerPhase::Assigned;
    totals.runners += vm.work.runners.values().filter(runs).count() as u64;
    if matches!(vm.phase, Phase::Ready | Phase::Cordoned | Phase::Unknown) {
        totals
            .last_probes
            .push(vm.probe.good_at.unwrap_or(vm.lifecycle.since));
    }
}
