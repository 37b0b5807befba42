//! What is known about one container.

use std::cmp::Reverse;
use std::time::Duration;

use crate::cancel_reason::CancelReason;
use crate::ids::{ContainerId, VmKey};
use crate::input::{ContainerRecord, ContainerState, ContainerUpdate};
use crate::queue::Merge;
use crate::queue::classes::{ClassId, Rank};
use crate::time::Timestamp;

/// A change of the queue's record that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    Lock,
    Unlock,
    Requeue,
    Cancel,
}

impl Op {
    /// For log lines.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Unlock => "unlock",
            Self::Requeue => "requeue",
            Self::Cancel => "cancel",
        }
    }
}

/// How a container's last runner ended, as far as we saw.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Exit {
    pub(crate) at: Timestamp,
    /// Where it was, unless that VM is no more.
    pub(crate) on: Option<VmKey>,
    /// For the owner, should the queue still say Running.
    pub(crate) reason: CancelReason,
    /// The cloud took back what it ran on, and says so: nothing is left of it.
    pub(crate) interrupted: bool,
}

/// A container of the queue.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Entry {
    pub(crate) id: ContainerId,
    pub(crate) state: ContainerState,
    pub(crate) priority: u64,
    pub(crate) locked_by_us: bool,
    pub(crate) lock_count: u32,
    pub(crate) created_at: Timestamp,
    /// When this process first saw it: the order among equals.
    pub(crate) first_seen: Timestamp,
    /// Its shape, or what is wrong with its record.
    pub(crate) class: Result<ClassId, String>,
    /// The change under way; at most one.
    pub(crate) op: Option<Op>,
    /// Not to be changed again before this, because the queue refused.
    pub(crate) retry_at: Option<Timestamp>,
    /// Refusals and failures in a row.
    pub(crate) failures: u32,
    /// The end of its last runner; most have had none.
    pub(crate) exit: Option<Box<Exit>>,
    /// How often the cloud took back what it ran on, as far as this process saw.
    pub(crate) interruptions: u32,
    /// What its shape's clock showed when it began to wait; not while it runs.
    pub(crate) waits_from: Option<Duration>,
    /// It has waited for too long: what its owner is told.
    pub(crate) given_up: Option<Box<CancelReason>>,
    /// Its lock was taken by this process, so no runner of this attempt is unknown.
    pub(crate) locked_here: bool,
    /// This process has started it, or tried to.
    pub(crate) started_here: bool,
    /// The state is at least as new as this.
    pub(crate) known_since: Timestamp,
    /// When it was first known to be in this state: it was so before.
    pub(crate) state_since: Timestamp,
    /// When our own last change was answered: snapshots that began earlier are stale.
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

    /// Its place among those that wait.
    pub(crate) fn rank(&self) -> Rank {
        (Reverse(self.priority), self.first_seen, self.id)
    }

    /// Whether a snapshot that began at `started` may be older than what is known.
    pub(crate) fn outdates(&self, started: Timestamp) -> bool {
        self.op.is_some() || started < self.own_change_at || started < self.known_since
    }

    /// Whether a record says what is known.
    pub(crate) fn says(&self, record: &ContainerRecord) -> bool {
        (self.state, self.priority) == (record.state, record.priority)
            && (self.locked_by_us, self.lock_count) == (record.locked_by_us, record.lock_count)
    }

    /// Takes over what a snapshot says that began at `started` and is not outdated.
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

    /// Takes over the answer to our own change, asked for at `issued`.
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

    /// Our own change failed, or was perhaps made all the same: older snapshots do not count.
    pub(crate) fn refused(&mut self, now: Timestamp) {
        self.own_change_at = now;
    }

    /// Whether the state shown is newer than what it is to be judged by.
    pub(crate) fn is_newer_than(&self, event: Timestamp) -> bool {
        self.known_since > event
    }

    /// Whether it is ours to act upon.
    pub(crate) fn ours(&self) -> bool {
        match self.state {
            ContainerState::Locked | ContainerState::Running => self.locked_by_us,
            _ => true,
        }
    }
}
