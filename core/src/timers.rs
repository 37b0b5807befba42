//! One ordered set of deadlines, each with a typed reason.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::ids::{CloudId, CommandId, ContainerId, VmKey};
use crate::time::Timestamp;

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
    Orphans,
    /// A VM is due for a probe.
    ProbeVm(VmKey),
    /// A VM has been idle, unresponsive, broken or booting for as long as it may.
    JudgeVm(VmKey),
    /// A VM that should be gone is due for another destroy.
    DestroyVm(VmKey),
    /// A runner that should end is due for another signal.
    SignalRunner(VmKey, ContainerId),
}

/// The deadlines. Setting, cancelling and taking the next cost O(log n).
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Timers {
    by_reason: BTreeMap<TimeoutReason, Timestamp>,
    by_time: BTreeSet<(Timestamp, TimeoutReason)>,
}

impl Timers {
    /// Sets or moves a deadline.
    pub(crate) fn set(&mut self, reason: TimeoutReason, at: Timestamp) {
        match self.by_reason.insert(reason, at) {
            Some(before) if before == at => return,
            Some(before) => {
                self.by_time.remove(&(before, reason));
            }
            None => {}
        }
        self.by_time.insert((at, reason));
    }

    /// Sets a deadline, unless there is an earlier one.
    pub(crate) fn set_earlier(&mut self, reason: TimeoutReason, at: Timestamp) {
        if self.by_reason.get(&reason).is_none_or(|set| at < *set) {
            self.set(reason, at);
        }
    }

    /// Forgets a deadline, if there is one.
    pub(crate) fn cancel(&mut self, reason: TimeoutReason) {
        if let Some(at) = self.by_reason.remove(&reason) {
            self.by_time.remove(&(at, reason));
        }
    }

    /// When a deadline is due, if it is set.
    pub(crate) fn due(&self, reason: TimeoutReason) -> Option<Timestamp> {
        self.by_reason.get(&reason).copied()
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<(Timestamp, TimeoutReason)> {
        self.by_time.first().copied()
    }

    /// Takes the earliest deadline out if it is not later than `now`.
    pub(crate) fn pop_due(&mut self, now: Timestamp) -> Option<TimeoutReason> {
        let (at, reason) = self.next()?;
        if at > now {
            return None;
        }
        self.cancel(reason);
        Some(reason)
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
}
