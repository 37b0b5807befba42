//! Escalation for a container to be stopped: TERM, KILL, termination of the instance.

use serde::{Deserialize, Serialize};

use crate::command::Signal;
use crate::config::Timeouts;
use crate::ids::CommandId;
use crate::time::Timestamp;

/// Reason to stop a runner.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StopReason {
    /// Priority of the container is 0.
    PriorityZero,
    /// Container in a final state.
    Final,
    /// Container is Queued again: the runner belongs to an earlier attempt.
    EarlierAttempt,
    /// Container unknown to the queue.
    UnknownContainer,
    /// Container locked by another dispatcher.
    NotOurs,
    /// Request of an operator.
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

/// Escalation for a runner: TERM, KILL, termination of the instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StopEscalation {
    pub(crate) reason: StopReason,
    pub(crate) stage: StopStage,
    /// Start of the stage.
    pub(crate) stage_since: Timestamp,
    /// Signal in flight.
    pub(crate) in_flight: Option<CommandId>,
}

/// Stage of the escalation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StopStage {
    /// TERM is sent.
    Term,
    /// KILL is sent.
    Kill,
    /// Neither signal had an effect.
    Unkillable,
}

impl StopStage {
    /// Signal of the stage. KILL is repeated even without an effect: a process stuck in the kernel
    /// may come loose.
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

    /// Moves to the next stage after the timeout of the stage; true if moved.
    pub(crate) fn advance(&mut self, now: Timestamp, timeouts: &Timeouts) -> bool {
        let (timeout, next) = match self.stage {
            StopStage::Term => (timeouts.term, StopStage::Kill),
            StopStage::Kill => (timeouts.kill, StopStage::Unkillable),
            StopStage::Unkillable => return false,
        };
        let due = now >= self.stage_since + timeout;
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
    fn escalation_advances_after_timeouts() {
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
