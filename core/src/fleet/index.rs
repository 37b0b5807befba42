//! What is asked of the fleet as a whole, kept beside the VMs that it follows from.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::rooms::{Rooms, Slot};
use super::vm::{Phase, Vm};
use crate::ids::{CloudId, ImageId, InstanceId, IntentId, QuotaGroup, TypeName, VmKey};
use crate::input::IdleBehavior;
use crate::resources::MicroDollars;

/// Instances of one cloud that count against one quota.
pub(crate) type Group = (CloudId, QuotaGroup);

/// The indexes. Filing a VM costs O(log instances).
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Index {
    pub(super) by_instance: BTreeMap<(CloudId, InstanceId), VmKey>,
    pub(super) by_intent: BTreeMap<IntentId, VmKey>,
    pub(super) ready: Rooms,
    pub(super) arriving: Rooms,
    /// Ready VMs that hold as many containers as they may, whatever room is left.
    pub(super) full: Rooms,
    /// Ready VMs on which nothing runs, the dearest last, of those the oldest.
    pub(super) idle: BTreeMap<Group, BTreeSet<(MicroDollars, Reverse<VmKey>)>>,
    /// How many are about to be given back.
    pub(super) leaving: usize,
    pub(super) leaving_of_group: BTreeMap<Group, usize>,
    pub(super) unheard: BTreeSet<VmKey>,
    pub(super) unanswered: BTreeSet<VmKey>,
    pub(super) by_group: BTreeMap<Group, usize>,
    pub(super) price: u128,
    pub(super) runners: usize,
    pub(super) supervisors: usize,
    pub(super) held: BTreeMap<(TypeName, ImageId), usize>,
}

/// Among which VMs one is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Standing {
    Ready,
    Arriving,
    Full,
}

impl Index {
    fn rooms(&mut self, standing: Standing) -> &mut Rooms {
        match standing {
            Standing::Ready => &mut self.ready,
            Standing::Arriving => &mut self.arriving,
            Standing::Full => &mut self.full,
        }
    }

    /// Takes over the names that a VM has now.
    pub(super) fn name(&mut self, vm: &Vm) {
        if let Some(instance) = &vm.instance {
            let name = (vm.cloud, instance.clone());
            self.by_instance.insert(name, vm.key);
        }
        if let Some(intent) = vm.intent {
            self.by_intent.insert(intent, vm.key);
        }
    }

    /// Takes a VM out of everything but its names.
    pub(super) fn unfile(&mut self, vm: &Vm, filed: &Filed) {
        let key = vm.key;
        self.price -= u128::from(filed.price.0);
        self.runners -= filed.runners;
        self.supervisors -= filed.supervisors;
        if filed.held {
            decrease(&mut self.held, &(vm.type_name.clone(), vm.image.clone()));
        }
        self.unanswered.remove(&key);
        self.unheard.remove(&key);
        self.leaving -= usize::from(filed.leaving);
        if let Some(group) = &filed.group {
            decrease(&mut self.by_group, group);
            if filed.leaving {
                decrease(&mut self.leaving_of_group, group);
            }
            if filed.idle
                && let Some(idle) = self.idle.get_mut(group)
            {
                idle.remove(&(filed.price, Reverse(key)));
                if idle.is_empty() {
                    self.idle.remove(group);
                }
            }
        }
        if let Some((standing, slot)) = &filed.place {
            let rooms = self.rooms(*standing);
            rooms.remove(&vm.type_name, &vm.image, slot);
        }
    }

    pub(super) fn file(&mut self, vm: &Vm, filed: &Filed) {
        let key = vm.key;
        self.price += u128::from(filed.price.0);
        self.runners += filed.runners;
        self.supervisors += filed.supervisors;
        if filed.held {
            let kind = (vm.type_name.clone(), vm.image.clone());
            *self.held.entry(kind).or_default() += 1;
        }
        if filed.unanswered {
            self.unanswered.insert(key);
        }
        if filed.unheard {
            self.unheard.insert(key);
        }
        self.leaving += usize::from(filed.leaving);
        if let Some(group) = &filed.group {
            *self.by_group.entry(group.clone()).or_default() += 1;
            if filed.leaving {
                *self.leaving_of_group.entry(group.clone()).or_default() += 1;
            }
            if filed.idle {
                let idle = self.idle.entry(group.clone()).or_default();
                idle.insert((filed.price, Reverse(key)));
            }
        }
        if let Some((standing, slot)) = &filed.place {
            let rooms = self.rooms(*standing);
            rooms.insert(&vm.type_name, &vm.image, *slot);
        }
    }
}

fn decrease<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// What the indexes say of one VM: all of it follows from the VM. Type and image are left out, since
/// they never change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Filed {
    /// Whether it has a name, and an intent.
    pub(super) named: (bool, bool),
    /// Whether it will take containers once it is ready.
    pub(super) arriving: bool,
    /// Where it is looked for, and where it stands there; nowhere, if it takes no more.
    place: Option<(Standing, Slot)>,
    group: Option<Group>,
    price: MicroDollars,
    runners: usize,
    supervisors: usize,
    held: bool,
    idle: bool,
    leaving: bool,
    unanswered: bool,
    unheard: bool,
}

impl Filed {
    /// `containers_max` is how many a VM may hold at most.
    pub(super) fn of(vm: &Vm, containers_max: Option<u32>) -> Self {
        let (open, ready) = (vm.takes_containers(), vm.phase == Phase::Ready);
        let load = vm.load();
        let full = containers_max.is_some_and(|max| load.count >= max);
        let standing = match (ready, full) {
            (true, false) => Some(Standing::Ready),
            (true, true) => Some(Standing::Full),
            (false, false) => Some(Standing::Arriving),
            (false, true) => None,
        };
        let place = standing.filter(|_| open).map(|standing| {
            let free = vm.total().minus(&load.used());
            (standing, (vm.idle(), free.vcpus, free.ram, vm.key))
        });
        let group = vm.offer.as_ref().map(|offer| &offer.quota_group);
        Self {
            named: (vm.instance.is_some(), vm.intent.is_some()),
            arriving: open && !ready,
            place,
            group: group.map(|group| (vm.cloud, group.clone())),
            price: vm.price(),
            runners: vm.runners.len(),
            supervisors: vm.runners.values().filter(|r| r.supervisor).count(),
            held: vm.behavior == IdleBehavior::Hold,
            idle: vm.idle() && open && ready,
            leaving: matches!(vm.phase, Phase::Fenced | Phase::Shutdown),
            unanswered: vm.phase == Phase::Creating && vm.write_off_at.is_none(),
            unheard: vm.unheard(),
        }
    }
}
