//! Calls that a rate of our own holds back: who waits longest goes first.
//!
//! Only the first of a line has a timer; whoever leaves sets that of the next. So each waits for
//! those before it and for nobody else, and a turn costs O(log waiting), however many wait.

use std::collections::BTreeMap;

use super::Dispatcher;
use crate::capacity::Call;
use crate::ids::{CloudId, VmKey};
use crate::planted::Planted;
use crate::timers::TimeoutReason;

/// Who waits for a turn.
#[derive(Clone, Debug, Default, Hash)]
struct Line {
    joined: u64,
    places: BTreeMap<VmKey, u64>,
    order: BTreeMap<u64, VmKey>,
}

impl Line {
    /// At the end, unless it waits already; whether it is the first.
    fn join(&mut self, key: VmKey) -> bool {
        if !self.places.contains_key(&key) {
            self.joined += 1;
            self.places.insert(key, self.joined);
            self.order.insert(self.joined, key);
        }
        self.first() == Some(key)
    }

    /// Whoever is first now, if that is news.
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

/// The line for probes, and that of each cloud for destroys.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Lines {
    probes: Line,
    destroys: BTreeMap<CloudId, Line>,
}

impl Dispatcher {
    /// Takes a turn to probe this VM; `false` if it has to wait for one, which a timer will tell.
    pub(super) fn takes_turn_to_probe(&mut self, key: VmKey) -> bool {
        let Some(rate) = self.config.limits.probes else {
            return true;
        };
        if self.planted(Planted::ProbeRateIgnored) {
            return true;
        }
        if !self.lines.probes.join(key) {
            return false;
        }
        let at = self.capacity.probes.next_at(self.now, rate);
        if at > self.now {
            self.timers.set(TimeoutReason::ProbeVm(key), at);
            return false;
        }
        self.capacity.probes.take(self.now, rate);
        self.needs_no_probe(key);
        true
    }

    /// A VM waits no longer to be probed.
    pub(super) fn needs_no_probe(&mut self, key: VmKey) {
        if let Some(next) = self.lines.probes.leave(key) {
            self.timers.set(TimeoutReason::ProbeVm(next), self.now);
        }
    }

    /// Takes a turn to destroy this VM, like [`Dispatcher::takes_turn_to_probe`].
    pub(super) fn takes_turn_to_destroy(&mut self, cloud: CloudId, key: VmKey) -> bool {
        if !self.lines.destroys.entry(cloud).or_default().join(key) {
            return false;
        }
        let limits = &self.config.limits;
        let at = self
            .capacity
            .call_at(self.now, limits, cloud, Call::Destroy);
        if at > self.now {
            self.timers.set(TimeoutReason::DestroyVm(key), at);
            return false;
        }
        self.capacity
            .count_call(self.now, limits, cloud, Call::Destroy);
        self.needs_no_destroy(cloud, key);
        true
    }

    /// A VM waits no longer to be destroyed.
    pub(super) fn needs_no_destroy(&mut self, cloud: CloudId, key: VmKey) {
        let line = self.lines.destroys.get_mut(&cloud);
        if let Some(next) = line.and_then(|line| line.leave(key)) {
            self.timers.set(TimeoutReason::DestroyVm(next), self.now);
        }
    }

    /// Under other limits nobody waits for longer than these say.
    pub(super) fn look_at_lines(&mut self) {
        let probes = std::mem::take(&mut self.lines.probes.order);
        self.lines.probes.places.clear();
        for key in probes.into_values() {
            self.timers.set(TimeoutReason::ProbeVm(key), self.now);
        }
        for line in self.lines.destroys.values() {
            if let Some(first) = line.first() {
                self.timers.set(TimeoutReason::DestroyVm(first), self.now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_came_first_is_first_and_nobody_stands_twice() {
        let [a, b, c] = [7, 3, 5].map(VmKey);
        let mut line = Line::default();
        assert!(line.join(a));
        assert!(!line.join(b) && !line.join(c));
        assert!(line.join(a), "it keeps its place");
        assert_eq!(line.leave(a), Some(b));
        assert!(!line.join(a), "it stands behind the others now");
        assert_eq!(line.leave(c), None, "the first is the same");
        assert_eq!(line.leave(b), Some(a));
        assert_eq!((line.leave(b), line.leave(a)), (None, None));
    }
}
