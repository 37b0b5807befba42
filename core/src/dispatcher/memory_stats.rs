//! Sizes of all collections, for tests of bounded memory.

use super::Dispatcher;

/// Number of remembered things, by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryStats {
    /// Containers.
    pub containers: usize,
    /// Container classes.
    pub classes: usize,
    /// Instances, create requests included.
    pub instances: usize,
    /// Runners and assignments.
    pub runners: usize,
    /// Deadlines.
    pub timers: usize,
    /// Commands without an answer.
    pub pending: usize,
    /// Signals in flight.
    pub signals: usize,
    /// Destroyed instances that a list may still show.
    pub tombstones: usize,
    /// Records to look up, and containers forgotten during a poll.
    pub records: usize,
    /// Dirty marks.
    pub dirty: usize,
    /// Results of the last placement pass: classes without room, and reservations.
    pub verdicts: usize,
    /// Back-off states and token buckets.
    pub limits: usize,
}

impl Dispatcher {
    /// Sizes of all collections. O(everything): for tests and rare metrics.
    #[must_use]
    pub fn memory_stats(&self) -> MemoryStats {
        MemoryStats {
            containers: self.queue.iter().count(),
            classes: self.queue.classes().iter().count(),
            instances: self.fleet.len(),
            runners: self.fleet.runners(),
            timers: self.timers.len(),
            pending: self.out.in_flight().count(),
            signals: self.signals.len(),
            tombstones: self.syncs.values().map(|sync| sync.tombstones.len()).sum(),
            records: self.poll.lookups.len() + self.poll.forgotten.len(),
            dirty: self.dirty.containers.len() + self.dirty.vms.len(),
            verdicts: self.verdicts.parked.len() + self.fleet.reservations(),
            limits: self.capacity.len(),
        }
    }
}
