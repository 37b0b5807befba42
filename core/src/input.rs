//! Inputs of the core: outcomes of commands, hints, and operator requests.

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::ids::{Address, CommandId, ContainerId, ImageId, InstanceId, IntentId, TypeName};
use crate::resources::Demand;
use crate::time::Timestamp;

/// Input of the dispatcher. The time of its arrival is passed beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// Gain or loss of leadership for the instance set. Before the gain no command leaves; after it
    /// all state is read afresh, as after a restart.
    Leadership {
        /// True for a gain.
        held: bool,
    },
    /// Outcome of a command. May arrive late, twice or never.
    Answer {
        /// Id of the command.
        id: CommandId,
        /// Outcome.
        answer: Answer,
    },
    /// Hint of a change in the queue: poll soon.
    QueueChanged,
    /// Request of an operator.
    #[serde(alias = "Operator")]
    OperatorRequest(OperatorRequest),
    /// New configuration, in force at once.
    Reconfigured(Box<Config>),
}

/// Requests of an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OperatorRequest {
    /// Change the idle behavior of an instance.
    SetIdleBehavior {
        /// Target instance.
        instance: InstanceId,
        /// New idle behavior.
        behavior: IdleBehavior,
    },
    /// Destroy an instance now, even with running containers.
    KillInstance {
        /// Target instance.
        instance: InstanceId,
        /// Operator's reason, for the log.
        reason: String,
    },
    /// Stop a container's runner now, with the whole stop escalation.
    KillContainer {
        /// Target container.
        container: ContainerId,
        /// Operator's reason, for the log.
        reason: String,
    },
}

/// Use of an instance. Stored in its tag, so that a restart preserves it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum IdleBehavior {
    /// Takes containers, is terminated when idle.
    #[default]
    Run,
    /// Takes no containers, is never terminated.
    Hold,
    /// Takes no containers, is terminated after the last container has ended.
    Drain,
}

impl IdleBehavior {
    /// Name of the behavior in instance tags, the operator API and the CLI.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Hold => "hold",
            Self::Drain => "drain",
        }
    }

    /// Behavior with this [`Self::name`]; `None` for any other text.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let all = [Self::Run, Self::Hold, Self::Drain];
        all.into_iter().find(|behavior| behavior.name() == name)
    }
}

/// Outcome of a command, by the kind of the command. An answer of the wrong kind is a bug of the
/// adapter: an event reports it, and the command stays open until its deadline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// For `Poll` and `Lookup`: the records found.
    Containers(Result<Vec<ContainerRecord>, QueueError>),
    /// For `Lock`, `Unlock` and `Cancel`: the record's state after the change.
    Updated(Result<ContainerUpdate, QueueError>),
    /// For `List`: every instance with the tag of the instance set.
    Instances(Result<Vec<InstanceRecord>, CloudError>),
    /// For `Create`: the new instance.
    Created(Result<InstanceRecord, CloudError>),
    /// For `Destroy` and `Tag`.
    CloudDone(Result<(), CloudError>),
    /// For `Probe`.
    Probed(Result<ProbeReport, VmError>),
    /// For `Start`: the runner has accepted the container.
    Started(Result<(), VmError>),
    /// For `Signal`.
    Signalled(Result<SignalReport, VmError>),
}

/// Container record of the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Uuid.
    pub id: ContainerId,
    /// State.
    pub state: ContainerState,
    /// Priority, highest first; 0 means "stop".
    pub priority: u64,
    /// True if this dispatcher holds the lock; meaningful while Locked or Running.
    pub locked_by_us: bool,
    /// Number of locks so far.
    pub lock_count: u32,
    /// Time of submission, by the queue's clock.
    pub created_at: Timestamp,
    /// Needs of the container, or the defect of its record as one sentence for its owner.
    pub demand: Result<Demand, String>,
}

/// States of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ContainerState {
    /// Pending, not locked by a dispatcher.
    Queued,
    /// Locked by a dispatcher.
    Locked,
    /// Started, as reported by its runner.
    Running,
    /// Ended with an exit code.
    Complete,
    /// Ended without an exit code.
    Cancelled,
}

impl ContainerState {
    /// True for `Complete` and `Cancelled`.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Complete | Self::Cancelled)
    }

    /// Name of the state in the queue.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "Queued",
            Self::Locked => "Locked",
            Self::Running => "Running",
            Self::Complete => "Complete",
            Self::Cancelled => "Cancelled",
        }
    }
}

/// Record after a lock, unlock or cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerUpdate {
    /// State after the change; may differ from the requested state (an unlock may cancel).
    pub state: ContainerState,
    /// Priority.
    pub priority: u64,
    /// True if this dispatcher holds the lock.
    pub locked_by_us: bool,
}

/// Failure of a queue request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum QueueError {
    /// Overload (503, 429): reduce the load.
    #[error("the queue is overloaded: {0}")]
    Overloaded(String),
    /// Refusal (4xx): the record is not in the expected state.
    #[error("the queue refused: {0}")]
    Refused(String),
    /// Failure or missing answer; the change may have been made.
    #[error("the queue did not answer properly: {0}")]
    Unavailable(String),
}

/// Instance record of a cloud.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// Id in the cloud.
    pub id: InstanceId,
    /// Host and port of the SSH server, once known.
    pub address: Option<Address>,
    /// True if the cloud reports the end of the instance.
    pub terminated: bool,
    /// True if the cloud has announced or made a preemption.
    #[serde(default, alias = "taken_back")]
    pub preempted: bool,
    /// Values of the dispatcher's tags.
    pub tags: InstanceTags,
}

/// Values of the dispatcher's tags on an instance, without the secret, since secrets stay in the
/// adapter. A missing or malformed tag is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceTags {
    /// Configured type.
    pub instance_type: Option<TypeName>,
    /// Idle behavior.
    pub idle_behavior: Option<IdleBehavior>,
    /// Intent of the create request.
    pub intent: Option<IntentId>,
    /// Boot image; the configured image where no tag names one.
    pub image: Option<ImageId>,
}

/// Failure of a cloud call. Adapters translate, the core decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum CloudError {
    /// Too many calls of this kind.
    #[error("rate limited: {message}")]
    RateLimited {
        /// Earliest time of the next call, where the cloud gives one.
        until: Option<Timestamp>,
        /// Message of the cloud.
        message: String,
    },
    /// Quota of the type's group exceeded.
    #[error("quota exceeded: {message}")]
    Quota {
        /// Message of the cloud.
        message: String,
    },
    /// No capacity left in the cloud.
    #[error("no capacity: {message}")]
    Capacity {
        /// Extent of the shortage.
        scope: CapacityScope,
        /// Message of the cloud.
        message: String,
    },
    /// Unknown instance.
    #[error("no such instance: {message}")]
    NotFound {
        /// Message of the cloud.
        message: String,
    },
    /// Missing or malformed answer: the call may have taken effect.
    #[error("unknown outcome: {message}")]
    Ambiguous {
        /// Description of the failure.
        message: String,
    },
    /// Permanent refusal, until a person changes something.
    #[error("refused for good: {message}")]
    Permanent {
        /// Message of the cloud.
        message: String,
    },
    /// Any other failure: a retry may succeed.
    #[error("failed: {message}")]
    Transient {
        /// Message of the cloud.
        message: String,
    },
}

/// Extent of a shortage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CapacityScope {
    /// Requested type.
    Type,
    /// Quota group of the type.
    Group,
    /// Whole cloud.
    All,
}

/// Result of a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// Ready for containers (identity verified, boot probe passed, runner installed), or the
    /// missing part.
    pub ready: Result<(), String>,
    /// Runners alive on the VM; `None` if the list failed.
    pub runners: Option<RunnerList>,
}

/// Output of a runner's `--list`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunnerList {
    /// True if the VM reports itself broken.
    pub broken: bool,
    /// Time of the announced preemption, if the VM knows of one.
    #[serde(default, alias = "taken_back_at")]
    pub preempted_at: Option<Timestamp>,
    /// Runners of the cluster, in any order.
    pub runners: Vec<RunnerStatus>,
}

/// Line of a runner's `--list`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunnerStatus {
    /// Container of the runner.
    pub container: ContainerId,
    /// True if the runner is gone while some process still holds its lock.
    pub stale: bool,
}

/// Result of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SignalReport {
    /// No runner left.
    Gone,
    /// Runner signalled and still alive.
    Alive,
}

/// Failure of a VM command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum VmError {
    /// No live connection: nothing was done.
    #[error("not reached: {0}")]
    Unreachable(String),
    /// Identity of the rented instance not proved: nothing was done.
    #[error("identity not proved: {0}")]
    #[serde(alias = "Impostor")]
    IdentityMismatch(String),
    /// Command run and failed.
    #[error("command failed: {0}")]
    Failed(String),
    /// Connection lost while the command ran: it may have taken effect.
    #[error("connection lost: {0}")]
    Lost(String),
}
