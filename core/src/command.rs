//! Commands of the core: requests to the queue, clouds and VMs.

use serde::{Deserialize, Serialize};

use crate::ids::{
    Address, CloudId, CommandId, ContainerId, ImageId, InstanceId, IntentId, TypeName,
};
use crate::input::IdleBehavior;
use crate::time::Timestamp;

/// Request to an adapter, answered with the same id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Id quoted by the answer.
    pub id: CommandId,
    /// Time at which the core gives up waiting; the adapter should give up too.
    pub deadline: Timestamp,
    /// Requested action.
    pub action: Action,
}

/// Actions by executor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Action of the queue.
    Queue(QueueAction),
    /// Action of a cloud.
    Cloud {
        /// Target cloud.
        cloud: CloudId,
        /// Requested action.
        action: CloudAction,
    },
    /// Action of a VM, over SSH.
    Vm {
        /// Cloud of the VM.
        cloud: CloudId,
        /// Target instance.
        instance: InstanceId,
        /// Host and port from the latest list.
        address: Address,
        /// Requested action.
        action: VmAction,
    },
}

/// Actions of the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueueAction {
    /// Return all containers locked by this dispatcher, and Queued containers with priority above
    /// 0, highest first. Answered by [`Answer::Containers`](crate::input::Answer::Containers).
    Poll {
        /// Maximum number of Queued containers.
        queued_max: u32,
    },
    /// Return the given containers in any state. Containers missing from the answer do not exist.
    Lookup {
        /// At most 1,000 ids.
        ids: Vec<ContainerId>,
    },
    /// Lock a container for this dispatcher.
    Lock {
        /// Target container.
        id: ContainerId,
    },
    /// Unlock a container.
    Unlock {
        /// Target container.
        id: ContainerId,
    },
    /// Return a Running container to the queue after the preemption of its instance. A queue
    /// without this call cancels the container with `why` as its error.
    Requeue {
        /// Target container.
        id: ContainerId,
        /// Reason, for the container's owner.
        why: String,
    },
    /// Cancel a container for good.
    Cancel {
        /// Target container.
        id: ContainerId,
        /// Reason for the owner, in `runtime_status.error`; `None` if the owner asked for the end.
        error: Option<String>,
    },
}

/// Actions of a cloud.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CloudAction {
    /// Return every instance with the tag of the instance set, all pages.
    List,
    /// Rent an instance. The adapter adds the secret and the init script.
    Create {
        /// Idempotency token and tag.
        intent: IntentId,
        /// Configured type.
        instance_type: TypeName,
        /// Boot image.
        image: ImageId,
    },
    /// Destroy an instance. Destroying a missing instance is success.
    Destroy {
        /// Target instance.
        instance: InstanceId,
    },
    /// Write the idle behavior into the instance's tag.
    Tag {
        /// Target instance.
        instance: InstanceId,
        /// New value of the tag.
        idle_behavior: IdleBehavior,
    },
}

/// Kind of call to a cloud, with a rate limit of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CloudCall {
    /// Creates an instance.
    Create,
    /// Destroys an instance.
    Destroy,
    /// Lists all instances.
    List,
    /// Writes the tags of an instance.
    SetTags,
}

impl CloudCall {
    /// Label of the peer's metric.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "Create",
            Self::Destroy => "Destroy",
            Self::List => "List",
            Self::SetTags => "SetTags",
        }
    }
}

/// Actions of a VM. Every action starts with a proof of the VM's identity unless the connection has
/// one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VmAction {
    /// Report readiness and runners.
    Probe {
        /// True to run the boot probe and install the runner as well.
        boot: bool,
    },
    /// Start a container's runner.
    Start {
        /// Container to start.
        container: ContainerId,
        /// Configured type of the instance, passed to the runner.
        instance_type: TypeName,
    },
    /// Send a signal to a container's runner.
    Signal {
        /// Container of the runner.
        container: ContainerId,
        /// Signal to send.
        signal: Signal,
    },
}

/// Signals of the stop escalation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Signal {
    /// Request to end.
    Term,
    /// Immediate end of the whole process tree.
    Kill,
}

impl Signal {
    /// Number of the signal for `--kill`.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Term => 15,
            Self::Kill => 9,
        }
    }
}
