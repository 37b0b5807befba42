//! Obstacles to the creation of instances.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::budgets::short;
use crate::resources::MicroDollars;
use crate::time::Timestamp;

/// Obstacle to the creation of an instance of a type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CreateBlocked {
    /// `MaxInstances` reached, create requests included.
    MaxInstances,
    /// One more instance would exceed `MaxPricePerHour`.
    MaxPricePerHour,
    /// A budget of `Budgets` is used up.
    Budget {
        /// Window of the budget.
        window: Duration,
        /// Amount of the budget.
        limit: MicroDollars,
        /// Latest time at which the budget has room again, even if no instance ends; absent if the
        /// running instances use up the budget for good.
        until: Option<Timestamp>,
    },
    /// Concurrency limit of containers reached, because of an overloaded queue or
    /// `InitialQuotaEstimate`.
    Containers {
        /// Current limit.
        max: u32,
        /// Time of the next increase, without another overload.
        until: Option<Timestamp>,
    },
    /// Limit of `SupervisorFraction` reached.
    Supervisors {
        /// Current limit.
        max: u32,
    },
    /// Quota of the group of the type reached.
    Quota {
        /// Time of the next try, unless an instance of the group ends before.
        until: Timestamp,
        /// Error of the cloud.
        why: String,
    },
    /// Backed off after missing capacity or a failed create.
    BackedOff {
        /// Time of the next try.
        until: Timestamp,
        /// Error of the cloud.
        why: String,
    },
    /// Backed off after failed boots with the image of the container.
    BootsFail {
        /// Time of the next try.
        until: Timestamp,
        /// Number of consecutive failed boots.
        failures: u32,
        /// Last error.
        why: String,
    },
    /// Canary in flight after a back-off.
    Canary,
    /// `MaxConcurrentInstanceCreateOps` reached.
    CreatesInFlight,
    /// Another create in flight in the quota group or the cloud, soon after a quota or rate error.
    SerializedAfterError,
    /// Configured rate limit.
    Rate {
        /// Time of the next token.
        until: Timestamp,
    },
    /// Rate limit of the cloud.
    CloudRateLimited {
        /// Time of the next call.
        until: Timestamp,
    },
}

impl CreateBlocked {
    /// End of the obstacle, if known.
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

    /// True if the obstacle lasts longer than seconds, so that a container waits for an existing
    /// instance.
    pub(crate) fn is_lasting(&self) -> bool {
        self.room_helps()
            || matches!(
                self,
                Self::BackedOff { .. } | Self::BootsFail { .. } | Self::Budget { .. }
            )
    }

    /// Event that would end the obstacle.
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

    /// True if the end of any instance makes room.
    pub(crate) fn ends_with_an_instance(&self) -> bool {
        matches!(self, Self::MaxInstances | Self::MaxPricePerHour)
    }

    /// True if the termination of an idle instance may help.
    pub(crate) fn room_helps(&self) -> bool {
        self.ends_with_an_instance() || matches!(self, Self::Quota { .. })
    }

    /// True for an obstacle outside of the operator's limits.
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
