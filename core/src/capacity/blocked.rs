//! What may stand in the way of a container that waits for an instance.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::budgets::short;
use crate::resources::MicroDollars;
use crate::time::Timestamp;

/// Why no instance of a type is created now.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CreateBlocked {
    /// `MaxInstances` exist, wishes counted.
    MaxInstances,
    /// One more would pass `MaxPricePerHour`.
    MaxPricePerHour,
    /// One of `Budgets` is used up.
    Budget {
        /// Its span of time.
        window: Duration,
        /// Its amount.
        limit: MicroDollars,
        /// When there is room again at the latest, should nothing end before; absent if what runs
        /// now uses it up for good.
        until: Option<Timestamp>,
    },
    /// So many containers run already as the queue can bear, or as `InitialQuotaEstimate` says.
    Containers {
        /// How many may run now.
        max: u32,
        /// When it will be more, should the queue not be overloaded again.
        until: Option<Timestamp>,
    },
    /// So many supervisors run already as `SupervisorFraction` allows.
    Supervisors {
        /// How many may run now.
        max: u32,
    },
    /// The account's quota for this type's group is used up.
    Quota {
        /// When it is tried again, unless an instance of the group ends before.
        until: Timestamp,
        /// The cloud's words.
        why: String,
    },
    /// The cloud had no capacity for it, or failed to create it.
    BackedOff {
        /// When it is tried again.
        until: Timestamp,
        /// The cloud's words.
        why: String,
    },
    /// Its last boots with the container's image all failed.
    BootsFail {
        /// When one is tried again.
        until: Timestamp,
        /// How many in a row.
        failures: u32,
        /// The last complaint.
        why: String,
    },
    /// One create or boot after such a pause is under way, and decides.
    Canary,
    /// `MaxConcurrentInstanceCreateOps` are under way.
    CreatesInFlight,
    /// One is under way in its quota group, or its cloud, and an error of that quota, or of the
    /// cloud's rate, is recent.
    SerializedAfterError,
    /// A rate limit of our own.
    Rate {
        /// When there is room again.
        until: Timestamp,
    },
    /// The cloud's rate limit.
    CloudRateLimited {
        /// When it may be asked again.
        until: Timestamp,
    },
}

impl CreateBlocked {
    /// When it ends by itself, if a time is known.
    #[must_use]
    pub fn until(&self) -> Option<Timestamp> {
        match self {
            Self::Quota { until, .. }
            | Self::BackedOff { until, .. }
            | Self::BootsFail { until, .. }
            | Self::Rate { until }
            | Self::CloudRateLimited { until } => Some(*until),
            Self::Budget { until, .. } | Self::Containers { until, .. } => *until,
            _ => None,
        }
    }

    /// Whether it is no matter of seconds: what waits for its end waits for a VM that exists.
    pub(crate) fn is_lasting(&self) -> bool {
        self.room_helps()
            || matches!(
                self,
                Self::BackedOff { .. } | Self::BootsFail { .. } | Self::Budget { .. }
            )
    }

    /// What would end it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::MaxInstances => "the end of an instance, or a higher MaxInstances",
            Self::MaxPricePerHour => "the end of an instance, or a higher MaxPricePerHour",
            Self::Supervisors { .. } => "the end of another supervisor",
            Self::Containers { .. } => "the end of a container, or a minute without overload",
            Self::Budget { .. } => "room in the budget, or a larger one",
            Self::Quota { .. } => "the end of an instance that counts against it, or the next try",
            Self::Canary => "the answer to the create that tries it again",
            Self::CreatesInFlight | Self::SerializedAfterError => {
                "the answers to creates under way"
            }
            _ => "the next try",
        }
    }

    /// Whether any instance that goes makes room.
    pub(crate) fn ends_with_an_instance(&self) -> bool {
        matches!(self, Self::MaxInstances | Self::MaxPricePerHour)
    }

    /// Whether giving back an idle instance could help.
    pub(crate) fn room_helps(&self) -> bool {
        self.ends_with_an_instance() || matches!(self, Self::Quota { .. })
    }

    /// Whether it is the world that stands in the way, rather than a limit of the operator's own.
    pub(crate) fn is_external(&self) -> bool {
        matches!(
            self,
            Self::Quota { .. }
                | Self::BackedOff { .. }
                | Self::BootsFail { .. }
                | Self::Canary
                | Self::SerializedAfterError
                | Self::CloudRateLimited { .. }
        )
    }
}

impl std::fmt::Display for CreateBlocked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::MaxInstances => f.write_str("MaxInstances is reached"),
            Self::MaxPricePerHour => f.write_str("MaxPricePerHour is reached"),
            Self::Budget { window, limit, .. } => {
                let window = short(*window);
                write!(f, "the budget of {limit} in {window} is used up")
            }
            Self::Containers { max, .. } => {
                write!(
                    f,
                    "no more than {max} containers may run until it is known that the queue bears them"
                )
            }
            Self::Supervisors { max } => write!(f, "no more than {max} supervisors may run"),
            Self::Quota { why, .. } => write!(f, "at the cloud account's limit ({why})"),
            Self::BackedOff { why, .. } => write!(f, "at capacity ({why})"),
            Self::BootsFail { failures, why, .. } => {
                write!(f, "its last {failures} boots failed ({why})")
            }
            Self::Canary => f.write_str("being tried again"),
            Self::CreatesInFlight => f.write_str("other instances are being created"),
            Self::SerializedAfterError => {
                f.write_str("another instance is being created after an error")
            }
            Self::Rate { .. } => f.write_str("rate limited"),
            Self::CloudRateLimited { .. } => f.write_str("rate limited by the cloud"),
        }
    }
}
