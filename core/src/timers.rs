//! Ordered set of deadlines, each with a typed reason.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

use crate::ids::{CloudId, CommandId, ContainerId, VmKey};
use crate::time::Timestamp;
use crate::unordered_map::UnorderedMap;

/// Reasons to wake the dispatcher. Each reason has at most one deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TimeoutReason {
    /// Next poll of the queue.
    PollQueue,
    /// Next list of a cloud's instances.
    SyncCloud(CloudId),
    /// Missing answer to a command.
    NoAnswer(CommandId),
    /// Retry of a container change refused by the queue.
    RetryContainer(ContainerId),
    /// Possible scheduling timeout of a container.
    GiveUp(ContainerId),
    /// Possible end of an obstacle to placement.
    Place,
    /// End of the grace period for containers locked or running before a restart: their instances
    /// should be listed and probed by now.
    UnownedLocks,
    /// Next probe of an instance.
    ProbeVm(VmKey),
    /// Possible idle, probe, stale-lock or boot timeout of an instance.
    ReconcileVm(VmKey),
    /// Next destroy call for an instance.
    DestroyVm(VmKey),
    /// Next signal to a runner.
    SignalRunner(VmKey, ContainerId),
}

/// All deadlines. Set, cancel and pop cost amortised O(log n), without allocation while the number
/// of deadlines is constant.
///
/// A moved or cancelled deadline stays in the heap until it reaches the top, or until more than
/// half of the heap is dead.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timers {
    due: UnorderedMap<TimeoutReason, Timestamp>,
    /// Heap with a live entry at the top.
    heap: BinaryHeap<Reverse<(Timestamp, TimeoutReason)>>,
}

impl Timers {
    /// Number of entries above twice the live ones before the heap is cleared of dead entries.
    const SLACK: usize = 64;

    /// Sets or moves a deadline.
    pub(crate) fn set(&mut self, reason: TimeoutReason, at: Timestamp) {
        if self.due.insert(reason, at) != Some(at) {
            self.heap.push(Reverse((at, reason)));
            self.bury();
        }
    }

    /// Sets a deadline, unless an earlier deadline exists.
    pub(crate) fn set_earlier(&mut self, reason: TimeoutReason, at: Timestamp) {
        if self.due(reason).is_none_or(|set| at < set) {
            self.set(reason, at);
        }
    }

    /// Removes a deadline, if set.
    pub(crate) fn cancel(&mut self, reason: TimeoutReason) {
        if self.due.remove(&reason).is_some() {
            self.bury();
        }
    }

    /// Time of a deadline, if set.
    pub(crate) fn due(&self, reason: TimeoutReason) -> Option<Timestamp> {
        self.due.get(&reason).copied()
    }

    /// Earliest deadline.
    pub(crate) fn next(&self) -> Option<(Timestamp, TimeoutReason)> {
        self.heap.peek().map(|Reverse(first)| *first)
    }

    /// Removes and returns the earliest deadline, if not later than `now`.
    pub(crate) fn pop_due(&mut self, now: Timestamp) -> Option<TimeoutReason> {
        let (_, reason) = self.next().filter(|(at, _)| *at <= now)?;
        self.cancel(reason);
        Some(reason)
    }

    /// Number of deadlines.
    pub(crate) fn len(&self) -> usize {
        self.due.len()
    }

    /// Removes dead entries from the top, or all dead entries above the bound.
    fn bury(&mut self) {
        if self.heap.len() > 2 * self.due.len() + Self::SLACK {
            let due = &self.due;
            self.heap
                .retain(|Reverse((at, reason))| due.get(reason) == Some(at));
        }
        while let Some((at, reason)) = self.next()
            && self.due.get(&reason) != Some(&at)
        {
            self.heap.pop();
        }
    }
}

impl Hash for Timers {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.due.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_earliest_deadline_comes_first() {
        let at = Timestamp::from_nanos;
        let mut timers = Timers::default();
        timers.set(TimeoutReason::PollQueue, at(5));
        timers.set(TimeoutReason::PollQueue, at(9));
        timers.set(TimeoutReason::Place, at(7));
        timers.set_earlier(TimeoutReason::Place, at(8));
        assert_eq!(timers.next(), Some((at(7), TimeoutReason::Place)));
        assert_eq!(timers.pop_due(at(6)), None);
        assert_eq!(timers.pop_due(at(9)), Some(TimeoutReason::Place));
        assert_eq!(timers.pop_due(at(9)), Some(TimeoutReason::PollQueue));
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn timers_cancelled_deadline_never_fires() {
        let at = Timestamp::from_nanos;
        let mut timers = Timers::default();
        for n in 0..1000 {
            let reason = TimeoutReason::ProbeVm(VmKey(n));
            timers.set(reason, at(n));
            timers.set(reason, at(2000 - n));
            timers.set(reason, at(n));
            if n % 3 == 0 {
                timers.cancel(reason);
            }
        }
        let heap_max = 2 * timers.len() + Timers::SLACK;
        assert!(timers.heap.len() <= heap_max, "dead entries are removed");
        let due: Vec<_> = std::iter::from_fn(|| timers.pop_due(at(5000))).collect();
        let alive = (0..1000).filter(|n| n % 3 != 0);
        let alive: Vec<_> = alive.map(|n| TimeoutReason::ProbeVm(VmKey(n))).collect();
        assert_eq!(
            due, alive,
            "each deadline fires once, at its latest time, in order"
        );
    }

    #[test]
    fn timers_hash_depends_on_deadlines_only() {
        let hash = |timers: &Timers| {
            let mut hasher = crate::hash::Fnv::default();
            timers.hash(&mut hasher);
            hasher.finish()
        };
        let at = Timestamp::from_nanos;
        let (mut one, mut other) = (Timers::default(), Timers::default());
        one.set(TimeoutReason::Place, at(1));
        one.set(TimeoutReason::PollQueue, at(2));
        other.set(TimeoutReason::PollQueue, at(7));
        other.set(TimeoutReason::PollQueue, at(2));
        assert_ne!(hash(&one), hash(&other));
        other.set(TimeoutReason::Place, at(1));
        assert_eq!(hash(&one), hash(&other));
    }
}
