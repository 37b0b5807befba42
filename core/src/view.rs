//! Read-only view of the dispatcher for operators. Computed on demand, without any state.

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

/// Read-only view of the dispatcher.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub(crate) core: &'a Dispatcher,
}

/// Known state of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerView {
    /// UUID.
    pub id: ContainerId,
    /// State in the queue.
    pub state: ContainerState,
    /// Priority.
    pub priority: u64,
    /// Time of the submission, by the clock of the queue.
    pub created_at: Timestamp,
    /// Time of the first sight by this process.
    pub first_seen: Timestamp,
    /// Number of locks so far.
    pub lock_count: u32,
    /// Number of interruptions by preemption seen by this process.
    pub interruptions: u32,
    /// Resources taken from an instance; absent for a malformed record.
    pub need: Option<Resources>,
    /// GPU memory on each device, in bytes.
    pub gpu_vram: u64,
    /// Eligible types, cheapest first.
    pub eligible: Vec<TypeName>,
    /// Instance of the runner or of the assignment.
    pub instance: Option<VmName>,
    /// Position among all waiting containers, from 1.
    pub position: Option<usize>,
    /// Reason of the wait.
    pub waiting: Option<WaitReason>,
    /// Reason of the wait as a sentence; empty for a running container.
    pub status: String,
    /// Event that would end the wait.
    pub unblocked_by: Option<String>,
}

/// Known state of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceView {
    /// Id in the cloud; absent before the confirmation of the create.
    pub instance: Option<InstanceId>,
    /// Id of the create request.
    pub intent: Option<IntentId>,
    /// Cloud of the instance.
    pub cloud: CloudId,
    /// Host and port, if known.
    pub address: Option<Address>,
    /// Configured type.
    pub instance_type: TypeName,
    /// Boot image.
    pub image: ImageId,
    /// Price per hour.
    pub price: MicroDollars,
    /// Phase of the life cycle.
    pub phase: Phase,
    /// True if any container is assigned or running.
    pub busy: bool,
    /// Idle behavior.
    pub idle_behavior: IdleBehavior,
    /// Time of the create request or of the adoption.
    pub since: Timestamp,
    /// Start of the idle time.
    pub idle_since: Option<Timestamp>,
    /// Time of the last successful probe.
    pub last_probe: Option<Timestamp>,
    /// Error of the last probe.
    pub complaint: Option<String>,
    /// Fault of the instance: reported broken, or a run lock without a runner.
    pub broken: Option<String>,
    /// Last container on the instance.
    pub last_container: Option<ContainerId>,
    /// Containers on the instance.
    pub containers: Vec<ContainerId>,
    /// Time of the preemption, if announced.
    pub preempted_at: Option<Timestamp>,
    /// Reason of the termination.
    pub terminating: Option<ShutdownReason>,
}

/// Back-off of a type with an image, after failed boots in a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootBackoff {
    /// Configured type.
    pub instance_type: TypeName,
    /// Boot image.
    pub image: ImageId,
    /// Number of consecutive failed boots.
    pub failures: u32,
    /// End of the back-off. If past, the canary is in flight, or no container needs the type.
    pub until: Timestamp,
    /// Last error.
    pub why: String,
}

/// Category of an instance in metrics; the first match counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Category {
    /// Any container on the instance.
    InUse,
    /// Held by an operator.
    Hold,
    /// Creating or booting.
    Booting,
    /// Adopted after a restart and unprobed.
    Unknown,
    /// Any other instance.
    Idle,
}

impl Category {
    /// All categories, in order of precedence.
    pub const ALL: [Self; 5] = [
        Self::InUse,
        Self::Hold,
        Self::Booting,
        Self::Unknown,
        Self::Idle,
    ];

    /// Label in the peer's metrics.
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
    /// Containers by state and cheapest eligible type (`None` without an eligible type).
    pub containers: BTreeMap<(ContainerState, Option<TypeName>), u64>,
    /// Runners alive or starting.
    pub runners: u64,
    /// Waiting containers with a reservation on a pending instance.
    pub allocated_not_started: u64,
    /// Waiting containers without a reservation.
    pub not_allocated: u64,
    /// Time of the submission of the oldest waiting container.
    pub oldest_waiting: Option<Timestamp>,
    /// Instances by category and type.
    pub instances: BTreeMap<(Category, TypeName), u64>,
    /// Sum of the prices per hour, by category.
    pub price: BTreeMap<Category, MicroDollars>,
    /// Sum of the prices per hour, by category and type.
    pub price_of_type: BTreeMap<(Category, TypeName), MicroDollars>,
    /// Types needed by waiting containers with failing creates, and the start of the failures.
    pub failing: BTreeMap<TypeName, Timestamp>,
    /// Sum of the offered resources, by category.
    pub resources: BTreeMap<Category, Resources>,
    /// Time of the last successful probe of each instance expected to answer.
    pub last_probes: Vec<Timestamp>,
    /// True if any quota was reached recently.
    pub at_quota: bool,
    /// Types and images in back-off after failed boots.
    pub boot_backoffs: Vec<BootBackoff>,
    /// Remaining amount of each budget.
    pub budgets: Vec<BudgetLeft>,
    /// Limit on running containers, if the load of the queue requires any.
    pub containers_max: Option<u32>,
    /// Commands without an answer, by kind.
    pub in_flight: BTreeMap<String, u64>,
}

impl Dispatcher {
    /// Read-only view for operators.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View { core: self }
    }
}

impl View<'_> {
    /// True if this process is the leader.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.core.is_leader()
    }

    /// True if the queue and every cloud were listed completely.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.core.is_synced()
    }

    /// All containers: running, then waiting in rank order, then all others. O(n log n).
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

    /// State of a container. O(waiting containers + instances), for the position and the remedy.
    #[must_use]
    pub fn container(&self, id: ContainerId) -> Option<ContainerView> {
        let entry = self.core.queue().get(&id)?;
        let waits = self.core.queue().is_waiting(&id);
        let position = waits.then(|| self.positions().get(&id).copied()).flatten();
        Some(self.describe(entry, position, self.next_release_at()))
    }

    /// All instances by name, create requests included.
    #[must_use]
    pub fn instances(&self) -> Vec<InstanceView> {
        let mut vms: Vec<&Vm> = self.core.fleet().iter().collect();
        vms.sort_by_key(|vm| (vm.identity.instance.as_ref(), vm.identity.intent));
        vms.into_iter().map(describe_vm).collect()
    }

    /// State of an instance. O(log instances).
    #[must_use]
    pub fn instance(&self, name: &InstanceId) -> Option<InstanceView> {
        let key = self.core.fleet().named(name)?;
        self.core.fleet().get(key).map(describe_vm)
    }

    /// Number of placement passes so far.
    #[must_use]
    pub fn passes(&self) -> u64 {
        self.core.passes()
    }

    /// True if any instance has a runner of the container. O(log n).
    #[must_use]
    pub fn is_hosted(&self, id: ContainerId) -> bool {
        self.core.fleet().hosts(id).next().is_some()
    }

    /// Types and images in back-off after failed boots. O(entries).
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

    /// Remaining amount of each budget, in the order of the configuration.
    #[must_use]
    pub fn budgets(&self) -> Vec<BudgetLeft> {
        let price = self.core.fleet().price();
        self.core.capacity().budgets.left(price)
    }

    /// Limit on running containers, if the load of the queue requires any.
    #[must_use]
    pub fn containers_max(&self) -> Option<u32> {
        self.core.capacity().concurrency.max(self.core.now())
    }

    /// Number of runners and assignments on all instances, and the number of supervisors among
    /// these. O(1).
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
