//! Which instances exist, and what runs on each.

mod few;
mod hosts;
mod index;
pub(crate) mod promises;
mod rooms;
pub(crate) mod vm;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{
    CloudId, ContainerId, ImageId, InstanceId, IntentId, QuotaGroup, TypeName, VmKey,
};
use crate::placement::Kept;
use crate::placement::sizing::Load;
use crate::placement::types::Types;
use crate::queue::shapes::Rank;
use crate::resources::{MicroDollars, Resources};
use hosts::Hosts;
pub(crate) use index::Group;
use index::{Filed, Index};
use promises::{Promise, Promises};
use rooms::Rooms;
use vm::{Runner, Vm};

/// The instances. Finding one costs O(log instances), and so does every change of one.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Fleet {
    last_key: u64,
    /// `MaxRunningContainersPerInstance`.
    containers_max: Option<u32>,
    vms: BTreeMap<VmKey, Record>,
    hosts: Hosts,
    promises: Promises,
    index: Index,
}

/// A VM, and what the indexes say of it.
#[derive(Clone, Debug, Hash)]
struct Record {
    vm: Vm,
    filed: Filed,
}

impl Record {
    /// Lets the indexes follow the VM. One that is not on its way any more keeps no promise.
    fn follow(&mut self, promises: &mut Promises, index: &mut Index, containers_max: Option<u32>) {
        let mut filed = Filed::of(&self.vm, containers_max);
        if !filed.arriving && !self.vm.promised.is_empty() {
            promises.break_all_of(&mut self.vm);
            filed = Filed::of(&self.vm, containers_max);
        }
        if filed != self.filed {
            index.refile(&self.vm, &self.filed, &filed);
            self.filed = filed;
        }
    }
}

impl Fleet {
    pub(crate) fn next_key(&mut self) -> VmKey {
        self.last_key += 1;
        VmKey(self.last_key)
    }

    pub(crate) fn insert(&mut self, vm: Vm) {
        let key = vm.key;
        assert!(key.0 <= self.last_key, "keys come from next_key");
        let filed = Filed::default();
        let before = self.vms.insert(key, Record { vm, filed });
        assert!(before.is_none(), "keys are never reused");
        self.refile(key);
    }

    /// Takes over how many containers a VM may hold at most. O(instances · log).
    pub(crate) fn set_containers_max(&mut self, max: Option<u32>) {
        if std::mem::replace(&mut self.containers_max, max) != max {
            let keys: Vec<VmKey> = self.vms.keys().copied().collect();
            for key in keys {
                self.refile(key);
            }
        }
    }

    /// Forgets every VM; keys go on where they were.
    pub(crate) fn forget_all(&mut self) {
        *self = Self {
            last_key: self.last_key,
            containers_max: self.containers_max,
            ..Self::default()
        };
    }

    pub(crate) fn get(&self, key: VmKey) -> Option<&Vm> {
        self.vms.get(&key).map(|record| &record.vm)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Vm> {
        self.vms.values().map(|record| &record.vm)
    }

    pub(crate) fn len(&self) -> usize {
        self.vms.len()
    }

    /// Changes one VM; the indexes follow. Its runners come and go by [`Fleet::add_runner`] and
    /// [`Fleet::remove_runner`] alone.
    pub(crate) fn update<R>(&mut self, key: VmKey, change: impl FnOnce(&mut Vm) -> R) -> Option<R> {
        let record = self.vms.get_mut(&key)?;
        let runners_before = record.vm.runners.len();
        let result = change(&mut record.vm);
        assert_eq!(record.vm.runners.len(), runners_before, "not by an update");
        record.follow(&mut self.promises, &mut self.index, self.containers_max);
        Some(result)
    }

    /// Notes something about a VM that no index asks for: saves looking whether one has to follow.
    pub(crate) fn note<R>(&mut self, key: VmKey, note: impl FnOnce(&mut Vm) -> R) -> Option<R> {
        let record = self.vms.get_mut(&key)?;
        let result = note(&mut record.vm);
        debug_assert!(
            record.filed == Filed::of(&record.vm, self.containers_max),
            "an index asks for it"
        );
        Some(result)
    }

    /// Puts a runner on a VM, or keeps a place for one.
    pub(crate) fn add_runner(
        &mut self,
        key: VmKey,
        id: ContainerId,
        runner: Runner,
    ) -> Option<&Vm> {
        let record = self.vms.get_mut(&key)?;
        record.vm.last_container = Some(id);
        record.vm.runners.insert(id, runner);
        record.follow(&mut self.promises, &mut self.index, self.containers_max);
        self.hosts.insert(id, key);
        Some(&record.vm)
    }

    /// Takes a runner off its VM.
    pub(crate) fn remove_runner(&mut self, key: VmKey, id: &ContainerId) -> Option<Runner> {
        let record = self.vms.get_mut(&key)?;
        let runner = record.vm.runners.remove(id)?;
        record.follow(&mut self.promises, &mut self.index, self.containers_max);
        self.hosts.remove(*id, key);
        Some(runner)
    }

    pub(crate) fn remove(&mut self, key: VmKey) -> Option<Vm> {
        let Record { mut vm, filed } = self.vms.remove(&key)?;
        self.promises.break_all_of(&mut vm);
        self.index.refile(&vm, &filed, &Filed::default());
        self.index.forget_names(&vm);
        for id in vm.runners.keys() {
            self.hosts.remove(*id, key);
        }
        Some(vm)
    }

    pub(crate) fn by_instance(&self, cloud: CloudId, instance: &InstanceId) -> Option<VmKey> {
        self.index.by_instance(cloud, instance)
    }

    /// The instance of that name in whichever cloud. O(clouds).
    pub(crate) fn named(&self, instance: &InstanceId) -> Option<VmKey> {
        self.index.named(instance)
    }

    pub(crate) fn by_intent(&self, intent: IntentId) -> Option<VmKey> {
        self.index.by_intent.get(&intent).copied()
    }

    /// The VMs on which a container has a runner, or a place kept for one.
    pub(crate) fn hosts(&self, id: ContainerId) -> impl Iterator<Item = VmKey> + '_ {
        self.hosts.of(id)
    }

    /// Whether some VM found after a restart has not been heard yet.
    pub(crate) fn any_unheard(&self) -> bool {
        !self.index.unheard.is_empty()
    }

    /// The ready VM that suits best (see [`Rooms::best`]), and is not kept for another.
    pub(crate) fn best_ready(
        &self,
        types: &Types,
        image: &ImageId,
        need: &Resources,
        kept: &Kept,
    ) -> Option<VmKey> {
        self.index.ready.best(types, image, need, |key| {
            let has_room = self.vms[&key].vm.has_room(need, self.containers_max);
            has_room && !kept.values().any(|vm| *vm == key)
        })
    }

    /// The VM on its way that suits best, with what was promised on it taken off. Costs as much as
    /// [`Fleet::best_ready`].
    pub(crate) fn best_arriving(
        &self,
        types: &Types,
        image: &ImageId,
        need: &Resources,
    ) -> Option<VmKey> {
        self.index.arriving.best(types, image, need, |key| {
            self.vms[&key].vm.has_room(need, self.containers_max)
        })
    }

    /// The busy ready VM of these types that has most room left, for one that waits until it has
    /// more. O(types · log instances).
    pub(crate) fn least_busy(&self, types: &Types, image: &ImageId) -> Option<VmKey> {
        let of = |rooms: &Rooms| rooms.least_busy(types, image);
        let most_free = [of(&self.index.ready), of(&self.index.full)];
        most_free.into_iter().flatten().max().map(|slot| slot.3)
    }

    /// The dearest ready VM on which nothing runs, of those the oldest; of one group, or of all.
    /// O(groups).
    pub(crate) fn dearest_idle(&self, group: Option<&Group>) -> Option<VmKey> {
        let dearest = match group {
            Some(group) => self.index.idle.get(group)?.last(),
            None => self.index.idle.values().filter_map(BTreeSet::last).max(),
        };
        dearest.map(|(_, Reverse(key))| *key)
    }

    /// Whether a VM is about to be given back; of one group, or any.
    pub(crate) fn any_leaving(&self, group: Option<&Group>) -> bool {
        match group {
            Some(group) => self.index.leaving_of_group.contains_key(group),
            None => self.index.leaving > 0,
        }
    }

    /// Promises a container room on a VM that is on its way.
    pub(crate) fn promise(&mut self, promise: Promise, need: Resources) {
        let record = self.vms.get_mut(&promise.vm).expect("it is on its way");
        let vm = &mut record.vm;
        vm.promised.insert(promise.rank, need);
        self.promises.make(&vm.type_name, &vm.image, promise);
        self.refile(promise.vm);
    }

    /// Takes a promise back, if there is one.
    pub(crate) fn withdraw(&mut self, id: ContainerId) -> Option<Promise> {
        let key = self.promises.of(&id)?.vm;
        let vm = &mut self.vms.get_mut(&key)?.vm;
        let promise = self.promises.forget(&vm.type_name, &vm.image, id)?;
        vm.promised.remove(&promise.rank);
        self.refile(key);
        Some(promise)
    }

    /// Breaks every promise. O(promises · log).
    pub(crate) fn break_all_promises(&mut self) {
        let promised: Vec<ContainerId> = self.promises.containers().collect();
        for id in promised {
            let key = self.promised_to(&id);
            if let Some(record) = key.and_then(|key| self.vms.get_mut(&key)) {
                self.promises.break_all_of(&mut record.vm);
                record.follow(&mut self.promises, &mut self.index, self.containers_max);
            }
        }
    }

    /// Breaks the promises that were made to supervisors. O(those · log).
    pub(crate) fn break_promises_of_supervisors(&mut self) {
        for id in self.promises.supervisors() {
            if let Some(promise) = self.withdraw(id) {
                self.promises.note_broken(promise);
            }
        }
    }

    /// Whether promises were broken since they were last taken note of.
    pub(crate) fn any_promise_broken(&self) -> bool {
        self.promises.any_broken()
    }

    /// The promises that were broken since.
    pub(crate) fn take_broken_promises(&mut self) -> Vec<Promise> {
        self.promises.take_broken()
    }

    /// How many promises there are.
    pub(crate) fn promises(&self) -> usize {
        self.promises.containers().count()
    }

    /// The VM on its way on which a container was promised room.
    pub(crate) fn promised_to(&self, id: &ContainerId) -> Option<VmKey> {
        self.promises.of(id).map(|promise| promise.vm)
    }

    /// Containers of higher rank that were promised room, up to `most`. O(most).
    pub(crate) fn promised_above(&self, rank: Rank, most: usize) -> usize {
        self.promises.above(rank, most)
    }

    /// Supervisors of higher rank that were promised room, up to `most`. O(most).
    pub(crate) fn supervisors_promised_above(&self, rank: Rank, most: usize) -> usize {
        self.promises.supervisors_above(rank, most)
    }

    /// Which promises of lower rank must be withdrawn on the VM that bears the lowest, so that this
    /// fits there; `None` if that is not enough. O(types · log instances + promises of a VM).
    pub(crate) fn outranked(
        &self,
        types: &Types,
        image: &ImageId,
        need: &Resources,
        rank: Rank,
    ) -> Option<(VmKey, Vec<ContainerId>)> {
        let (lowest, key) = self.promises.lowest(types, image)?;
        if lowest <= rank {
            return None;
        }
        let vm = &self.vms[&key].vm;
        let mut stay: Vec<(&Rank, &Resources)> = vm.promised.iter().collect();
        let mut go = Vec::new();
        while stay.last().is_some_and(|(promised, _)| **promised > rank) {
            go.extend(stay.pop().map(|(promised, _)| promised.2));
            let needs = stay.iter().map(|(_, need)| *need);
            let load: Load = vm.needs().chain(needs).collect();
            if load.has_room(need, &vm.total(), self.containers_max) {
                return Some((key, go));
            }
        }
        None
    }

    /// What all instances cost per hour, wishes counted.
    pub(crate) fn price(&self) -> MicroDollars {
        MicroDollars(u64::try_from(self.index.price).unwrap_or(u64::MAX))
    }

    /// Runners on all instances, and places kept for one.
    pub(crate) fn runners(&self) -> usize {
        self.index.runners
    }

    /// Those of them whose containers wait for others.
    pub(crate) fn supervisors(&self) -> usize {
        self.index.supervisors
    }

    /// Whether an operator holds an instance of this kind.
    pub(crate) fn any_held(&self, name: &TypeName, image: &ImageId) -> bool {
        self.index.held.contains_key(&(name.clone(), image.clone()))
    }

    /// Instances of one quota group, wishes counted.
    pub(crate) fn count_of_group(&self, cloud: CloudId, group: &QuotaGroup) -> usize {
        let place = (cloud, group.clone());
        self.index.by_group.get(&place).copied().unwrap_or_default()
    }

    /// Whether the create of a VM was not yet answered.
    pub(crate) fn is_create_unanswered(&self, key: VmKey) -> bool {
        self.index.unanswered.contains(&key)
    }

    /// Creates that were not yet answered.
    pub(crate) fn creates_unanswered(&self) -> usize {
        self.index.unanswered.len()
    }

    /// Whether the create of a VM that is like that was not yet answered. O(such creates).
    pub(crate) fn awaits_create(&self, is: impl Fn(&Vm) -> bool) -> bool {
        let mut vms = self
            .index
            .unanswered
            .iter()
            .filter_map(|key| self.get(*key));
        vms.any(is)
    }

    /// Files a VM by what it is now.
    fn refile(&mut self, key: VmKey) {
        if let Some(record) = self.vms.get_mut(&key) {
            record.follow(&mut self.promises, &mut self.index, self.containers_max);
        }
    }
}
