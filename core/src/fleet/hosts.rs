//! On which VMs the runners of a container are.

use std::collections::BTreeSet;

use crate::ids::{ContainerId, VmKey};
use crate::unordered_map::UnorderedMap;

/// The VMs of each container that has a runner, or a place kept for one. Mostly that is one VM, found
/// in O(1); with attempts that overlap there are more, and each of those costs O(log such).
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Hosts {
    /// The oldest VM of each.
    first: UnorderedMap<ContainerId, VmKey>,
    others: BTreeSet<(ContainerId, VmKey)>,
}

impl Hosts {
    pub(super) fn insert(&mut self, id: ContainerId, vm: VmKey) {
        match self.first.get(&id).copied() {
            Some(first) if first == vm => {}
            Some(first) => {
                self.first.insert(id, first.min(vm));
                self.others.insert((id, first.max(vm)));
            }
            None => {
                self.first.insert(id, vm);
            }
        }
    }

    pub(super) fn remove(&mut self, id: ContainerId, vm: VmKey) {
        if self.first.get(&id) != Some(&vm) {
            self.others.remove(&(id, vm));
            return;
        }
        let next = self.others(id).next();
        match next {
            Some(next) => {
                self.others.remove(&(id, next));
                self.first.insert(id, next);
            }
            None => {
                self.first.remove(&id);
            }
        }
    }

    /// The VMs of one container, the oldest first.
    pub(super) fn of(&self, id: ContainerId) -> impl Iterator<Item = VmKey> + '_ {
        let first = self.first.get(&id).copied();
        // Whoever has no first one has no others.
        let others = first.map(|_| self.others(id)).into_iter().flatten();
        first.into_iter().chain(others)
    }

    fn others(&self, id: ContainerId) -> impl Iterator<Item = VmKey> + '_ {
        let all = (id, VmKey(0))..=(id, VmKey(u64::MAX));
        self.others.range(all).map(|(_, vm)| *vm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vms_of_a_container_come_in_order_however_they_came_and_went() {
        let [id, other] =
            [1, 2].map(|n| format!("zzzzz-dz642-{n:015}").parse().expect("well formed"));
        let mut hosts = Hosts::default();
        let of = |hosts: &Hosts| hosts.of(id).map(|vm| vm.0).collect::<Vec<u64>>();
        for vm in [5, 2, 9, 5] {
            hosts.insert(id, VmKey(vm));
        }
        hosts.insert(other, VmKey(1));
        assert_eq!(of(&hosts), [2, 5, 9]);
        hosts.remove(id, VmKey(2));
        hosts.remove(id, VmKey(7));
        assert_eq!(of(&hosts), [5, 9]);
        hosts.remove(id, VmKey(9));
        hosts.remove(id, VmKey(5));
        assert_eq!(of(&hosts), Vec::<u64>::new());
        assert!(hosts.of(other).eq([VmKey(1)]));
    }
}
