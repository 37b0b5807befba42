//! Which instances exist, and what runs on each.

pub(crate) mod vm;

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{
    CloudId, ContainerId, ImageId, InstanceId, IntentId, QuotaGroup, TypeName, VmKey,
};
use crate::input::IdleBehavior;
use crate::placement::Kept;
use crate::resources::{MicroDollars, Resources};
use vm::{Phase, Runner, Vm};

/// VMs of one kind that have room, or soon will.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Class {
    type_name: TypeName,
    image: ImageId,
    ready: bool,
}

/// Where a VM stands among its class: busy ones first, then the least free.
type Slot = (bool, u32, u64, VmKey);

/// The instances. Finding one costs O(log instances), and so does every change of one.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Fleet {
    last_key: u64,
    vms: BTreeMap<VmKey, Vm>,
    by_instance: BTreeMap<(CloudId, InstanceId), VmKey>,
    by_intent: BTreeMap<IntentId, VmKey>,
    hosts: BTreeSet<(ContainerId, VmKey)>,
    open: BTreeMap<Class, BTreeSet<Slot>>,
    unheard: BTreeSet<VmKey>,
    unanswered: BTreeSet<VmKey>,
    by_group: BTreeMap<(CloudId, QuotaGroup), usize>,
    price: u128,
    runners: usize,
    supervisors: usize,
    held: BTreeMap<(TypeName, ImageId), usize>,
    filed: BTreeMap<VmKey, Filed>,
}

impl Fleet {
    pub(crate) fn next_key(&mut self) -> VmKey {
        self.last_key += 1;
        VmKey(self.last_key)
    }

    pub(crate) fn insert(&mut self, vm: Vm) {
        let key = vm.key;
        assert!(key.0 <= self.last_key, "keys come from next_key");
        let before = self.vms.insert(key, vm);
        assert!(before.is_none(), "keys are never reused");
        self.refile(key);
    }

    /// Forgets every VM; keys go on where they were.
    pub(crate) fn forget_all(&mut self) {
        *self = Self {
            last_key: self.last_key,
            ..Self::default()
        };
    }

    pub(crate) fn get(&self, key: VmKey) -> Option<&Vm> {
        self.vms.get(&key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Vm> {
        self.vms.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.vms.len()
    }

    /// Changes one VM; the indexes follow. Runners are taken off by [`Fleet::remove_runner`] alone.
    pub(crate) fn update<R>(&mut self, key: VmKey, change: impl FnOnce(&mut Vm) -> R) -> Option<R> {
        let vm = self.vms.get_mut(&key)?;
        let runners_before = vm.runners.len();
        let result = change(vm);
        assert!(vm.runners.len() >= runners_before, "a runner was lost");
        self.refile(key);
        Some(result)
    }

    /// Takes a runner off its VM.
    pub(crate) fn remove_runner(&mut self, key: VmKey, id: &ContainerId) -> Option<Runner> {
        let runner = self.vms.get_mut(&key)?.runners.remove(id)?;
        self.hosts.remove(&(*id, key));
        self.refile(key);
        Some(runner)
    }

    pub(crate) fn remove(&mut self, key: VmKey) -> Option<Vm> {
        let vm = self.vms.remove(&key)?;
        self.unfile(key);
        if let Some(instance) = &vm.instance {
            let name = (vm.cloud, instance.clone());
            if self.by_instance.get(&name) == Some(&key) {
                self.by_instance.remove(&name);
            }
        }
        if let Some(intent) = &vm.intent
            && self.by_intent.get(intent) == Some(&key)
        {
            self.by_intent.remove(intent);
        }
        for id in vm.runners.keys() {
            self.hosts.remove(&(*id, key));
        }
        Some(vm)
    }

    pub(crate) fn by_instance(&self, cloud: CloudId, instance: &InstanceId) -> Option<VmKey> {
        self.by_instance.get(&(cloud, instance.clone())).copied()
    }

    /// The instance of that name in whichever cloud. O(clouds · log instances).
    pub(crate) fn named(&self, instance: &InstanceId) -> Option<VmKey> {
        let last = self.by_instance.keys().next_back()?.0;
        (0..=last.0).find_map(|cloud| self.by_instance(CloudId(cloud), instance))
    }

    pub(crate) fn by_intent(&self, intent: IntentId) -> Option<VmKey> {
        self.by_intent.get(&intent).copied()
    }

    /// The VMs on which a container has a runner, or a place kept for one.
    pub(crate) fn hosts(&self, id: ContainerId) -> impl Iterator<Item = VmKey> + '_ {
        self.hosts
            .range((id, VmKey(0))..=(id, VmKey(u64::MAX)))
            .map(|(_, key)| *key)
    }

    /// Whether some VM found after a restart has not been heard yet.
    pub(crate) fn any_unheard(&self) -> bool {
        !self.unheard.is_empty()
    }

    /// The ready VM that suits best: busy before idle, then the least free, then by type in the
    /// order given, then the oldest; not one that is kept for another. O(types · log instances), as long as cores and memory rule out
    /// what does not fit; VMs short of scratch or GPUs alone are stepped over one by one.
    pub(crate) fn best_ready(
        &self,
        types: &[TypeName],
        image: &ImageId,
        need: &Resources,
        containers_max: Option<u32>,
        kept: &Kept,
    ) -> Option<VmKey> {
        types
            .iter()
            .enumerate()
            .filter_map(|(rank, name)| {
                let class = Class {
                    type_name: name.clone(),
                    image: image.clone(),
                    ready: true,
                };
                let slots = self.open.get(&class)?;
                let kept = kept.get(&(class.type_name, class.image)).copied();
                let fits = |slot: &&Slot| {
                    let vm = &self.vms[&slot.3];
                    let load = vm.load();
                    kept != Some(slot.3)
                        && containers_max.is_none_or(|max| load.count < max)
                        && load.admits(need, &vm.total())
                };
                let from = |idle| (idle, need.vcpus, 0, VmKey(0));
                let busy = slots.range(from(false)..from(true)).find(fits);
                let (idle, vcpus, ram, key) =
                    busy.or_else(|| slots.range(from(true)..).find(fits))?;
                Some((*idle, *vcpus, rank, *ram, *key))
            })
            .min()
            .map(|(.., key)| key)
    }

    /// The busy ready VM of these types that has most room left, for one that waits until it has
    /// more. O(types · log instances).
    pub(crate) fn least_busy(&self, types: &[TypeName], image: &ImageId) -> Option<VmKey> {
        let of = |name: &TypeName| {
            let class = Class {
                type_name: name.clone(),
                image: image.clone(),
                ready: true,
            };
            let first_idle = (true, 0, 0, VmKey(0));
            let mut busy = self.open.get(&class)?.range(..first_idle);
            busy.next_back().copied()
        };
        let most_free = types.iter().filter_map(of).max();
        most_free.map(|(.., key)| key)
    }

    /// VMs that will have room once they are ready, oldest first. O(those).
    pub(crate) fn arriving(&self) -> Vec<&Vm> {
        let mut keys: Vec<VmKey> = self
            .open
            .iter()
            .filter(|(class, _)| !class.ready)
            .flat_map(|(_, slots)| slots.iter().map(|slot| slot.3))
            .collect();
        keys.sort_unstable();
        keys.iter().map(|key| &self.vms[key]).collect()
    }

    /// Ready VMs on which nothing runs, by age.
    pub(crate) fn idle_ready(&self) -> Vec<&Vm> {
        let mut keys: Vec<VmKey> = self
            .open
            .iter()
            .filter(|(class, _)| class.ready)
            .flat_map(|(_, slots)| slots.iter().filter(|slot| slot.0).map(|slot| slot.3))
            .collect();
        keys.sort_unstable();
        keys.iter().map(|key| &self.vms[key]).collect()
    }

    /// What all instances cost per hour, wishes counted.
    pub(crate) fn price(&self) -> MicroDollars {
        MicroDollars(u64::try_from(self.price).unwrap_or(u64::MAX))
    }

    /// Runners on all instances, and places kept for one.
    pub(crate) fn runners(&self) -> usize {
        self.runners
    }

    /// Those of them whose containers wait for others.
    pub(crate) fn supervisors(&self) -> usize {
        self.supervisors
    }

    /// Whether an operator holds an instance of this kind.
    pub(crate) fn any_held(&self, name: &TypeName, image: &ImageId) -> bool {
        self.held.contains_key(&(name.clone(), image.clone()))
    }

    /// Instances of one quota group, wishes counted.
    pub(crate) fn count_of_group(&self, cloud: CloudId, group: &QuotaGroup) -> usize {
        let place = (cloud, group.clone());
        self.by_group.get(&place).copied().unwrap_or_default()
    }

    /// Whether the create of a VM was not yet answered.
    pub(crate) fn is_create_unanswered(&self, key: VmKey) -> bool {
        self.unanswered.contains(&key)
    }

    /// Creates that were not yet answered.
    pub(crate) fn creates_unanswered(&self) -> usize {
        self.unanswered.len()
    }

    /// Whether the create of a VM that is like that was not yet answered. O(such creates).
    pub(crate) fn awaits_create(&self, is: impl Fn(&Vm) -> bool) -> bool {
        let mut vms = self.unanswered.iter().filter_map(|key| self.vms.get(key));
        vms.any(is)
    }

    /// Takes a VM out of every index that depends on more than its name.
    fn unfile(&mut self, key: VmKey) {
        let Some(filed) = self.filed.remove(&key) else {
            return;
        };
        self.price -= filed.price;
        self.runners -= filed.runners;
        self.supervisors -= filed.supervisors;
        if let Some(kind) = &filed.held
            && let Some(count) = self.held.get_mut(kind)
        {
            *count -= 1;
            if *count == 0 {
                self.held.remove(kind);
            }
        }
        self.unanswered.remove(&key);
        self.unheard.remove(&key);
        if let Some(count) = filed.group.as_ref().and_then(|g| self.by_group.get_mut(g)) {
            *count -= 1;
        }
        if let Some((class, slot)) = filed.place
            && let Some(slots) = self.open.get_mut(&class)
        {
            slots.remove(&slot);
            if slots.is_empty() {
                self.open.remove(&class);
            }
        }
    }

    fn refile(&mut self, key: VmKey) {
        let Some(vm) = self.vms.get(&key) else { return };
        if let Some(instance) = &vm.instance {
            self.by_instance.insert((vm.cloud, instance.clone()), key);
        }
        if let Some(intent) = vm.intent {
            self.by_intent.insert(intent, key);
        }
        for id in vm.runners.keys() {
            self.hosts.insert((*id, key));
        }
        let filed = Filed::of(vm);
        if self.filed.get(&key) == Some(&filed) {
            return;
        }
        self.unfile(key);
        self.price += filed.price;
        self.runners += filed.runners;
        self.supervisors += filed.supervisors;
        if let Some(kind) = &filed.held {
            *self.held.entry(kind.clone()).or_default() += 1;
        }
        if filed.unanswered {
            self.unanswered.insert(key);
        }
        if filed.unheard {
            self.unheard.insert(key);
        }
        if let Some(group) = &filed.group {
            *self.by_group.entry(group.clone()).or_default() += 1;
        }
        if let Some((class, slot)) = &filed.place {
            self.open.entry(class.clone()).or_default().insert(*slot);
        }
        self.filed.insert(key, filed);
    }
}

/// What the indexes say of one VM: all of it follows from the VM.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Filed {
    place: Option<(Class, Slot)>,
    group: Option<(CloudId, QuotaGroup)>,
    price: u128,
    runners: usize,
    supervisors: usize,
    /// Its kind, if an operator holds it.
    held: Option<(TypeName, ImageId)>,
    unanswered: bool,
    unheard: bool,
}

impl Filed {
    fn of(vm: &Vm) -> Self {
        let place = vm.takes_containers().then(|| {
            let free = vm.total().minus(&vm.load().used());
            let class = Class {
                type_name: vm.type_name.clone(),
                image: vm.image.clone(),
                ready: vm.phase == Phase::Ready,
            };
            (class, (vm.idle(), free.vcpus, free.ram, vm.key))
        });
        let group = vm.offer.as_ref().map(|offer| &offer.quota_group);
        Self {
            place,
            group: group.map(|group| (vm.cloud, group.clone())),
            price: vm.price().0.into(),
            runners: vm.runners.len(),
            supervisors: vm.runners.values().filter(|r| r.supervisor).count(),
            held: (vm.behavior == IdleBehavior::Hold)
                .then(|| (vm.type_name.clone(), vm.image.clone())),
            unanswered: vm.phase == Phase::Creating && vm.write_off_at.is_none(),
            unheard: vm.unheard(),
        }
    }
}
