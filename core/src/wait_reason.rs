//! Reasons of waiting containers, typed and as a sentence.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::capacity::CreateBlocked;
use crate::ids::{TypeName, VmName};
use crate::time::Timestamp;

/// Reason of the wait of a container; always known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WaitReason {
    /// Priority 0: will not run.
    PriorityZero,
    /// Queue and clouds not known completely yet, or not the leader.
    Syncing,
    /// Update of the record in flight.
    Updating,
    /// Update of the record failed, to be retried.
    Retry {
        /// Time of the retry.
        at: Timestamp,
    },
    /// Assigned to an instance, or runner being started.
    Starting {
        /// Chosen instance.
        instance: VmName,
    },
    /// Earlier attempt still running.
    EarlierAttempt {
        /// Instance of the earlier attempt.
        instance: VmName,
    },
    /// Queue unreachable, and the known state is too old.
    Queue,
    /// Adopted instances not probed yet after a restart.
    Unprobed,
    /// Locked by another dispatcher.
    LockedElsewhere,
    /// Reservation on a pending instance.
    Booting {
        /// Type of the pending instance.
        instance_type: TypeName,
        /// Name of the instance, or of the create request before the confirmation.
        instance: VmName,
        /// True after the confirmation by the cloud.
        exists: bool,
    },
    /// No instance can be created now: obstacle for each eligible type.
    CreateBlocked(Vec<(TypeName, CreateBlocked)>),
    /// No configured type can hold the container, or the record is malformed: to be cancelled.
    Unsatisfiable(String),
    /// Seen, and not evaluated by placement yet.
    NotEvaluated,
}

impl WaitReason {
    /// Event that would end the wait, as of `now`.
    pub(crate) fn remedy(&self, now: Timestamp, room_at: Option<Timestamp>) -> String {
        let ahead = |at: Timestamp| format!("in {} s", at.since(now).as_secs());
        match self {
            Self::PriorityZero => "a priority above 0".to_owned(),
            Self::Syncing => "the first complete answers of the queue and the clouds".to_owned(),
            Self::Updating => "the queue's answer".to_owned(),
            Self::Retry { at } => format!("another try {}", ahead(*at)),
            Self::Starting { instance } => format!("the start of the runner on {instance}"),
            Self::EarlierAttempt { instance } => {
                format!("the end of the earlier runner on {instance}")
            }
            Self::Queue => "an answer of the queue".to_owned(),
            Self::Unprobed => "probes of the adopted instances".to_owned(),
            Self::LockedElsewhere => "an unlock by the other dispatcher".to_owned(),
            Self::Booting { instance, .. } => format!("the boot of {instance}"),
            Self::CreateBlocked(blocked) => first_room(now, room_at, blocked),
            Self::Unsatisfiable(_) => "another instance type, or a smaller container".to_owned(),
            Self::NotEvaluated => "the next placement pass".to_owned(),
        }
    }

    /// Sentence for the owner; `position` counts from 1 among all waiting containers.
    #[must_use]
    pub fn describe(&self, position: Option<usize>) -> Description<'_> {
        Description {
            waiting: self,
            position,
        }
    }
}

/// Event that would remove any of the obstacles.
fn first_room(
    now: Timestamp,
    room_at: Option<Timestamp>,
    blocked: &[(TypeName, CreateBlocked)],
) -> String {
    let ahead = |at: Timestamp| format!("in {} s", at.since(now).as_secs());
    let budget = |(_, why): &(TypeName, CreateBlocked)| match why {
        CreateBlocked::Budget { until, .. } => Some(*until),
        _ => None,
    };
    if let Some(until) = blocked.iter().find_map(budget) {
        return match until {
            Some(at) => format!("room in the budget, expected {} at the latest", ahead(at)),
            None => "the end of instances, or a larger budget".to_owned(),
        };
    }
    if let Some(at) = blocked.iter().filter_map(|(_, why)| why.until()).min() {
        return format!("a container ends, or the next try {}", ahead(at));
    }
    let mut remedies: Vec<&str> = blocked.iter().map(|(_, why)| why.remedy()).collect();
    remedies.sort_unstable();
    remedies.dedup();
    let mut text = remedies.join(", or ");
    let full = blocked.iter().any(|(_, why)| why.ends_with_an_instance());
    match room_at.filter(|_| full) {
        Some(at) if at <= now => text.push_str("; one is terminating"),
        Some(at) => text.push_str(&format!("; an idle instance terminates {}", ahead(at))),
        None => {}
    }
    text
}

/// Displays a [`WaitReason`] as a sentence.
#[derive(Debug)]
pub struct Description<'a> {
    waiting: &'a WaitReason,
    position: Option<usize>,
}

impl fmt::Display for Description<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.waiting {
            WaitReason::PriorityZero => {
                f.write_str("This container will not run: its priority is 0.")
            }
            WaitReason::Syncing => f.write_str("Waiting for the dispatcher to get an overview."),
            WaitReason::Updating | WaitReason::NotEvaluated => f.write_str("Waiting in queue."),
            WaitReason::Retry { .. } => {
                f.write_str("Waiting in queue: the last update of its record failed.")
            }
            WaitReason::Starting { .. } => {
                f.write_str("Container is allocated to an instance and preparing to run.")
            }
            WaitReason::EarlierAttempt { .. } => {
                f.write_str("Waiting for the previous attempt to exit.")
            }
            WaitReason::Queue => f.write_str("Waiting for the queue to answer."),
            WaitReason::Unprobed => {
                f.write_str("Waiting for instances found at start to report what runs on them.")
            }
            WaitReason::LockedElsewhere => f.write_str("Locked by another dispatcher."),
            WaitReason::Booting { instance_type, .. } => {
                write!(f, "Waiting for a {instance_type} instance to boot.")
            }
            WaitReason::Unsatisfiable(why) => write!(f, "Will be cancelled: {why}."),
            WaitReason::CreateBlocked(blocked) => self.fmt_blocked(f, blocked),
        }
    }
}

impl Description<'_> {
    fn fmt_blocked(
        &self,
        f: &mut fmt::Formatter<'_>,
        blocked: &[(TypeName, CreateBlocked)],
    ) -> fmt::Result {
        let supervisors = match blocked.first() {
            Some((_, CreateBlocked::Supervisors { max })) => Some(*max),
            _ => None,
        };
        let queue = supervisors.map_or("queue", |_| "workflow queue");
        match self.position {
            Some(position) => write!(f, "Waiting in {queue} at position {position}")?,
            None => write!(f, "Waiting in {queue}")?,
        }
        if let Some(max) = supervisors {
            return write!(f, ": no more than {max} workflows may run.");
        }
        let all = |test: fn(&CreateBlocked) -> bool| blocked.iter().all(|(_, why)| test(why));
        let names: Vec<&str> = blocked.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(", ");
        if all(|why| matches!(why, CreateBlocked::BackedOff { .. } | CreateBlocked::Canary)) {
            write!(
                f,
                ": all eligible instance types ({names}) are at capacity."
            )
        } else if all(|why| matches!(why, CreateBlocked::BootsFail { .. })) {
            let boot_breaker = blocked.first().map(|(_, why)| why.to_string());
            let why = boot_breaker.unwrap_or_default();
            write!(f, ": instances of type {names} do not boot: {why}.")
        } else if all(|why| matches!(why, CreateBlocked::Quota { .. })) {
            f.write_str(": the cloud account's limits are reached.")
        } else if all(|why| matches!(why, CreateBlocked::MaxInstances)) {
            f.write_str(": the cluster is at its capacity.")
        } else if all(|why| matches!(why, CreateBlocked::MaxPricePerHour)) {
            f.write_str(": the spending limit is reached.")
        } else if let Some((_, why @ CreateBlocked::Budget { .. })) = blocked.first()
            && all(|why| matches!(why, CreateBlocked::Budget { .. }))
        {
            write!(f, ": {why}.")
        } else if let Some((_, why @ CreateBlocked::Containers { .. })) = blocked.first() {
            write!(f, ": {why}.")
        } else {
            let each = blocked.iter().map(|(name, why)| format!("{name}: {why}"));
            write!(f, " ({}).", each.collect::<Vec<_>>().join("; "))
        }
    }
}
