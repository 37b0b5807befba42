//! One ordered set of deadlines, each with a typed reason.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

use crate::ids::{CloudId, CommandId, ContainerId, VmKey};
use crate::time::Timestamp;
use crate::unordered_map::UnorderedMap;

/// Why the dispatcher wants to be woken. Each reason has at most one deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TimeoutReason {
    /// The queue is due for a look.
    PollQueue,
    /// A cloud's instances are due for a list.
    SyncCloud(CloudId),
    /// A command was not answered.
    NoAnswer(CommandId),
    /// A container that the queue refused to change may be tried again.
    RetryContainer(ContainerId),
    /// A container may have waited as long as it may.
    GiveUp(ContainerId),
    /// Something that stood in the way of placement may have ended.
    Place,
    /// Containers that were locked or running before a restart have waited long enough for their
    /// VMs to be listed, or to be heard.
    UnownedLocks,
    /// A VM is due for a probe.
    ProbeVm(VmKey),
    /// A VM has been idle, unresponsive, broken or booting for as long as it may.
    ReconcileVm(VmKey),
    /// A VM that should be gone is due for another destroy.
    DestroyVm(VmKey),
    /// A runner that should end is due for another signal.
    SignalRunner(VmKey, ContainerId),
}

/// The deadlines. Setting, cancelling and taking the next cost O(log n), spread over all calls; no
/// memory is asked for while the number of deadlines stays what it was.
///
/// A deadline that is moved or cancelled stays in the heap until it comes up there, or until more of
/// the heap is dead than alive.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timers {
    due: UnorderedMap<TimeoutReason, Timestamp>,
    /// The first one is alive, always.
    heap: BinaryHeap<Reverse<(Timestamp, TimeoutReason)>>,
}

impl Timers {
    /// The heap is cleared of the dead when it is so much larger than twice what is alive.
    const SLACK: usize = 64;

    /// Sets or moves a deadline.
    pub(crate) fn set(&mut self, reason: TimeoutReason, at: Timestamp) {
        if self.due.insert(reason, at) != Some(at) {
            self.heap.push(Reverse((at, reason)));
            self.bury();
        }
    }

    /// Sets a deadline, unless there is an earlier one.
    pub(crate) fn set_earlier(&mut self, reason: TimeoutReason, at: Timestamp) {
        if self.due(reason).is_none_or(|set| at < set) {
            self.set(reason, at);
        }
    }

    /// Forgets a deadline, if there is one.
    pub(crate) fn cancel(&mut self, reason: TimeoutReason) {
        if self.due.remove(&reason).is_some() {
            self.bury();
        }
    }

    /// When a deadline is due, if it is set.
    pub(crate) fn due(&self, reason: TimeoutReason) -> Option<Timestamp> {
        self.due.get(&reason).copied()
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<(Timestamp, TimeoutReason)> {
        self.heap.peek().map(|Reverse(first)| *first)
    }

    /// Takes the earliest deadline out if it is not later than `now`.
    pub(crate) fn pop_due(&mut self, now: Timestamp) -> Option<TimeoutReason> {
        let (_, reason) = self.next().filter(|(at, _)| *at <= now)?;
        self.cancel(reason);
        Some(reason)
    }

    /// How many deadlines are set.
    pub(crate) fn len(&self) -> usize {
        self.due.len()
    }

    /// Takes the dead off the top, or all of them where they are too many.
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
    fn a_reason_has_one_deadline_and_the_earliest_comes_first() {
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
    fn what_was_moved_or_cancelled_never_comes_up() {
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
        assert!(timers.heap.len() <= heap_max, "the dead are cleared away");
        let due: Vec<_> = std::iter::from_fn(|| timers.pop_due(at(5000))).collect();
        let alive = (0..1000).filter(|n| n % 3 != 0);
        let alive: Vec<_> = alive.map(|n| TimeoutReason::ProbeVm(VmKey(n))).collect();
        assert_eq!(due, alive, "each once, at its last time, in their order");
    }

    #[test]
    fn the_hash_tells_deadlines_apart_and_not_how_they_came_to_be() {
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
