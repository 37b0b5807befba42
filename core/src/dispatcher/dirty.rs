//! Dirty dirty, set by inputs and removed by reconciliation.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::ids::{ContainerId, VmKey};

/// Containers and instances to reconcile before commands leave, and the mark for placement.
#[derive(Clone, Debug, Default)]
pub(super) struct DirtySet {
    pub(super) containers: DirtyQueue<ContainerId>,
    pub(super) vms: DirtyQueue<VmKey>,
    pub(super) placement: bool,
}

/// Dirty keys, the smallest first, each once even if marked several times. Marking and taking cost
/// O(log marked), amortized, without allocation at a steady size.
#[derive(Clone, Debug)]
pub(super) struct DirtyQueue<T> {
    /// Largest key first, so that the next key is at the end.
    sorted: Vec<T>,
    /// Keys added since the last sort.
    late: BinaryHeap<Reverse<T>>,
}

impl<T> Default for DirtyQueue<T>
where
    T: Ord,
{
    fn default() -> Self {
        Self {
            sorted: Vec::new(),
            late: BinaryHeap::new(),
        }
    }
}

impl<T: Copy + Ord> DirtyQueue<T> {
    pub(super) fn insert(&mut self, one: T) {
        self.late.push(Reverse(one));
    }

    pub(super) fn extend(&mut self, some: impl IntoIterator<Item = T>) {
        self.late.extend(some.into_iter().map(Reverse));
    }

    pub(super) fn pop_first(&mut self) -> Option<T> {
        // A snapshot dirty so many keys that sorting all at once is faster.
        if self.late.len() > Self::FEW && self.late.len() > self.sorted.len() {
            self.sorted
                .extend(self.late.drain().map(|Reverse(one)| one));
            self.sorted.sort_unstable_by(|a, b| b.cmp(a));
            self.sorted.dedup();
        }
        let Some(Reverse(late)) = self.late.peek().copied() else {
            return self.sorted.pop();
        };
        let sorted = self.sorted.last().copied();
        let first = sorted.map_or(late, |sorted| sorted.min(late));
        if sorted == Some(first) {
            self.sorted.pop();
        }
        while self.late.peek() == Some(&Reverse(first)) {
            self.late.pop();
        }
        Some(first)
    }

    pub(super) fn len(&self) -> usize {
        self.sorted.len() + self.late.len()
    }

    const FEW: usize = 64;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dirty_queue_pops_each_key_once() {
        let mut dirty = DirtyQueue::default();
        dirty.extend([5, 3, 5, 9]);
        dirty.insert(3);
        assert_eq!(dirty.pop_first(), Some(3));
        dirty.insert(1);
        let rest: Vec<i32> = std::iter::from_fn(|| dirty.pop_first()).collect();
        assert_eq!(rest, [1, 5, 9]);
    }

    #[test]
    fn dirty_queue_order_independent_of_size() {
        let (mut many, mut expected) = (DirtyQueue::default(), std::collections::BTreeSet::new());
        let mut taken = Vec::new();
        for round in 0..50_u64 {
            let some = (0..round * 7).map(|n| n * 7919 % 1009);
            many.extend(some.clone());
            expected.extend(some);
            for _ in 0..round {
                assert_eq!(many.pop_first(), expected.pop_first());
                taken.push(round);
            }
        }
        assert!(taken.len() > 1000);
    }
}
