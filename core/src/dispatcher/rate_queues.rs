//! FIFO queues for rate-limited probes and destroys.
//!
//! Only the first instance of a queue has a timer; leaving the queue sets the timer of the next. A
//! turn costs O(log waiting), whatever the number of waiting instances.

use std::collections::BTreeMap;

use super::Dispatcher;
use crate::command::CloudCall;
use crate::ids::{CloudId, VmKey};
use crate::mutants::Mutant;
use crate::timers::TimeoutReason;

/// FIFO queue of instances.
#[derive(Clone, Debug, Default, Hash)]
struct RateQueue {
    joined: u64,
    places: BTreeMap<VmKey, u64>,
    order: BTreeMap<u64, VmKey>,
}

impl RateQueue {
    /// Appends an instance, unless queued already. True if the instance is the first.
    fn join(&mut self, key: VmKey) -> bool {
        if !self.places.contains_key(&key) {
            self.joined += 1;
            self.places.insert(key, self.joined);
            self.order.insert(self.joined, key);
        }
        self.first() == Some(key)
    }

    /// Removes an instance. Returns the new first instance, if changed.
    fn leave(&mut self, key: VmKey) -> Option<VmKey> {
        let was_first = self.first() == Some(key);
        let place = self.places.remove(&key)?;
        self.order.remove(&place);
        self.first().filter(|_| was_first)
    }

    fn first(&self) -> Option<VmKey> {
        self.order.values().next().copied()
    }
}

/// Queue of probes, and queue of destroys for each cloud.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct RateQueues {
    probes: RateQueue,
    destroys: BTreeMap<CloudId, RateQueue>,
}

impl Dispatcher {
    /// Takes a token for a probe. False if the instance has to wait; a timer is set then.
    pub(super) fn admit_probe(&mut self, key: VmKey) -> bool {
        let Some(rate) = self.config.limits.probes else {
            return true;
        };
        if self.mutant(Mutant::ProbeRateIgnored) {
            return true;
        }
        if !self.rate_queues.probes.join(key) {
            return false;
        }
        let at = self.capacity.probes.next_at(self.now, rate);
        if at > self.now {
            self.timers.set(TimeoutReason::ProbeVm(key), at);
            return false;
        }
        self.capacity.probes.take(self.now, rate);
        self.dequeue_probe(key);
        true
    }

    /// Removes an instance from the queue of probes.
    pub(super) fn dequeue_probe(&mut self, key: VmKey) {
        if let Some(next) = self.rate_queues.probes.leave(key) {
            self.timers.set(TimeoutReason::ProbeVm(next), self.now);
        }
    }

    /// Takes a token for a destroy, like [`Dispatcher::admit_probe`].
    pub(super) fn admit_destroy(&mut self, cloud: CloudId, key: VmKey) -> bool {
        if !self
            .rate_queues
            .destroys
            .entry(cloud)
            .or_default()
            .join(key)
        {
            return false;
        }
        let limits = &self.config.limits;
        let at = self
            .capacity
            .call_at(self.now, limits, cloud, CloudCall::Destroy);
        if at > self.now {
            self.timers.set(TimeoutReason::DestroyVm(key), at);
            return false;
        }
        self.capacity
            .count_call(self.now, limits, cloud, CloudCall::Destroy);
        self.dequeue_destroy(cloud, key);
        true
    }

    /// Removes an instance from the queue of destroys.
    pub(super) fn dequeue_destroy(&mut self, cloud: CloudId, key: VmKey) {
        let queue = self.rate_queues.destroys.get_mut(&cloud);
        if let Some(next) = queue.and_then(|queue| queue.leave(key)) {
            self.timers.set(TimeoutReason::DestroyVm(next), self.now);
        }
    }

    /// Restarts the timers of all queues, after a change of the limits.
    pub(super) fn recheck_rate_queues(&mut self) {
        let probes = std::mem::take(&mut self.rate_queues.probes.order);
        self.rate_queues.probes.places.clear();
        for key in probes.into_values() {
            self.timers.set(TimeoutReason::ProbeVm(key), self.now);
        }
        for queue in self.rate_queues.destroys.values() {
            if let Some(first) = queue.first() {
                self.timers.set(TimeoutReason::DestroyVm(first), self.now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_queue_is_fifo_without_duplicates() {
        let [a, b, c] = [7, 3, 5].map(VmKey);
        let mut queue = RateQueue::default();
        assert!(queue.join(a));
        assert!(!queue.join(b) && !queue.join(c));
        assert!(queue.join(a), "a queued instance keeps the position");
        assert_eq!(queue.leave(a), Some(b));
        assert!(!queue.join(a), "a rejoining instance goes last");
        assert_eq!(queue.leave(c), None, "the first instance is unchanged");
        assert_eq!(queue.leave(b), Some(a));
        assert_eq!((queue.leave(b), queue.leave(a)), (None, None));
    }
}
