//! Why a container waits, for programs. These names are ours and stay, whatever the core calls
//! them.

use longshore_core::ids::TypeName;
use longshore_core::{Blocked, Waiting};
use serde::Serialize;

use super::{dollars, rfc3339};

#[derive(Debug, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub(super) enum WaitingJson<'c> {
    PriorityZero,
    Learning,
    Updating,
    Retry {
        at: String,
    },
    Starting {
        instance: &'c str,
    },
    EarlierAttempt {
        instance: &'c str,
    },
    Queue,
    Unheard,
    LockedElsewhere,
    Booting {
        instance_type: &'c str,
        instance: &'c str,
        exists: bool,
    },
    Blocked {
        types: Vec<BlockedJson<'c>>,
    },
    Hopeless {
        message: &'c str,
    },
    New,
}

#[derive(Debug, Serialize)]
pub(super) struct BlockedJson<'c> {
    instance_type: &'c str,
    #[serde(flatten)]
    limit: LimitJson<'c>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "limit", rename_all = "snake_case")]
pub(super) enum LimitJson<'c> {
    MaxInstances,
    MaxPricePerHour,
    Budget {
        window_seconds: u64,
        dollars: f64,
        until: Option<String>,
    },
    MaxContainers {
        max: u32,
        until: Option<String>,
    },
    SupervisorFraction {
        max: u32,
    },
    Quota {
        until: String,
        message: &'c str,
    },
    Cooling {
        until: String,
        message: &'c str,
    },
    BootsFail {
        until: String,
        failures: u32,
        message: &'c str,
    },
    Canary,
    CreatesInFlight,
    OneByOne,
    Rate {
        until: String,
    },
    Throttled {
        until: String,
    },
}

impl<'c> WaitingJson<'c> {
    pub(super) fn new(waiting: &'c Waiting) -> Self {
        match waiting {
            Waiting::PriorityZero => Self::PriorityZero,
            Waiting::Learning => Self::Learning,
            Waiting::Updating => Self::Updating,
            Waiting::Retry { at } => Self::Retry { at: rfc3339(*at) },
            Waiting::Starting { instance } => Self::Starting {
                instance: instance.as_str(),
            },
            Waiting::EarlierAttempt { instance } => Self::EarlierAttempt {
                instance: instance.as_str(),
            },
            Waiting::Queue => Self::Queue,
            Waiting::Unheard => Self::Unheard,
            Waiting::LockedElsewhere => Self::LockedElsewhere,
            Waiting::Booting {
                instance_type,
                instance,
                exists,
            } => Self::Booting {
                instance_type: instance_type.as_str(),
                instance: instance.as_str(),
                exists: *exists,
            },
            Waiting::Blocked(blocked) => Self::Blocked {
                types: blocked.iter().map(BlockedJson::new).collect(),
            },
            Waiting::Hopeless(message) => Self::Hopeless { message },
            Waiting::New => Self::New,
        }
    }
}

impl<'c> BlockedJson<'c> {
    fn new((instance_type, blocked): &'c (TypeName, Blocked)) -> Self {
        Self {
            instance_type: instance_type.as_str(),
            limit: LimitJson::new(blocked),
        }
    }
}

impl<'c> LimitJson<'c> {
    pub(super) fn new(blocked: &'c Blocked) -> Self {
        match blocked {
            Blocked::MaxInstances => Self::MaxInstances,
            Blocked::MaxPricePerHour => Self::MaxPricePerHour,
            Blocked::Budget {
                window,
                limit,
                until,
            } => Self::Budget {
                window_seconds: window.as_secs(),
                dollars: dollars(*limit),
                until: until.map(rfc3339),
            },
            Blocked::Containers { max, until } => Self::MaxContainers {
                max: *max,
                until: until.map(rfc3339),
            },
            Blocked::Supervisors { max } => Self::SupervisorFraction { max: *max },
            Blocked::Quota { until, why } => Self::Quota {
                until: rfc3339(*until),
                message: why,
            },
            Blocked::Cooling { until, why } => Self::Cooling {
                until: rfc3339(*until),
                message: why,
            },
            Blocked::BootsFail {
                until,
                failures,
                why,
            } => Self::BootsFail {
                until: rfc3339(*until),
                failures: *failures,
                message: why,
            },
            Blocked::Canary => Self::Canary,
            Blocked::CreatesInFlight => Self::CreatesInFlight,
            Blocked::OneByOne => Self::OneByOne,
            Blocked::Rate { until } => Self::Rate {
                until: rfc3339(*until),
            },
            Blocked::Throttled { until } => Self::Throttled {
                until: rfc3339(*until),
            },
        }
    }
}
