//! Everything that may come in: answers of the world, hints, and the operator's wishes.

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::ids::{Address, CommandId, ContainerId, ImageId, InstanceId, IntentId, TypeName};
use crate::resources::Demand;
use crate::time::Timestamp;

/// One thing the dispatcher learns. The time of learning is passed beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// This process gained or lost the right to act for its instance set. Until it is gained no
    /// command leaves; when it is gained everything is learned afresh, as after a restart.
    Leadership {
        /// Whether it is ours now.
        held: bool,
    },
    /// A command's outcome. It may come late, twice or never.
    Answer {
        /// The command.
        id: CommandId,
        /// What became of it.
        answer: Answer,
    },
    /// The queue says that something changed: a hint to poll soon, nothing more.
    QueueChanged,
    /// An operator's wish.
    #[serde(alias = "Operator")]
    OperatorRequest(OperatorRequest),
    /// A new configuration, to be taken over at once.
    Reconfigured(Box<Config>),
}

/// What an operator may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OperatorRequest {
    /// Change how an instance is used.
    SetIdleBehavior {
        /// The instance.
        instance: InstanceId,
        /// From now on.
        behavior: IdleBehavior,
    },
    /// Destroy an instance now, whatever runs on it.
    KillInstance {
        /// The instance.
        instance: InstanceId,
        /// The operator's words, for the log.
        reason: String,
    },
    /// Stop a container's runner now, by the whole ladder.
    KillContainer {
        /// The container.
        container: ContainerId,
        /// The operator's words, for the log.
        reason: String,
    },
}

/// What an instance is for. Kept in its tag, so that a restart does not forget it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum IdleBehavior {
    /// Takes containers, is shut down when idle.
    #[default]
    Run,
    /// Takes none, is never shut down.
    Hold,
    /// Takes none, is shut down when the last one ends.
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

/// A command's outcome, by the kind of the command. An answer of the wrong kind is a bug of the
/// adapter: it is reported as an event and the command stays open until its deadline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To `Poll` and `Lookup`: the records found.
    Containers(Result<Vec<ContainerRecord>, QueueError>),
    /// To `Lock`, `Unlock` and `Cancel`: the record's state after it.
    Updated(Result<ContainerUpdate, QueueError>),
    /// To `List`: every instance that bears our tag.
    Instances(Result<Vec<InstanceRecord>, CloudError>),
    /// To `Create`: the new instance.
    Created(Result<InstanceRecord, CloudError>),
    /// To `Destroy` and `Tag`.
    CloudDone(Result<(), CloudError>),
    /// To `Probe`.
    Probed(Result<ProbeReport, VmError>),
    /// To `Start`: the runner says that it has taken the container.
    Started(Result<(), VmError>),
    /// To `Signal`.
    Signalled(Result<SignalReport, VmError>),
}

/// A container as the queue shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Its uuid.
    pub id: ContainerId,
    /// Its state.
    pub state: ContainerState,
    /// Higher comes first; 0 means "stop it".
    pub priority: u64,
    /// Whether its lock is ours; meaningful while Locked or Running.
    pub locked_by_us: bool,
    /// How often it was locked so far.
    pub lock_count: u32,
    /// When it was submitted, by the queue's clock.
    pub created_at: Timestamp,
    /// What it needs, or what is wrong with its record (one sentence for its owner).
    pub demand: Result<Demand, String>,
}

/// The states of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ContainerState {
    /// Waits for a dispatcher.
    Queued,
    /// A dispatcher has it.
    Locked,
    /// Its runner has reported the start.
    Running,
    /// Ended, with an exit code.
    Complete,
    /// Ended without one.
    Cancelled,
}

impl ContainerState {
    /// Whether it is over.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Complete | Self::Cancelled)
    }

    /// The queue's word for it.
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

/// What a lock, unlock or cancel leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerUpdate {
    /// The state, which need not be the one asked for (an unlock may cancel).
    pub state: ContainerState,
    /// The priority.
    pub priority: u64,
    /// Whether the lock is ours.
    pub locked_by_us: bool,
}

/// Why the queue did not do it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum QueueError {
    /// It is overloaded (503, 429): ask less.
    #[error("the queue is overloaded: {0}")]
    Overloaded(String),
    /// It refused (4xx): the record is not what we thought.
    #[error("the queue refused: {0}")]
    Refused(String),
    /// It failed or was not reached; the change may have been made.
    #[error("the queue did not answer properly: {0}")]
    Unavailable(String),
}

/// An instance as the cloud shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// The cloud's name for it.
    pub id: InstanceId,
    /// Host and port of its SSH server, once it has one.
    pub address: Option<Address>,
    /// Whether the cloud says that it is gone for good.
    pub terminated: bool,
    /// Whether the cloud says that it takes it back, or has done so: not by our doing.
    #[serde(default, alias = "taken_back")]
    pub preempted: bool,
    /// What our tags say.
    pub tags: InstanceTags,
}

/// Our tags on an instance, without its secret, which stays in the adapter. Each is absent where the
/// cloud shows no such tag or one that makes no sense.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceTags {
    /// The configured type.
    pub instance_type: Option<TypeName>,
    /// What it is for.
    pub idle_behavior: Option<IdleBehavior>,
    /// The wish it was created for.
    pub intent: Option<IntentId>,
    /// The image it was booted from; the configured one where no tag tells.
    pub image: Option<ImageId>,
}

/// Why the cloud did not do it. Adapters translate, the core decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum CloudError {
    /// Too many calls of this kind.
    #[error("rate limited: {message}")]
    RateLimited {
        /// When the cloud will listen again, where it says so.
        until: Option<Timestamp>,
        /// The cloud's words.
        message: String,
    },
    /// The account may not have more in this type's quota group.
    #[error("quota exceeded: {message}")]
    Quota {
        /// The cloud's words.
        message: String,
    },
    /// The cloud itself has no more.
    #[error("no capacity: {message}")]
    Capacity {
        /// How much is affected.
        scope: CapacityScope,
        /// The cloud's words.
        message: String,
    },
    /// There is no such instance.
    #[error("no such instance: {message}")]
    NotFound {
        /// The cloud's words.
        message: String,
    },
    /// No answer, or a broken one: it may have been done.
    #[error("unknown outcome: {message}")]
    Ambiguous {
        /// What happened.
        message: String,
    },
    /// It will fail again until somebody changes something.
    #[error("refused for good: {message}")]
    Permanent {
        /// The cloud's words.
        message: String,
    },
    /// Anything else: it may work later.
    #[error("failed: {message}")]
    Transient {
        /// The cloud's words.
        message: String,
    },
}

/// How much of a cloud a shortage affects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CapacityScope {
    /// The type that was asked for.
    Type,
    /// Its quota group.
    Group,
    /// Everything of this cloud.
    All,
}

/// What a VM says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// Whether it is ready for containers: identity verified, boot probe passed, runner in place.
    /// What is missing, otherwise.
    pub ready: Result<(), String>,
    /// The runners alive on it; absent where they could not be listed.
    pub runners: Option<RunnerList>,
}

/// What a runner's `--list` says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunnerList {
    /// The VM reports itself broken.
    pub broken: bool,
    /// The VM has heard that its cloud takes it back, and when.
    #[serde(default, alias = "taken_back_at")]
    pub preempted_at: Option<Timestamp>,
    /// Each runner of our cluster, in any order.
    pub runners: Vec<RunnerStatus>,
}

/// One line of a runner's `--list`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunnerStatus {
    /// Its container.
    pub container: ContainerId,
    /// The runner itself is gone, but something still holds its lock.
    pub stale: bool,
}

/// What a signal did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SignalReport {
    /// The runner is gone, or there was none.
    Gone,
    /// It got the signal and is still there.
    Alive,
}

/// Why a VM did not do it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum VmError {
    /// No connection, or none that was still alive: nothing was done.
    #[error("not reached: {0}")]
    Unreachable(String),
    /// It could not prove that it is the instance we rented: nothing was done.
    #[error("identity not proved: {0}")]
    #[serde(alias = "Impostor")]
    IdentityMismatch(String),
    /// The command ran and failed.
    #[error("command failed: {0}")]
    Failed(String),
    /// The connection ended while the command ran: it may have been done.
    #[error("connection lost: {0}")]
    Lost(String),
}
