//! Everything that may go out.

use serde::{Deserialize, Serialize};

use crate::ids::{
    Address, CloudId, CommandId, ContainerId, ImageId, InstanceId, IntentId, TypeName,
};
use crate::input::IdleBehavior;
use crate::time::Timestamp;

/// One thing the world should do, and answer with the same id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Quoted by the answer.
    pub id: CommandId,
    /// The core stops waiting at this time; the adapter should give up too.
    pub deadline: Timestamp,
    /// What to do.
    pub action: Action,
}

/// What to do, by whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// By the queue.
    Queue(QueueAction),
    /// By a cloud.
    Cloud {
        /// Which.
        cloud: CloudId,
        /// What.
        action: CloudAction,
    },
    /// By a VM, over SSH.
    Vm {
        /// Which cloud's.
        cloud: CloudId,
        /// Which.
        instance: InstanceId,
        /// Host and port, as the cloud last said.
        address: Address,
        /// What.
        action: VmAction,
    },
}

/// What the queue can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueueAction {
    /// Show all containers locked by us, and the Queued ones with priority above 0, highest first.
    /// Answered by [`Answer::Containers`](crate::input::Answer::Containers).
    Poll {
        /// At most so many Queued ones.
        queued_max: u32,
    },
    /// Show these, whatever their state. Those missing from the answer do not exist.
    Lookup {
        /// At most 1,000.
        ids: Vec<ContainerId>,
    },
    /// Lock it for us.
    Lock {
        /// Which.
        id: ContainerId,
    },
    /// Give it back.
    Unlock {
        /// Which.
        id: ContainerId,
    },
    /// Give it back though it is Running, since the cloud has taken back what it ran on. A queue that
    /// cannot put it into the line again ends it with these words as its error.
    Requeue {
        /// Which.
        id: ContainerId,
        /// For its owner.
        why: String,
    },
    /// End it for good.
    Cancel {
        /// Which.
        id: ContainerId,
        /// For its owner, in `runtime_status.error`; absent where the owner asked for the end.
        error: Option<String>,
    },
}

/// What a cloud can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CloudAction {
    /// Show every instance that bears our tag, all pages.
    List,
    /// Rent an instance. The adapter adds the secret and the init script.
    Create {
        /// Idempotency token and tag.
        intent: IntentId,
        /// The configured type.
        instance_type: TypeName,
        /// To boot from.
        image: ImageId,
    },
    /// Give it back. Destroying what is gone is success.
    Destroy {
        /// Which.
        instance: InstanceId,
    },
    /// Write its idle behaviour into its tag.
    Tag {
        /// Which.
        instance: InstanceId,
        /// The tag's new value.
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

/// What a VM can do. Every action first proves the VM's identity where that has not been done yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VmAction {
    /// Say how it is.
    Probe {
        /// Also run the boot probe and put the runner in place.
        boot: bool,
    },
    /// Start a container's runner.
    Start {
        /// Whose.
        container: ContainerId,
        /// The VM's configured type, which the runner is told.
        instance_type: TypeName,
    },
    /// Send a signal to a container's runner.
    Signal {
        /// Whose.
        container: ContainerId,
        /// Which.
        signal: Signal,
    },
}

/// The signals of the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Signal {
    /// Please end.
    Term,
    /// End now, with the whole process tree.
    Kill,
}

impl Signal {
    /// Its number for `--kill`.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Term => 15,
            Self::Kill => 9,
        }
    }
}
