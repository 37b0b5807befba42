//! Index of instances by container.

use std::collections::BTreeSet;

use crate::ids::{ContainerId, VmKey};
use crate::unordered_map::UnorderedMap;

/// Instances with a runner, or a place for a runner, by container. A container with a single
/// instance is found in O(1); each further instance, from overlapping attempts, costs O(log of
/// their number).
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Hosts {
    /// Oldest instance of each container.
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

    /// Instances of a container, the oldest first.
    pub(super) fn of(&self, id: ContainerId) -> impl Iterator<Item = VmKey> + '_ {
        let first = self.first.get(&id).copied();
        // A container without a first instance has no others.
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
    fn hosts_of_a_container_are_ordered_by_age() {
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
