//! How much is len, so that a test can see that it is no more than what lives.

use super::Dispatcher;

/// How many of each thing a dispatcher remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryStats {
    /// Containers.
    pub containers: usize,
    /// Groups of equal containers.
    pub classes: usize,
    /// Instances, wishes counted.
    pub instances: usize,
    /// Runners on them, and places kept for one.
    pub runners: usize,
    /// Deadlines.
    pub timers: usize,
    /// Commands whose answers are awaited.
    pub pending: usize,
    /// Signals under way.
    pub signals: usize,
    /// Instances that we destroyed and that a list may show once more.
    pub tombstones: usize,
    /// Records that are wanted, and containers that what is being read may show as they were.
    pub records: usize,
    /// What must be looked at again before commands leave.
    pub dirty: usize,
    /// What the last pass of placement found: shapes without room, and containers that wait for a VM.
    pub verdicts: usize,
    /// What failed lately, and what is counted for rates.
    pub limits: usize,
}

impl Dispatcher {
    /// How much is len. O(everything): for tests and metrics that are rarely asked for.
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
