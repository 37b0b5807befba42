//! Which instances exist, and what runs on each.

mod free_index;
mod hosts;
mod index;
pub(crate) mod load;
pub(crate) mod reservations;
mod small_map;
pub(crate) mod vm;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{
    CloudId, ContainerId, ImageId, InstanceId, IntentId, QuotaGroup, TypeName, VmKey,
};
use crate::queue::classes::Rank;
use crate::ranked_types::Types;
use crate::resources::{MicroDollars, Resources};
use free_index::FreeIndex;
use hosts::Hosts;
pub(crate) use index::Group;
use index::{Index, IndexKey};
use load::Load;
use reservations::{Reservation, Reservations};
use vm::{Runner, Vm};

/// Busy VMs that are kept for what is blocked: at most one of each kind, so that lower ones go on
/// wherever nobody is waited for.
pub(crate) type Kept = BTreeMap<(TypeName, ImageId), VmKey>;

/// The instances. Finding one costs O(log instances), and so does every change of one.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Fleet {
    last_key: u64,
    /// `MaxRunningContainersPerInstance`.
    containers_max: Option<u32>,
    vms: BTreeMap<VmKey, Record>,
    hosts: Hosts,
    reservations: Reservations,
    index: Index,
}

/// A VM, and what the indexes say of it.
#[derive(Clone, Debug, Hash)]
struct Record {
    vm: Vm,
    index_key: IndexKey,
}

impl Record {
    /// Lets the indexes follow the VM. One that is not on its way any more keeps no promise.
    fn follow(
        &mut self,
        reservations: &mut Reservations,
        index: &mut Index,
        containers_max: Option<u32>,
    ) {
        let mut index_key = IndexKey::of(&self.vm, containers_max);
        if !index_key.arriving && !self.vm.work.reserved.is_empty() {
            reservations.break_all_of(&mut self.vm);
            index_key = IndexKey::of(&self.vm, containers_max);
        }
        if index_key != self.index_key {
            index.reindex(&self.vm, &self.index_key, &index_key);
            self.index_key = index_key;
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
        let index_key = IndexKey::default();
        let before = self.vms.insert(key, Record { vm, index_key });
        assert!(before.is_none(), "keys are never reused");
        self.reindex(key);
    }

    /// Takes over how many containers a VM may hold at most. O(instances · log).
    pub(crate) fn set_containers_max(&mut self, max: Option<u32>) {
        if std::mem::replace(&mut self.containers_max, max) != max {
            let keys: Vec<VmKey> = self.vms.keys().copied().collect();
            for key in keys {
                self.reindex(key);
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
        let runners_before = record.vm.work.runners.len();
        let result = change(&mut record.vm);
        assert_eq!(
            record.vm.work.runners.len(),
            runners_before,
            "not by an update"
        );
        record.follow(&mut self.reservations, &mut self.index, self.containers_max);
        Some(result)
    }

    /// Notes something about a VM that no index asks for: saves looking whether one has to follow.
    pub(crate) fn note<R>(&mut self, key: VmKey, note: impl FnOnce(&mut Vm) -> R) -> Option<R> {
        let record = self.vms.get_mut(&key)?;
        let result = note(&mut record.vm);
        debug_assert!(
            record.index_key == IndexKey::of(&record.vm, self.containers_max),
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
        record.vm.work.last_container = Some(id);
        record.vm.work.runners.insert(id, runner);
        record.follow(&mut self.reservations, &mut self.index, self.containers_max);
        self.hosts.insert(id, key);
        Some(&record.vm)
    }

    /// Takes a runner off its VM.
    pub(crate) fn remove_runner(&mut self, key: VmKey, id: &ContainerId) -> Option<Runner> {
        let record = self.vms.get_mut(&key)?;
        let runner = record.vm.work.runners.remove(id)?;
        record.follow(&mut self.reservations, &mut self.index, self.containers_max);
        self.hosts.remove(*id, key);
        Some(runner)
    }

    pub(crate) fn remove(&mut self, key: VmKey) -> Option<Vm> {
        let Record { mut vm, index_key } = self.vms.remove(&key)?;
        self.reservations.break_all_of(&mut vm);
        self.index.reindex(&vm, &index_key, &IndexKey::default());
        self.index.forget_names(&vm);
        for id in vm.work.runners.keys() {
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
    pub(crate) fn any_unprobed(&self) -> bool {
        !self.index.unprobed.is_empty()
    }

    /// The ready VM that suits best (see [`FreeIndex::best`]), and is not kept for another.
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
        let of = |free_index: &FreeIndex| free_index.least_busy(types, image);
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
    pub(crate) fn any_terminating(&self, group: Option<&Group>) -> bool {
        match group {
            Some(group) => self.index.terminating_of_group.contains_key(group),
            None => self.index.terminating > 0,
        }
    }

    /// Promises a container room on a VM that is on its way.
    pub(crate) fn reservation(&mut self, reservation: Reservation, need: Resources) {
        let record = self.vms.get_mut(&reservation.vm).expect("it is on its way");
        let vm = &mut record.vm;
        vm.work.reserved.insert(reservation.rank, need);
        self.reservations
            .make(&vm.identity.type_name, &vm.identity.image, reservation);
        self.reindex(reservation.vm);
    }

    /// Takes a promise back, if there is one.
    pub(crate) fn withdraw(&mut self, id: ContainerId) -> Option<Reservation> {
        let key = self.reservations.of(&id)?.vm;
        let vm = &mut self.vms.get_mut(&key)?.vm;
        let reservation =
            self.reservations
                .forget(&vm.identity.type_name, &vm.identity.image, id)?;
        vm.work.reserved.remove(&reservation.rank);
        self.reindex(key);
        Some(reservation)
    }

    /// Breaks every promise. O(promises · log).
    pub(crate) fn release_all_reservations(&mut self) {
        let reserved: Vec<ContainerId> = self.reservations.containers().collect();
        for id in reserved {
            let key = self.reserved_for(&id);
            if let Some(record) = key.and_then(|key| self.vms.get_mut(&key)) {
                self.reservations.break_all_of(&mut record.vm);
                record.follow(&mut self.reservations, &mut self.index, self.containers_max);
            }
        }
    }

    /// Breaks the promises that were made to supervisors. O(those · log).
    pub(crate) fn release_supervisor_reservations(&mut self) {
        for id in self.reservations.supervisors() {
            if let Some(reservation) = self.withdraw(id) {
                self.reservations.note_broken(reservation);
            }
        }
    }

    /// Whether promises were broken since they were last taken note of.
    pub(crate) fn any_reservation_broken(&self) -> bool {
        self.reservations.any_broken()
    }

    /// The promises that were broken since.
    pub(crate) fn take_broken_reservations(&mut self) -> Vec<Reservation> {
        self.reservations.take_broken()
    }

    /// How many promises there are.
    pub(crate) fn reservations(&self) -> usize {
        self.reservations.containers().count()
    }

    /// The VM on its way on which a container was promised room.
    pub(crate) fn reserved_for(&self, id: &ContainerId) -> Option<VmKey> {
        self.reservations.of(id).map(|reservation| reservation.vm)
    }

    /// Containers of higher rank that were promised room, up to `most`. O(most).
    pub(crate) fn reserved_above(&self, rank: Rank, most: usize) -> usize {
        self.reservations.above(rank, most)
    }

    /// Supervisors of higher rank that were promised room, up to `most`. O(most).
    pub(crate) fn supervisors_reserved_above(&self, rank: Rank, most: usize) -> usize {
        self.reservations.supervisors_above(rank, most)
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
        let (lowest, key) = self.reservations.lowest(types, image)?;
        if lowest <= rank {
            return None;
        }
        let vm = &self.vms[&key].vm;
        let mut stay: Vec<(&Rank, &Resources)> = vm.work.reserved.iter().collect();
        let mut go = Vec::new();
        while stay.last().is_some_and(|(reserved, _)| **reserved > rank) {
            go.extend(stay.pop().map(|(reserved, _)| reserved.2));
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
    fn reindex(&mut self, key: VmKey) {
        if let Some(record) = self.vms.get_mut(&key) {
            record.follow(&mut self.reservations, &mut self.index, self.containers_max);
        }
    }
}
