//! Why a container waits, typed and as a sentence.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::capacity::CreateBlocked;
use crate::ids::{TypeName, VmName};
use crate::time::Timestamp;

/// What a container waits for. A container that waits always has a reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WaitReason {
    /// Its priority is 0: it will not run.
    PriorityZero,
    /// This process does not know queue and clouds yet, or may not act.
    Syncing,
    /// The queue is being asked to change its record.
    Updating,
    /// The queue did not change its record; it will be asked again.
    Retry {
        /// When.
        at: Timestamp,
    },
    /// A VM is kept for it, or its runner is being started.
    Starting {
        /// Which VM.
        instance: VmName,
    },
    /// An earlier attempt must end first.
    EarlierAttempt {
        /// Where it runs.
        instance: VmName,
    },
    /// The queue does not answer, and what is known is too old to act upon.
    Queue,
    /// VMs found after a restart have not said yet what runs on them.
    Unprobed,
    /// Another dispatcher has locked it: it is that one's to run.
    LockedElsewhere,
    /// It will fit on a VM that is on its way.
    Booting {
        /// The VM's type.
        instance_type: TypeName,
        /// The VM's name, once it has one; the wish's before.
        instance: VmName,
        /// Whether the cloud has confirmed it.
        exists: bool,
    },
    /// Nothing can be created for it now: for each eligible type, why.
    CreateBlocked(Vec<(TypeName, CreateBlocked)>),
    /// No configured type will ever hold it, or its record is malformed; it will be cancelled.
    Unsatisfiable(String),
    /// It has just been seen.
    NotEvaluated,
}

impl WaitReason {
    /// What would end the wait, for an operator who asks now.
    pub(crate) fn remedy(&self, now: Timestamp, room_at: Option<Timestamp>) -> String {
        let ahead = |at: Timestamp| format!("in {} s", at.since(now).as_secs());
        match self {
            Self::PriorityZero => "a priority above 0".to_owned(),
            Self::Syncing => "the first answers of the queue and the cloud".to_owned(),
            Self::Updating => "the queue's answer".to_owned(),
            Self::Retry { at } => format!("another try {}", ahead(*at)),
            Self::Starting { instance } => format!("the runner on {instance}"),
            Self::EarlierAttempt { instance } => format!("the end of its runner on {instance}"),
            Self::Queue => "an answer of the queue".to_owned(),
            Self::Unprobed => "an answer of the VMs that were found".to_owned(),
            Self::LockedElsewhere => "an unlock by whoever locked it".to_owned(),
            Self::Booting { instance, .. } => format!("the boot of {instance}"),
            Self::CreateBlocked(blocked) => first_room(now, room_at, blocked),
            Self::Unsatisfiable(_) => "another instance type, or a smaller container".to_owned(),
            Self::NotEvaluated => "the next pass of the scheduler".to_owned(),
        }
    }

    /// The sentence for its owner; `position` counts from 1 among all that wait.
    #[must_use]
    pub fn describe(&self, position: Option<usize>) -> Description<'_> {
        Description {
            waiting: self,
            position,
        }
    }
}

/// What would unblock whoever waits for one of these.
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
            None => "instances that are given back, or a larger budget".to_owned(),
        };
    }
    if let Some(at) = blocked.iter().filter_map(|(_, why)| why.until()).min() {
        return format!("a container ends, or the next try {}", ahead(at));
    }
    let mut remedies: Vec<&str> = blocked.iter().map(|(_, why)| why.remedy()).collect();
    remedies.sort_unstable();
    remedies.dedup();
    let mut told = remedies.join(", or ");
    let full = blocked.iter().any(|(_, why)| why.ends_with_an_instance());
    match room_at.filter(|_| full) {
        Some(at) if at <= now => told.push_str("; one is being given back"),
        Some(at) => told.push_str(&format!("; one that is idle goes {}", ahead(at))),
        None => {}
    }
    told
}

/// A [`WaitReason`] as a sentence.
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
