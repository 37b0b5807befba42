//! Indexes over all instances, derived from the instances beside them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::free_index::{FreeIndex, FreeSlot};
use super::vm::{Phase, Vm};
use crate::ids::{CloudId, ImageId, InstanceId, IntentId, QuotaGroup, TypeName, VmKey};
use crate::input::IdleBehavior;
use crate::resources::MicroDollars;
use crate::unordered_map::UnorderedMap;

/// Quota group of one cloud.
pub(crate) type Group = (CloudId, QuotaGroup);

/// All indexes. Adding an instance costs O(log instances).
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Index {
    by_instance: BTreeMap<CloudId, UnorderedMap<InstanceId, VmKey>>,
    pub(super) by_intent: BTreeMap<IntentId, VmKey>,
    pub(super) ready: FreeIndex,
    pub(super) arriving: FreeIndex,
    /// Ready instances with the maximum number of containers, at any free capacity.
    pub(super) full: FreeIndex,
    /// Ready instances without a runner, the most expensive last, the oldest last among equals.
    pub(super) idle: BTreeMap<Group, BTreeSet<(MicroDollars, Reverse<VmKey>)>>,
    /// Number of terminating instances.
    pub(super) terminating: usize,
    pub(super) terminating_of_group: BTreeMap<Group, usize>,
    pub(super) unprobed: BTreeSet<VmKey>,
    pub(super) unanswered: BTreeSet<VmKey>,
    pub(super) by_group: BTreeMap<Group, usize>,
    pub(super) price: u128,
    pub(super) runners: usize,
    pub(super) supervisors: usize,
    pub(super) held: BTreeMap<(TypeName, ImageId), usize>,
}

/// Pools of instances for the search of free capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Pool {
    Ready,
    Arriving,
    Full,
}

impl Index {
    fn free_index(&mut self, pool: Pool) -> &mut FreeIndex {
        match pool {
            Pool::Ready => &mut self.ready,
            Pool::Arriving => &mut self.arriving,
            Pool::Full => &mut self.full,
        }
    }

    /// Updates the names of an instance.
    fn name(&mut self, vm: &Vm) {
        if let Some(instance) = &vm.identity.instance {
            let of_cloud = self.by_instance.entry(vm.identity.cloud).or_default();
            of_cloud.insert(instance.clone(), vm.key);
        }
        if let Some(intent) = vm.identity.intent {
            self.by_intent.insert(intent, vm.key);
        }
    }

    pub(super) fn by_instance(&self, cloud: CloudId, instance: &InstanceId) -> Option<VmKey> {
        self.by_instance.get(&cloud)?.get(instance).copied()
    }

    /// Instance with the given id in any cloud. O(clouds).
    pub(super) fn named(&self, instance: &InstanceId) -> Option<VmKey> {
        let mut clouds = self.by_instance.values();
        clouds.find_map(|of_cloud| of_cloud.get(instance)).copied()
    }

    /// Forgets the names of an instance, except names reused by another instance.
    pub(super) fn forget_names(&mut self, vm: &Vm) {
        if let Some(instance) = &vm.identity.instance
            && let Some(of_cloud) = self.by_instance.get_mut(&vm.identity.cloud)
            && of_cloud.get(instance) == Some(&vm.key)
        {
            of_cloud.remove(instance);
        }
        if let Some(intent) = &vm.identity.intent
            && self.by_intent.get(intent) == Some(&vm.key)
        {
            self.by_intent.remove(intent);
        }
    }

    /// Moves an instance from its old index key to its new key; equal parts stay untouched.
    pub(super) fn reindex(&mut self, vm: &Vm, before: &IndexKey, now: &IndexKey) {
        self.price = self.price - u128::from(before.price.0) + u128::from(now.price.0);
        self.runners = self.runners - before.runners + now.runners;
        self.supervisors = self.supervisors - before.supervisors + now.supervisors;
        self.terminating =
            self.terminating - usize::from(before.terminating) + usize::from(now.terminating);
        if before.held != now.held {
            let kind = (vm.identity.type_name.clone(), vm.identity.image.clone());
            count(&mut self.held, kind, now.held);
        }
        if before.unanswered != now.unanswered {
            mark(&mut self.unanswered, vm.key, now.unanswered);
        }
        if before.unprobed != now.unprobed {
            mark(&mut self.unprobed, vm.key, now.unprobed);
        }
        self.refile_in_group(vm.key, before, now);
        if before.place != now.place {
            if let Some((pool, slot)) = &before.place {
                let free_index = self.free_index(*pool);
                free_index.remove(&vm.identity.type_name, &vm.identity.image, slot);
            }
            if let Some((pool, slot)) = &now.place {
                let free_index = self.free_index(*pool);
                free_index.insert(&vm.identity.type_name, &vm.identity.image, *slot);
            }
        }
        if before.named != now.named {
            self.name(vm);
        }
    }

    fn refile_in_group(&mut self, key: VmKey, before: &IndexKey, now: &IndexKey) {
        if before.group != now.group {
            for (index_key, more) in [(before, false), (now, true)] {
                if let Some(group) = &index_key.group {
                    count(&mut self.by_group, group.clone(), more);
                }
            }
        }
        if before.terminating_group() != now.terminating_group() {
            for (index_key, more) in [(before, false), (now, true)] {
                if let Some(group) = index_key.terminating_group() {
                    count(&mut self.terminating_of_group, group.clone(), more);
                }
            }
        }
        if before.idle_place() != now.idle_place() {
            for (index_key, more) in [(before, false), (now, true)] {
                if let Some((group, price)) = index_key.idle_place() {
                    let idle = self.idle.entry(group.clone()).or_default();
                    mark(idle, (price, Reverse(key)), more);
                    if idle.is_empty() {
                        self.idle.remove(group);
                    }
                }
            }
        }
    }
}

/// Adds an element to a set, or removes it.
fn mark<T: Ord>(set: &mut BTreeSet<T>, one: T, is_in: bool) {
    if is_in {
        set.insert(one);
    } else {
        set.remove(&one);
    }
}

/// Increments or decrements a count; zero counts are removed.
fn count<K: Ord>(counts: &mut BTreeMap<K, usize>, kind: K, more: bool) {
    if more {
        *counts.entry(kind).or_default() += 1;
    } else if let Some(count) = counts.get_mut(&kind) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&kind);
        }
    }
}

/// Position of an instance in all indexes, derived from the instance. Type and image are constant
/// and left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct IndexKey {
    /// Presence of an instance id and of an intent.
    named: (bool, bool),
    /// True if the instance will take containers once ready.
    pub(super) arriving: bool,
    /// Pool and position in it; `None` for an instance without room.
    place: Option<(Pool, FreeSlot)>,
    group: Option<Group>,
    price: MicroDollars,
    runners: usize,
    supervisors: usize,
    held: bool,
    idle: bool,
    terminating: bool,
    unanswered: bool,
    unprobed: bool,
}

impl IndexKey {
    /// Group of a terminating instance.
    fn terminating_group(&self) -> Option<&Group> {
        self.group.as_ref().filter(|_| self.terminating)
    }

    /// Position among idle instances.
    fn idle_place(&self) -> Option<(&Group, MicroDollars)> {
        let group = self.group.as_ref().filter(|_| self.idle);
        group.map(|group| (group, self.price))
    }

    /// Index key of an instance with room for at most `containers_max` containers.
    pub(super) fn of(vm: &Vm, containers_max: Option<u32>) -> Self {
        let (open, ready) = (vm.takes_containers(), vm.phase == Phase::Ready);
        let load = vm.load();
        let full = containers_max.is_some_and(|max| load.count >= max);
        let pool = match (ready, full) {
            (true, false) => Some(Pool::Ready),
            (true, true) => Some(Pool::Full),
            (false, false) => Some(Pool::Arriving),
            (false, true) => None,
        };
        let place = pool.filter(|_| open).map(|pool| {
            let free = vm.total().minus(&load.used());
            (pool, (vm.idle(), free.vcpus, free.ram, vm.key))
        });
        let group = vm.identity.offer.as_ref().map(|offer| &offer.quota_group);
        Self {
            named: (vm.identity.instance.is_some(), vm.identity.intent.is_some()),
            arriving: open && !ready,
            place,
            group: group.map(|group| (vm.identity.cloud, group.clone())),
            price: vm.price(),
            runners: vm.work.runners.len(),
            supervisors: vm.work.runners.values().filter(|r| r.supervisor).count(),
            held: vm.behavior.idle == IdleBehavior::Hold,
            idle: vm.idle() && open && ready,
            terminating: matches!(vm.phase, Phase::Cordoned | Phase::Shutdown),
            unanswered: vm.phase == Phase::Creating && vm.lifecycle.write_off_at.is_none(),
            unprobed: vm.unprobed(),
        }
    }
}
