//! The way down for a container that must stop: TERM, then KILL, then its VM goes.

use serde::{Deserialize, Serialize};

use crate::command::Signal;
use crate::config::Timeouts;
use crate::ids::CommandId;
use crate::time::Timestamp;

/// Why a runner must end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StopReason {
    /// Its container's priority is 0.
    PriorityZero,
    /// Its container is already over.
    Final,
    /// Its container is Queued again: an earlier attempt.
    EarlierAttempt,
    /// The queue does not know its container.
    UnknownContainer,
    /// Its container is locked by somebody else.
    NotOurs,
    /// An operator said so.
    Operator(String),
}

impl std::fmt::Display for StopReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PriorityZero => f.write_str("priority is 0"),
            Self::Final => f.write_str("the container is over"),
            Self::EarlierAttempt => f.write_str("it belongs to an earlier attempt"),
            Self::UnknownContainer => f.write_str("the queue does not know the container"),
            Self::NotOurs => f.write_str("the container is locked by another dispatcher"),
            Self::Operator(reason) => write!(f, "killed by the operator: {reason}"),
        }
    }
}

/// The way down for one runner: TERM, then KILL, then the VM goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StopEscalation {
    pub(crate) reason: StopReason,
    pub(crate) stage: StopStage,
    /// When this rung was reached.
    pub(crate) stage_since: Timestamp,
    /// The signal under way.
    pub(crate) in_flight: Option<CommandId>,
}

/// How far down a runner is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StopStage {
    /// TERM is being sent.
    Term,
    /// KILL is being sent.
    Kill,
    /// Neither helped.
    Unkillable,
}

impl StopStage {
    /// What is sent on this rung. KILL goes on even when it has not helped: a process stuck in the
    /// kernel may come loose.
    pub(crate) fn signal(self) -> Signal {
        match self {
            Self::Term => Signal::Term,
            Self::Kill | Self::Unkillable => Signal::Kill,
        }
    }
}

impl StopEscalation {
    pub(crate) fn new(now: Timestamp, reason: StopReason) -> Self {
        Self {
            reason,
            stage: StopStage::Term,
            stage_since: now,
            in_flight: None,
        }
    }

    /// Goes one rung down if this one's time is up; true if it did.
    pub(crate) fn advance(&mut self, now: Timestamp, timeouts: &Timeouts) -> bool {
        let (patience, next) = match self.stage {
            StopStage::Term => (timeouts.term, StopStage::Kill),
            StopStage::Kill => (timeouts.kill, StopStage::Unkillable),
            StopStage::Unkillable => return false,
        };
        let due = now >= self.stage_since + patience;
        if due {
            self.stage = next;
            self.stage_since = now;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_rung_has_its_time_and_the_last_one_stays() {
        let timeouts = Timeouts {
            term: Duration::from_secs(10),
            kill: Duration::from_secs(5),
            ..Timeouts::default()
        };
        let at = |secs| Timestamp::EPOCH + Duration::from_secs(secs);
        let mut escalation = StopEscalation::new(at(0), StopReason::PriorityZero);
        assert!(!escalation.advance(at(9), &timeouts));
        assert_eq!(escalation.stage.signal(), Signal::Term);
        assert!(escalation.advance(at(10), &timeouts));
        assert_eq!(escalation.stage.signal(), Signal::Kill);
        assert!(!escalation.advance(at(14), &timeouts));
        assert!(escalation.advance(at(15), &timeouts));
        assert_eq!(escalation.stage, StopStage::Unkillable);
        assert!(!escalation.advance(at(1000), &timeouts));
    }
}
