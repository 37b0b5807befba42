//! Initial conditions of stories, and numeric queries.

use std::collections::BTreeMap;
use std::time::Duration;

use longshore_core::command::{Action, CloudAction, QueueAction};
use longshore_core::config::{Config, InstanceType};
use longshore_core::ids::{ContainerId, IntentId, QuotaGroup, TypeName};
use longshore_core::resources::{Demand, MIB, MicroDollars, Resources};
use longshore_core::time::Timestamp;
use longshore_core::view::Totals;
use longshore_core::{ContainerExplanation, InstanceExplanation, Phase};

use super::{Story, VmHand, minutes};
use crate::checks::Checks;
use crate::run::profile::offer;
use crate::world::World;
use crate::world::events::START;
use crate::world::faults::Fault;
use crate::world::history::History;
use crate::world::plan::Plan;
use crate::world::rng::Ratio;
use crate::world::trace::Trace;

/// Maximum number of injected faults in a story with random faults.
const STRIKES_MAX: u64 = 1_000_000;

/// Instance types `type1`, `type2`, …: type n has n cores and, per core, 1.1 GiB of memory, 1 GiB
/// of disk and a price of 12.3 cents an hour.
#[must_use]
pub fn numbered_types(numbers: &[u32]) -> BTreeMap<TypeName, InstanceType> {
    let named = numbers.iter().map(|number| {
        let number = *number;
        let offer = InstanceType {
            resources: Resources {
                vcpus: number,
                ram: u64::from(number) * 1_126 * MIB,
                scratch: u64::from(number) << 30,
                gpus: 0,
            },
            price: MicroDollars(u64::from(number) * 123_000),
            ..offer(number, 0, false)
        };
        (TypeName::new(format!("type{number}")), offer)
    });
    named.collect()
}

/// Configures the types of [`numbered_types`], without additional memory on top of the demands of
/// containers, and with an idle timeout of an hour.
pub fn number_types(config: &mut Config, numbers: &[u32]) {
    config.types = numbered_types(numbers);
    config.sizing.reserve_extra_ram = 0;
    config.sizing.keep_buffers_per_vcpu = 0;
    config.timeouts.idle = Duration::from_secs(3600);
}

/// Demand of a container with `vcpus` cores and 16 MiB of memory.
#[must_use]
pub fn bare(vcpus: u32) -> Demand {
    Demand {
        vcpus,
        ram: 16 * MIB,
        ..Demand::default()
    }
}

impl Story {
    /// Creates a world with random faults, each with a ratio `(times, of)` of its opportunities.
    ///
    /// # Panics
    /// If a ratio is invalid.
    #[must_use]
    pub fn with_faults(
        faults: &[(Fault, u32, u32)],
        seed: u64,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let mut plan = Plan::calm(seed);
        change(&mut plan.config);
        for (fault, times, of) in faults {
            plan.faults.ratios.insert(*fault, Ratio::new(*times, *of));
        }
        plan.fault_budget = STRIKES_MAX;
        Self::of(plan)
    }

    pub(super) fn of(plan: Plan) -> Self {
        let mut world = World::new(plan, Trace::default(), Checks::all());
        world.history = Some(History::default());
        Self { world }
    }

    /// Sets the shortest and longest boot time of VMs, in seconds.
    pub fn boots_take(&mut self, seconds: (u64, u64)) {
        self.world.vms.boot_secs = seconds;
    }

    /// Makes a quota group unavailable in the cloud for `span`; the errors of the cloud name the
    /// whole group.
    pub fn sell_out(&mut self, group: &str, span: Duration) {
        let until = self.world.scheduler.now + span;
        let group = QuotaGroup::from(group);
        self.world.cloud.group_sold_out.insert(group, until);
    }

    /// Makes all VMs of a type fail to boot.
    pub fn never_boots(&mut self, type_name: &str) {
        self.world.vms.dead_types.insert(TypeName::from(type_name));
    }

    /// Limits the number of locks of each container in the queue.
    pub fn allow_attempts(&mut self, max: u32) {
        self.world.queue.attempts_max = max;
    }

    /// Disables change hints of the queue.
    pub fn without_hints(&mut self) {
        self.world.queue.pushes = false;
    }

    /// Creates a VM of this cluster without a request of the dispatcher, and returns the number of
    /// the VM. The dispatcher adopts the VM after the next list.
    pub fn leave_vm(&mut self, type_name: &str) -> usize {
        let number = self.world.cloud.made.len();
        let intent = IntentId::new(0xf00d_0000 + number as u128);
        let image = self.world.plan.config.image.clone();
        let world = &mut self.world;
        let name = TypeName::from(type_name);
        world
            .cloud
            .make(&mut world.scheduler, intent, &name, &image);
        number
    }

    /// Creates idle VMs of these types, waits until all are ready, and returns the numbers of the
    /// VMs. Intended for the beginning of a story.
    ///
    /// # Panics
    /// If a VM is not ready within 15 minutes.
    #[track_caller]
    pub fn idle_vms(&mut self, types: &[&str]) -> Vec<usize> {
        let numbers: Vec<usize> = types.iter().map(|name| self.leave_vm(name)).collect();
        let ready = |story: &Self, vm: &usize| {
            let shown = story.shown_vm(*vm);
            shown.is_some_and(|vm| vm.phase == Phase::Ready)
        };
        self.run_until("the VMs are ready", minutes(15), |story| {
            numbers.iter().all(|vm| ready(story, vm))
        });
        numbers
    }

    /// Crashes the dispatcher and restarts the dispatcher with a changed configuration within 30 s.
    pub fn restart_with(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.world.processes.all[0].config);
        self.restart();
    }

    // Counts and explanations.

    /// Explanation of a container by the dispatcher.
    #[must_use]
    pub fn told(&self, id: ContainerId) -> Option<ContainerExplanation> {
        let core = self.world.processes.all[0].core.as_ref()?;
        core.view().explain_container(self.now(), id)
    }

    /// Explanation of the nth VM by the dispatcher.
    ///
    /// # Panics
    /// If fewer VMs were created.
    #[must_use]
    pub fn told_vm(&self, vm: usize) -> Option<InstanceExplanation> {
        let core = self.world.processes.all[0].core.as_ref()?;
        let name = self.vm_id(vm).to_string();
        core.view().explain_instance(self.now(), &name)
    }

    /// All commands so far, each with the time since the beginning of the story.
    ///
    /// # Panics
    /// Never: every story keeps a history.
    pub fn commands(&self) -> impl Iterator<Item = (Duration, &Action)> {
        let history = self.world.history.as_ref().expect("stories keep a history");
        let commands = history.commands.iter();
        commands.map(|(at, action)| (at.since(START), action))
    }

    /// Source data of the dispatcher's metrics.
    ///
    /// # Panics
    /// If the dispatcher is not running.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let core = self.world.processes.all[0].core.as_ref();
        core.expect("dispatcher is running").view().totals()
    }

    /// Number of create requests for a type.
    #[must_use]
    pub fn creates_of(&self, type_name: &str) -> usize {
        self.count_commands(|action| match action {
            Action::Cloud {
                action: CloudAction::Create { instance_type, .. },
                ..
            } => instance_type.as_str() == type_name,
            _ => false,
        })
    }

    /// Number of cancel requests for a container.
    #[must_use]
    pub fn cancels_of(&self, container: ContainerId) -> usize {
        self.count_commands(|action| {
            matches!(action, Action::Queue(QueueAction::Cancel { id, .. }) if *id == container)
        })
    }

    /// Time from the beginning of the story to `at`.
    #[must_use]
    pub fn since_begin(&self, at: Timestamp) -> Duration {
        at.since(START)
    }

    /// Number of containers neither finished nor deleted.
    #[must_use]
    pub fn open(&self) -> usize {
        self.world.queue.open
    }

    /// Number of injections of a fault so far.
    #[must_use]
    pub fn strikes_of(&self, fault: Fault) -> u64 {
        self.world.scheduler.faults.count(fault)
    }

    /// Stops the injection of new faults.
    pub fn stop_faults(&mut self) {
        self.world.scheduler.faults.stop();
    }

    /// Status text of a waiting container for the owner; empty without such a text.
    #[must_use]
    pub fn status(&self, id: ContainerId) -> String {
        self.shown(id).map(|shown| shown.status).unwrap_or_default()
    }

    /// Number of containers among `ids` with a running program.
    #[must_use]
    pub fn how_many_run(&self, ids: &[ContainerId]) -> usize {
        ids.iter().filter(|id| self.runs_on(**id).is_some()).count()
    }
}

impl VmHand<'_> {
    /// Makes the boot probe of the VM fail from now on.
    pub fn fail_boot_probe(mut self) {
        self.vm().ready_at = Timestamp::NEVER;
    }

    /// Makes the boot probe of the VM pass from now on.
    pub fn pass_boot_probe(mut self) {
        let now = self.story.world.scheduler.now;
        self.vm().ready_at = now;
    }

    /// Makes the next start on the VM hang without effect.
    pub fn hang_next_start(mut self) {
        self.vm().hangs_start = true;
    }
}
