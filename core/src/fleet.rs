//! Instances of the set, and the runners on each.

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

/// All instances. Lookup and update of an instance cost O(log instances).
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

/// Instance with its current index key.
#[derive(Clone, Debug, Hash)]
struct Record {
    vm: Vm,
    index_key: IndexKey,
}

impl Record {
    /// Updates the indexes after a change of the instance. An instance no longer pending loses its
    /// reservations.
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

    /// Sets the maximum number of containers on an instance. O(instances · log).
    pub(crate) fn set_containers_max(&mut self, max: Option<u32>) {
        if std::mem::replace(&mut self.containers_max, max) != max {
            let keys: Vec<VmKey> = self.vms.keys().copied().collect();
            for key in keys {
                self.reindex(key);
            }
        }
    }

    /// Forgets every instance; key numbers continue.
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

    /// Changes an instance and updates the indexes. Runners change by [`Fleet::add_runner`] and
    /// [`Fleet::remove_runner`] only.
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

    /// Changes fields of an instance outside all indexes, which saves the comparison of index keys.
    pub(crate) fn note<R>(&mut self, key: VmKey, note: impl FnOnce(&mut Vm) -> R) -> Option<R> {
        let record = self.vms.get_mut(&key)?;
        let result = note(&mut record.vm);
        debug_assert!(
            record.index_key == IndexKey::of(&record.vm, self.containers_max),
            "an index asks for it"
        );
        Some(result)
    }

    /// Adds a runner to an instance, or reserves its place.
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

    /// Removes a runner from its instance.
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

    /// Instance with the given id in any cloud. O(clouds).
    pub(crate) fn named(&self, instance: &InstanceId) -> Option<VmKey> {
        self.index.named(instance)
    }

    pub(crate) fn by_intent(&self, intent: IntentId) -> Option<VmKey> {
        self.index.by_intent.get(&intent).copied()
    }

    /// Instances with a runner of the container, or a place for its runner.
    pub(crate) fn hosts(&self, id: ContainerId) -> impl Iterator<Item = VmKey> + '_ {
        self.hosts.of(id)
    }

    /// True if an instance found after a restart has not answered a probe yet.
    pub(crate) fn any_unprobed(&self) -> bool {
        !self.index.unprobed.is_empty()
    }

    /// Best ready instance for a need (see [`FreeIndex::best`]), not kept for another container.
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

    /// Best pending instance for a need, after its reservations. Costs as much as
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

    /// Busy ready instance of the given types with the most free capacity, for a container in need
    /// of more. O(types · log instances).
    pub(crate) fn least_busy(&self, types: &Types, image: &ImageId) -> Option<VmKey> {
        let of = |free_index: &FreeIndex| free_index.least_busy(types, image);
        let most_free = [of(&self.index.ready), of(&self.index.full)];
        most_free.into_iter().flatten().max().map(|slot| slot.3)
    }

    /// Most expensive ready instance without a runner, the oldest of equals; of one group, or of
    /// all. O(groups).
    pub(crate) fn dearest_idle(&self, group: Option<&Group>) -> Option<VmKey> {
        let dearest = match group {
            Some(group) => self.index.idle.get(group)?.last(),
            None => self.index.idle.values().filter_map(BTreeSet::last).max(),
        };
        dearest.map(|(_, Reverse(key))| *key)
    }

    /// True if an instance is terminating; of one group, or of any.
    pub(crate) fn any_terminating(&self, group: Option<&Group>) -> bool {
        match group {
            Some(group) => self.index.terminating_of_group.contains_key(group),
            None => self.index.terminating > 0,
        }
    }

    /// Reserves room for a container on a pending instance.
    pub(crate) fn reservation(&mut self, reservation: Reservation, need: Resources) {
        let record = self.vms.get_mut(&reservation.vm).expect("it is on its way");
        let vm = &mut record.vm;
        vm.work.reserved.insert(reservation.rank, need);
        self.reservations
            .make(&vm.identity.type_name, &vm.identity.image, reservation);
        self.reindex(reservation.vm);
    }

    /// Withdraws the reservation of a container, if any.
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

    /// Releases every reservation. O(reservations · log).
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

    /// Releases the reservations of supervisors. O(their number · log).
    pub(crate) fn release_supervisor_reservations(&mut self) {
        for id in self.reservations.supervisors() {
            if let Some(reservation) = self.withdraw(id) {
                self.reservations.note_broken(reservation);
            }
        }
    }

    /// True if reservations were broken since the last [`Fleet::take_broken_reservations`].
    pub(crate) fn any_reservation_broken(&self) -> bool {
        self.reservations.any_broken()
    }

    /// Takes the reservations broken since the last call.
    pub(crate) fn take_broken_reservations(&mut self) -> Vec<Reservation> {
        self.reservations.take_broken()
    }

    /// Number of reservations.
    pub(crate) fn reservations(&self) -> usize {
        self.reservations.containers().count()
    }

    /// Pending instance with a reservation of the container.
    pub(crate) fn reserved_for(&self, id: &ContainerId) -> Option<VmKey> {
        self.reservations.of(id).map(|reservation| reservation.vm)
    }

    /// Number of reservations of higher rank, up to `most`. O(most).
    pub(crate) fn reserved_above(&self, rank: Rank, most: usize) -> usize {
        self.reservations.above(rank, most)
    }

    /// Number of supervisors' reservations of higher rank, up to `most`. O(most).
    pub(crate) fn supervisors_reserved_above(&self, rank: Rank, most: usize) -> usize {
        self.reservations.supervisors_above(rank, most)
    }

    /// Reservations of lower rank to withdraw, on the instance with the lowest of them, so that the
    /// need fits there; `None` if the freed room is too small. O(types · log instances +
    /// reservations of an instance).
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

    /// Price per hour of all instances, including create requests.
    pub(crate) fn price(&self) -> MicroDollars {
        MicroDollars(u64::try_from(self.index.price).unwrap_or(u64::MAX))
    }

    /// Runners on all instances, including reserved places.
    pub(crate) fn runners(&self) -> usize {
        self.index.runners
    }

    /// Supervisors' runners on all instances, including reserved places.
    pub(crate) fn supervisors(&self) -> usize {
        self.index.supervisors
    }

    /// True if an operator holds an instance of this type and image.
    pub(crate) fn any_held(&self, name: &TypeName, image: &ImageId) -> bool {
        self.index.held.contains_key(&(name.clone(), image.clone()))
    }

    /// Instances of one quota group, including create requests.
    pub(crate) fn count_of_group(&self, cloud: CloudId, group: &QuotaGroup) -> usize {
        let place = (cloud, group.clone());
        self.index.by_group.get(&place).copied().unwrap_or_default()
    }

    /// True if the instance's create request is unanswered.
    pub(crate) fn is_create_unanswered(&self, key: VmKey) -> bool {
        self.index.unanswered.contains(&key)
    }

    /// Number of unanswered create requests.
    pub(crate) fn creates_unanswered(&self) -> usize {
        self.index.unanswered.len()
    }

    /// True if a matching instance's create request is unanswered. O(unanswered create requests).
    pub(crate) fn awaits_create(&self, is: impl Fn(&Vm) -> bool) -> bool {
        let mut vms = self
            .index
            .unanswered
            .iter()
            .filter_map(|key| self.get(*key));
        vms.any(is)
    }

    /// Updates the index key of an instance.
    fn reindex(&mut self, key: VmKey) {
        if let Some(record) = self.vms.get_mut(&key) {
            record.follow(&mut self.reservations, &mut self.index, self.containers_max);
        }
    }
}
