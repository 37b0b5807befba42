//! Known state of one container.

use std::cmp::Reverse;
use std::time::Duration;

use crate::cancel_reason::CancelReason;
use crate::ids::{ContainerId, VmKey};
use crate::input::{ContainerRecord, ContainerState, ContainerUpdate};
use crate::queue::Merge;
use crate::queue::classes::{ClassId, Rank};
use crate::time::Timestamp;

/// Change of the queue's record in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    Lock,
    Unlock,
    Requeue,
    Cancel,
}

impl Op {
    /// Name for log lines.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Unlock => "unlock",
            Self::Requeue => "requeue",
            Self::Cancel => "cancel",
        }
    }
}

/// End of a container's last runner, as observed here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Exit {
    pub(crate) at: Timestamp,
    /// Instance of the runner, while the instance exists.
    pub(crate) on: Option<VmKey>,
    /// Reason for the owner, for the case that the queue still shows Running.
    pub(crate) reason: CancelReason,
    /// True if the cloud confirmed the preemption of the instance: no process is left.
    pub(crate) interrupted: bool,
}

/// Container of the queue.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Entry {
    pub(crate) id: ContainerId,
    pub(crate) state: ContainerState,
    pub(crate) priority: u64,
    pub(crate) locked_by_us: bool,
    pub(crate) lock_count: u32,
    pub(crate) created_at: Timestamp,
    /// Time of the first sight by this process: the order among equals.
    pub(crate) first_seen: Timestamp,
    /// Container class, or the defect of the record.
    pub(crate) class: Result<ClassId, String>,
    /// Change in flight; at most one.
    pub(crate) op: Option<Op>,
    /// Earliest time of the next change, after a refusal of the queue.
    pub(crate) retry_at: Option<Timestamp>,
    /// Consecutive refusals and failures.
    pub(crate) failures: u32,
    /// End of the last runner; boxed, since most containers have none.
    pub(crate) exit: Option<Box<Exit>>,
    /// Interruptions by preemption observed by this process.
    pub(crate) interruptions: u32,
    /// Reading of the class's clock at the begin of the wait; `None` while running.
    pub(crate) waits_from: Option<Duration>,
    /// Message for the owner after the scheduling timeout.
    pub(crate) given_up: Option<Box<CancelReason>>,
    /// True if this process took the lock, so no runner of this attempt is unknown.
    pub(crate) locked_here: bool,
    /// True if this process started the container, or tried to.
    pub(crate) started_here: bool,
    /// Lower bound of the state's age: the state is at least as new.
    pub(crate) known_since: Timestamp,
    /// Time of the first knowledge of this state; the change itself came earlier.
    pub(crate) state_since: Timestamp,
    /// Time of the answer to the last own change: snapshots started earlier are stale.
    own_change_at: Timestamp,
}

impl Entry {
    pub(crate) fn new(
        now: Timestamp,
        started: Timestamp,
        record: &ContainerRecord,
        class: Result<ClassId, String>,
    ) -> Self {
        Self {
            id: record.id,
            state: record.state,
            priority: record.priority,
            locked_by_us: record.locked_by_us,
            lock_count: record.lock_count,
            created_at: record.created_at,
            first_seen: now,
            class,
            op: None,
            retry_at: None,
            failures: 0,
            exit: None,
            interruptions: 0,
            waits_from: None,
            given_up: None,
            locked_here: false,
            started_here: false,
            known_since: started,
            state_since: now,
            own_change_at: Timestamp::EPOCH,
        }
    }

    /// Rank among waiting containers.
    pub(crate) fn rank(&self) -> Rank {
        (Reverse(self.priority), self.first_seen, self.id)
    }

    /// True if a snapshot started at `started` may be older than the known state.
    pub(crate) fn outdates(&self, started: Timestamp) -> bool {
        self.op.is_some() || started < self.own_change_at || started < self.known_since
    }

    /// True if a record equals the known state.
    pub(crate) fn says(&self, record: &ContainerRecord) -> bool {
        (self.state, self.priority) == (record.state, record.priority)
            && (self.locked_by_us, self.lock_count) == (record.locked_by_us, record.lock_count)
    }

    /// Merges a record of a snapshot started at `started` that is not outdated.
    pub(crate) fn merge(
        &mut self,
        now: Timestamp,
        started: Timestamp,
        record: &ContainerRecord,
    ) -> Merge {
        let news = !self.says(record);
        if self.state != record.state {
            self.state_since = now;
        }
        self.state = record.state;
        self.priority = record.priority;
        self.locked_by_us = record.locked_by_us;
        self.lock_count = record.lock_count;
        self.known_since = started;
        self.locked_here &= record.state == ContainerState::Locked;
        if self.state == ContainerState::Running {
            self.waits_from = None;
        }
        if news { Merge::Changed } else { Merge::Same }
    }

    /// Applies the answer to an own change, sent at `issued`.
    pub(crate) fn apply(&mut self, now: Timestamp, issued: Timestamp, update: &ContainerUpdate) {
        if update.state == ContainerState::Locked && self.state == ContainerState::Queued {
            self.lock_count = self.lock_count.saturating_add(1);
            self.locked_here = true;
        }
        self.locked_here &= update.state == ContainerState::Locked;
        if self.state != update.state {
            self.state_since = now;
        }
        self.state = update.state;
        self.priority = update.priority;
        self.locked_by_us = update.locked_by_us;
        self.known_since = issued;
        self.own_change_at = now;
        self.failures = 0;
    }

    /// Records a failed own change, which may still have taken effect: older snapshots do not
    /// count.
    pub(crate) fn refused(&mut self, now: Timestamp) {
        self.own_change_at = now;
    }

    /// True if the known state is newer than the event for its judgement.
    pub(crate) fn is_newer_than(&self, event: Timestamp) -> bool {
        self.known_since > event
    }

    /// True if this dispatcher may act on the container.
    pub(crate) fn ours(&self) -> bool {
        match self.state {
            ContainerState::Locked | ContainerState::Running => self.locked_by_us,
            _ => true,
        }
    }
}
