//! Checks of the suite.

use serde::Serialize;

/// Check of the contract, in order of execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// The cloud lists the instances of the set.
    List,
    /// No instances exist yet, or existing instances were destroyed on request; and no instance of
    /// another set is listed.
    Leftovers,
    /// An instance is created.
    Create,
    /// The new instance is listed.
    Listed,
    /// The new instance has all tags.
    Tags,
    /// A tag is changed, and all other tags stay unchanged.
    Retag,
    /// The new instance gets an address.
    Address,
    /// The secret of the instance is verified over SSH.
    Identity,
    /// The cloud confirms the host key presented by the instance.
    HostKey,
    /// The boot probe succeeds.
    BootProbe,
    /// The requested command succeeds on the instance.
    Command,
    /// The user has inspected the instance.
    Pause,
    /// The cloud returns the prices of the instance.
    Prices,
    /// A create with a used token creates no second instance.
    DuplicateToken,
    /// Instance sets are isolated from each other.
    OtherSet,
    /// Every known provider error gets the expected class and keeps the provider's message.
    ErrorClasses,
    /// The instance is destroyed.
    Destroy,
    /// The instance is terminated.
    Terminated,
    /// A repeated destroy succeeds.
    DestroyAgain,
    /// An instance with a lost create response is found and destroyed.
    LostCreate,
    /// Two instances are created and destroyed in a batch, each with its own tags.
    Batch,
    /// No instance of the set is left.
    Cleanup,
}

impl Check {
    /// All checks, in order.
    pub const ALL: [Self; 22] = [
        Self::List,
        Self::Leftovers,
        Self::Create,
        Self::Listed,
        Self::Tags,
        Self::Retag,
        Self::Address,
        Self::Identity,
        Self::HostKey,
        Self::BootProbe,
        Self::Command,
        Self::Pause,
        Self::Prices,
        Self::DuplicateToken,
        Self::OtherSet,
        Self::ErrorClasses,
        Self::Destroy,
        Self::Terminated,
        Self::DestroyAgain,
        Self::LostCreate,
        Self::Batch,
        Self::Cleanup,
    ];

    /// Short description, for a table.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::List => "list instances",
            Self::Leftovers => "no instances left from before",
            Self::Create => "create an instance",
            Self::Listed => "instance is listed",
            Self::Tags => "instance has all tags",
            Self::Retag => "change a tag",
            Self::Address => "instance gets an address",
            Self::Identity => "identity verified over SSH",
            Self::HostKey => "host key known to the cloud",
            Self::BootProbe => "boot probe",
            Self::Command => "command",
            Self::Pause => "pause",
            Self::Prices => "prices",
            Self::DuplicateToken => "duplicate create is idempotent",
            Self::OtherSet => "instance sets are isolated",
            Self::ErrorClasses => "provider errors are classified",
            Self::Destroy => "destroy the instance",
            Self::Terminated => "instance is terminated",
            Self::DestroyAgain => "repeat the destroy",
            Self::LostCreate => "create with a lost response",
            Self::Batch => "batch of two instances",
            Self::Cleanup => "cleanup",
        }
    }
}
