//! Reasons to end a container or to give it back to the queue.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fleet::vm::ShutdownReason;
use crate::ids::VmName;
use crate::input::VmError;
use crate::signals::StopReason;
use crate::wait_reason::WaitReason;

/// Reason to cancel or requeue a container. `Display` gives the sentence for the owner.
///
/// Serialized as the sentence, and compared and hashed by the sentence: a deserialized
/// [`CancelReason::Recorded`] equals the reason with the same text.
#[derive(Clone, Debug, Eq, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum CancelReason {
    /// Malformed container record.
    Malformed(String),
    /// No configured instance type can hold the container.
    Unsatisfiable(String),
    /// Not started within `MaxSchedulingTime`.
    SchedulingTimeout {
        /// Configured limit.
        max: Duration,
        /// Obstacle at the end of the wait.
        waits_for: WaitReason,
    },
    /// Running according to the queue, and on no instance.
    NotFound,
    /// Exit of the runner without a result.
    RunnerExited {
        /// Instance of the runner.
        instance: VmName,
    },
    /// Failed start, without effect on the instance.
    StartFailed {
        /// Chosen instance.
        instance: VmName,
        /// Error of the start command.
        error: VmError,
    },
    /// Runner stopped by the dispatcher.
    Stopped(StopReason),
    /// Instance shut down by the dispatcher.
    InstanceShutDown {
        /// Instance of the runner.
        instance: VmName,
        /// Reason of the shutdown.
        reason: ShutdownReason,
    },
    /// Instance disappeared.
    InstanceDisappeared {
        /// Instance of the runner.
        instance: VmName,
    },
    /// Instance preempted by the cloud.
    Preempted {
        /// Instance of the runner.
        instance: VmName,
    },
    /// Sentence read from a trace or a journal.
    Recorded(String),
}

impl fmt::Display for CancelReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(text) | Self::Unsatisfiable(text) | Self::Recorded(text) => {
                f.write_str(text)
            }
            Self::SchedulingTimeout { max, waits_for } => {
                let (max, why) = (max.as_secs(), waits_for.describe(None));
                write!(f, "not started within MaxSchedulingTime ({max} s): {why}")
            }
            Self::NotFound => f.write_str("the container runs on no instance that exists"),
            Self::RunnerExited { instance } => {
                write!(
                    f,
                    "the runner on {instance} exited without reporting a result"
                )
            }
            Self::StartFailed { instance, error } => {
                write!(f, "it could not be started on {instance}: {error}")
            }
            Self::Stopped(reason) => write!(f, "the container was stopped: {reason}"),
            Self::InstanceShutDown { instance, reason } => {
                write!(f, "instance {instance} was shut down: {reason}")
            }
            Self::InstanceDisappeared { instance } => {
                write!(f, "instance {instance} disappeared while the container ran")
            }
            Self::Preempted { instance } => write!(
                f,
                "interrupted: the cloud took back {instance} while the container ran"
            ),
        }
    }
}

impl PartialEq for CancelReason {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Hash for CancelReason {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.to_string().hash(state);
    }
}

impl From<CancelReason> for String {
    fn from(reason: CancelReason) -> Self {
        reason.to_string()
    }
}

impl From<String> for CancelReason {
    fn from(text: String) -> Self {
        Self::Recorded(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cancel_reason_serde_round_trip_equal() {
        let instance = VmName::from("i-1");
        let reason = CancelReason::RunnerExited { instance };
        let json = serde_json::to_string(&reason).unwrap();
        assert_eq!(
            json,
            r#""the runner on i-1 exited without reporting a result""#
        );
        let read: CancelReason = serde_json::from_str(&json).unwrap();
        assert!(matches!(read, CancelReason::Recorded(_)));
        assert_eq!(read, reason);
    }
}
