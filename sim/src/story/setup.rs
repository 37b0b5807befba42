//! What is there before a story begins, and how a story looks at numbers.

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
use crate::run::profile::offer;
use crate::world::World;
use crate::world::events::START;
use crate::world::faults::Fault;
use crate::world::history::History;
use crate::world::plan::Plan;
use crate::world::rng::Ratio;
use crate::world::trace::Trace;

/// Strikes that a story with faults may have at most.
const STRIKES_MAX: u64 = 1_000_000;

/// Types `type1`, `type2`, … : each has as many cores as its number says, 1.1 GiB of memory and
/// 1 GiB of disk for each core, and costs 12.3 cents for each.
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

/// A configuration with such types, which adds nothing to what containers ask for, and under which
/// idle VMs stay for an hour.
pub fn number_types(config: &mut Config, numbers: &[u32]) {
    config.types = numbered_types(numbers);
    config.sizing.reserve_extra_ram = 0;
    config.sizing.keep_buffers_per_vcpu = 0;
    config.timeouts.idle = Duration::from_secs(3600);
}

/// A container that needs so many cores and next to nothing else.
#[must_use]
pub fn bare(vcpus: u32) -> Demand {
    Demand {
        vcpus,
        ram: 16 * MIB,
        ..Demand::default()
    }
}

impl Story {
    /// A world in which faults strike by chance, each so often on its occasions.
    ///
    /// # Panics
    /// If a ratio makes no sense.
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
        let mut world = World::new(plan, Trace::default());
        world.history = Some(History::default());
        Self { world }
    }

    /// VMs boot within so many seconds.
    pub fn boots_take(&mut self, seconds: (u64, u64)) {
        self.world.vms.boot_secs = seconds;
    }

    /// The cloud has nothing of a quota group for so long, and says so of the whole group.
    pub fn sell_out(&mut self, group: &str, span: Duration) {
        let until = self.world.scheduler.now + span;
        let group = QuotaGroup::from(group);
        self.world.cloud.group_sold_out.insert(group, until);
    }

    /// VMs of this type never boot.
    pub fn never_boots(&mut self, type_name: &str) {
        self.world.vms.dead_types.insert(TypeName::from(type_name));
    }

    /// The queue lets a container be locked so many times.
    pub fn allow_attempts(&mut self, max: u32) {
        self.world.queue.attempts_max = max;
    }

    /// The queue tells nobody that something changed.
    pub fn without_hints(&mut self) {
        self.world.queue.pushes = false;
    }

    /// A VM of ours exists that nobody in this story asked for; its number. The dispatcher finds it
    /// in its next list.
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

    /// Idle VMs of these types that are ready, by their numbers. Best at the beginning.
    ///
    /// # Panics
    /// If one does not become ready.
    #[track_caller]
    pub fn idle_vms(&mut self, types: &[&str]) -> Vec<usize> {
        let numbers: Vec<usize> = types.iter().map(|name| self.leave_vm(name)).collect();
        let ready = |story: &Self, vm: &usize| {
            let shown = story.shown_vm(*vm);
            shown.is_some_and(|vm| vm.phase == Phase::Ready)
        };
        self.run_until("they are ready", minutes(15), |story| {
            numbers.iter().all(|vm| ready(story, vm))
        });
        numbers
    }

    /// The dispatcher dies now and comes back within half a minute with another configuration.
    pub fn restart_with(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.world.processes.all[0].config);
        self.restart();
    }

    // What can be counted.

    /// What the dispatcher tells of a container to whoever asks why.
    #[must_use]
    pub fn told(&self, id: ContainerId) -> Option<ContainerExplanation> {
        let core = self.world.processes.all[0].core.as_ref()?;
        core.view().explain_container(self.now(), id)
    }

    /// What the dispatcher tells of the nth VM to whoever asks why.
    ///
    /// # Panics
    /// If none was made of that number.
    #[must_use]
    pub fn told_vm(&self, vm: usize) -> Option<InstanceExplanation> {
        let core = self.world.processes.all[0].core.as_ref()?;
        let name = self.vm_id(vm).to_string();
        core.view().explain_instance(self.now(), &name)
    }

    /// All commands so far, each with the time since the story began.
    ///
    /// # Panics
    /// Never: every story keeps a history.
    pub fn commands(&self) -> impl Iterator<Item = (Duration, &Action)> {
        let history = self.world.history.as_ref().expect("stories keep a history");
        let commands = history.commands.iter();
        commands.map(|(at, action)| (at.since(START), action))
    }

    /// What the dispatcher's metrics are made of.
    ///
    /// # Panics
    /// If the dispatcher is not up.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let core = self.world.processes.all[0].core.as_ref();
        core.expect("it is up").view().totals()
    }

    /// Creates of a type that were asked for.
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

    /// Cancels of a container that were asked for.
    #[must_use]
    pub fn cancels_of(&self, container: ContainerId) -> usize {
        self.count_commands(|action| {
            matches!(action, Action::Queue(QueueAction::Cancel { id, .. }) if *id == container)
        })
    }

    /// A time of the world, since the story began.
    #[must_use]
    pub fn since_begin(&self, at: Timestamp) -> Duration {
        at.since(START)
    }

    /// Containers that are neither over nor deleted.
    #[must_use]
    pub fn open(&self) -> usize {
        self.world.queue.open
    }

    /// Strikes of a fault so far.
    #[must_use]
    pub fn strikes_of(&self, fault: Fault) -> u64 {
        self.world.scheduler.faults.count(fault)
    }

    /// From here on nothing new goes wrong.
    pub fn stop_faults(&mut self) {
        self.world.scheduler.faults.stop();
    }

    /// What the dispatcher says to a container's owner while it waits; empty if it does not.
    #[must_use]
    pub fn status(&self, id: ContainerId) -> String {
        self.shown(id).map(|shown| shown.status).unwrap_or_default()
    }

    /// How many of these have a program that runs.
    #[must_use]
    pub fn how_many_run(&self, ids: &[ContainerId]) -> usize {
        ids.iter().filter(|id| self.runs_on(**id).is_some()).count()
    }
}

impl VmHand<'_> {
    /// Its boot probe fails from now on.
    pub fn fail_boot_probe(mut self) {
        self.vm().ready_at = Timestamp::NEVER;
    }

    /// Its boot probe passes from now on.
    pub fn pass_boot_probe(mut self) {
        let now = self.story.world.scheduler.now;
        self.vm().ready_at = now;
    }

    /// The next start on it hangs and does nothing.
    pub fn hang_next_start(mut self) {
        self.vm().hangs_start = true;
    }
}
