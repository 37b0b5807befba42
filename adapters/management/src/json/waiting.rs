//! Reasons of a container's wait, for programs. Names follow the core's enums, with stable JSON
//! names.

use longshore_core::ids::TypeName;
use longshore_core::{CreateBlocked, WaitReason};
use serde::Serialize;

use super::{dollars, rfc3339};

#[derive(Debug, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub(super) enum WaitReasonJson<'c> {
    PriorityZero,
    Syncing,
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
    Unprobed,
    LockedElsewhere,
    Booting {
        instance_type: &'c str,
        instance: &'c str,
        exists: bool,
    },
    CreateBlocked {
        types: Vec<BlockedJson<'c>>,
    },
    Unsatisfiable {
        message: &'c str,
    },
    NotEvaluated,
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
    BackedOff {
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
    SerializedAfterError,
    Rate {
        until: String,
    },
    CloudRateLimited {
        until: String,
    },
}

impl<'c> WaitReasonJson<'c> {
    pub(super) fn new(waiting: &'c WaitReason) -> Self {
        match waiting {
            WaitReason::PriorityZero => Self::PriorityZero,
            WaitReason::Syncing => Self::Syncing,
            WaitReason::Updating => Self::Updating,
            WaitReason::Retry { at } => Self::Retry { at: rfc3339(*at) },
            WaitReason::Starting { instance } => Self::Starting {
                instance: instance.as_str(),
            },
            WaitReason::EarlierAttempt { instance } => Self::EarlierAttempt {
                instance: instance.as_str(),
            },
            WaitReason::Queue => Self::Queue,
            WaitReason::Unprobed => Self::Unprobed,
            WaitReason::LockedElsewhere => Self::LockedElsewhere,
            WaitReason::Booting {
                instance_type,
                instance,
                exists,
            } => Self::Booting {
                instance_type: instance_type.as_str(),
                instance: instance.as_str(),
                exists: *exists,
            },
            WaitReason::CreateBlocked(blocked) => Self::CreateBlocked {
                types: blocked.iter().map(BlockedJson::new).collect(),
            },
            WaitReason::Unsatisfiable(message) => Self::Unsatisfiable { message },
            WaitReason::NotEvaluated => Self::NotEvaluated,
        }
    }
}

impl<'c> BlockedJson<'c> {
    fn new((instance_type, blocked): &'c (TypeName, CreateBlocked)) -> Self {
        Self {
            instance_type: instance_type.as_str(),
            limit: LimitJson::new(blocked),
        }
    }
}

impl<'c> LimitJson<'c> {
    pub(super) fn new(blocked: &'c CreateBlocked) -> Self {
        match blocked {
            CreateBlocked::MaxInstances => Self::MaxInstances,
            CreateBlocked::MaxPricePerHour => Self::MaxPricePerHour,
            CreateBlocked::Budget {
                window,
                limit,
                until,
            } => Self::Budget {
                window_seconds: window.as_secs(),
                dollars: dollars(*limit),
                until: until.map(rfc3339),
            },
            CreateBlocked::Containers { max, until } => Self::MaxContainers {
                max: *max,
                until: until.map(rfc3339),
            },
            CreateBlocked::Supervisors { max } => Self::SupervisorFraction { max: *max },
            CreateBlocked::Quota { until, why } => Self::Quota {
                until: rfc3339(*until),
                message: why,
            },
            CreateBlocked::BackedOff { until, why } => Self::BackedOff {
                until: rfc3339(*until),
                message: why,
            },
            CreateBlocked::BootsFail {
                until,
                failures,
                why,
            } => Self::BootsFail {
                until: rfc3339(*until),
                failures: *failures,
                message: why,
            },
            CreateBlocked::Canary => Self::Canary,
            CreateBlocked::CreatesInFlight => Self::CreatesInFlight,
            CreateBlocked::SerializedAfterError => Self::SerializedAfterError,
            CreateBlocked::Rate { until } => Self::Rate {
                until: rfc3339(*until),
            },
            CreateBlocked::CloudRateLimited { until } => Self::CloudRateLimited {
                until: rfc3339(*until),
            },
        }
    }
}
