//! One instance, from the wish to its end.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::load::Load;
use super::small_map::SmallMap;
use crate::config::InstanceType;
use crate::ids::{
    Address, CloudId, CommandId, ContainerId, ImageId, InstanceId, IntentId, TypeName, VmKey,
    VmName,
};
use crate::input::IdleBehavior;
use crate::queue::classes::Rank;
use crate::resources::{MicroDollars, Resources};
use crate::signals::StopEscalation;
use crate::time::Timestamp;

/// Where an instance is in its life. It is forgotten when it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Asked for, not yet confirmed by the cloud.
    Creating,
    /// Exists, not yet ready.
    Booting,
    /// Found after a restart, not yet heard.
    Unknown,
    /// Takes containers.
    Ready,
    /// About to be destroyed, as soon as a fresh probe confirms that nothing runs.
    #[serde(alias = "Fenced")]
    Cordoned,
    /// To be destroyed until it is gone.
    Shutdown,
}

/// Why an instance is given back.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ShutdownReason {
    /// It was idle for `TimeoutIdle`.
    Idle,
    /// It was drained and its last container has ended.
    Drained,
    /// It fits nothing that waits, and the limit on instances is reached.
    MakeRoom,
    /// It was not ready within `TimeoutBooting`.
    BootTimeout,
    /// It did not answer for `TimeoutProbe`.
    Unresponsive,
    /// What runs on it could not be killed.
    Unkillable,
    /// An operator said so.
    Operator(String),
}

impl std::fmt::Display for ShutdownReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Idle => f.write_str("idle"),
            Self::Drained => f.write_str("drained"),
            Self::MakeRoom => f.write_str("makes room for what waits"),
            Self::BootTimeout => f.write_str("not ready within TimeoutBooting"),
            Self::Unresponsive => f.write_str("no answer for TimeoutProbe"),
            Self::Unkillable => f.write_str("a container on it could not be killed"),
            Self::Operator(reason) => write!(f, "killed by the operator: {reason}"),
        }
    }
}

/// Why an instance is used as it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BehaviorCause {
    /// Nothing was ever said against it.
    Normal,
    /// Its tag said so when it was found.
    Tag,
    /// An operator said so.
    Operator,
    /// It cannot be trusted, and why.
    Broken(String),
    /// Its type is no longer configured.
    TypeRemoved,
    /// This container on it could not be killed.
    Unkillable(ContainerId),
    /// The cloud has announced that it takes it back.
    #[serde(alias = "TakenBack")]
    Preempted,
}

impl std::fmt::Display for BehaviorCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Normal => f.write_str("nothing speaks against it"),
            Self::Tag => f.write_str("its tag said so when it was found"),
            Self::Operator => f.write_str("an operator said so"),
            Self::Broken(why) => f.write_str(why),
            Self::TypeRemoved => f.write_str("its type is no longer configured"),
            Self::Unkillable(id) => write!(f, "{id} on it could not be killed"),
            Self::Preempted => f.write_str("the cloud takes it back"),
        }
    }
}

/// How far a runner is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RunnerPhase {
    /// The VM is kept for it while its container is being locked.
    Assigned,
    /// The start is under way.
    Starting,
    /// Nobody knows whether it was started: only a fresh probe can tell.
    Unsure,
    /// It runs.
    Alive,
}

/// A container's runner on a VM, or the place kept for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Runner {
    pub(crate) phase: RunnerPhase,
    pub(crate) since: Timestamp,
    /// What it takes; unknown for one that was found, until its record is there.
    pub(crate) need: Option<Resources>,
    /// Its container waits for others, as far as its record is known.
    pub(crate) supervisor: bool,
    /// A probe that began before this cannot prove that it is gone.
    pub(crate) provable_from: Timestamp,
    /// How far it is on its way down; few ever are.
    pub(crate) escalation: Option<Box<StopEscalation>>,
}

/// An instance.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Vm {
    pub(crate) key: VmKey,
    pub(crate) cloud: CloudId,
    pub(crate) instance: Option<InstanceId>,
    pub(crate) intent: Option<IntentId>,
    pub(crate) type_name: TypeName,
    /// `None` where the type is not configured (any more).
    pub(crate) offer: Option<Offer>,
    pub(crate) image: ImageId,
    pub(crate) address: Option<Address>,
    pub(crate) phase: Phase,
    pub(crate) behavior: IdleBehavior,
    pub(crate) behavior_cause: BehaviorCause,
    pub(crate) behavior_since: Timestamp,
    /// The first container that it was asked for; none for one that was found.
    pub(crate) created_for: Option<ContainerId>,
    /// When it became ready for containers.
    pub(crate) ready_at: Option<Timestamp>,
    /// The wish was sent, or the instance was found.
    pub(crate) since: Timestamp,
    /// The cloud first showed it.
    pub(crate) appeared_at: Option<Timestamp>,
    /// It was found rather than created by this process.
    pub(crate) found: bool,
    /// A create whose answer was lost: written off at this time, unless a list shows it.
    pub(crate) write_off_at: Option<Timestamp>,
    /// Its last proof of being there, from the cloud or itself.
    pub(crate) alive_at: Timestamp,
    /// Lists in a row that began after that and lacked it.
    pub(crate) absent_lists: u32,
    /// When the first of them began.
    pub(crate) absent_since: Option<Timestamp>,
    pub(crate) probe: Probe,
    pub(crate) runners: SmallMap<ContainerId, Runner>,
    /// Room that waiting containers were promised while it is on its way.
    pub(crate) reserved: SmallMap<Rank, Resources>,
    /// The last container that was on it.
    pub(crate) last_container: Option<ContainerId>,
    /// No container, nor a place kept for one, since then.
    pub(crate) idle_since: Timestamp,
    /// It reports itself broken.
    pub(crate) broken: bool,
    /// Why it cannot be trusted, once that was told: it reports itself broken, or a lock on it has
    /// had no runner for too long.
    pub(crate) fault: Option<String>,
    /// The cloud has announced that it takes it back then, or has said that it did.
    pub(crate) preempted_at: Option<Timestamp>,
    /// A lock without a runner, since then.
    pub(crate) stale_since: Option<Timestamp>,
    /// Whether a boot outcome was counted.
    pub(crate) boot_counted: bool,
    /// KILL was needed and may have left something behind.
    pub(crate) must_replace: bool,
    /// A start failed on it then: it takes no more for a while, and until a probe succeeds.
    pub(crate) quarantined_since: Option<Timestamp>,
    /// Starts that failed, in a row.
    pub(crate) start_failures: u32,
    /// It became ready, or room on it became free.
    pub(crate) room_since: Timestamp,
    /// When the last runner on it ended: lists that began earlier may still show that one.
    pub(crate) ended_at: Timestamp,
    pub(crate) tag: Tag,
    /// Why it is fenced or shut down.
    pub(crate) terminating: Option<ShutdownReason>,
    pub(crate) shutdown: Shutdown,
}

/// What the configuration says of a VM's type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Offer {
    pub(crate) resources: Resources,
    pub(crate) price: MicroDollars,
    pub(crate) preemptible: bool,
    pub(crate) quota_group: crate::ids::QuotaGroup,
}

impl From<&InstanceType> for Offer {
    fn from(configured: &InstanceType) -> Self {
        Self {
            resources: configured.resources,
            price: configured.price,
            preemptible: configured.preemptible,
            quota_group: configured.quota_group.clone(),
        }
    }
}

/// What probes have told.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Probe {
    pub(crate) in_flight: Option<CommandId>,
    /// Failures in a row.
    pub(crate) failures: u32,
    /// When the first one got through.
    pub(crate) first_contact: Option<Timestamp>,
    /// Its runners were listed at least once.
    pub(crate) listed: bool,
    /// When the newest one began that listed its runners.
    pub(crate) list_from: Timestamp,
    /// When the last good one was answered.
    pub(crate) good_at: Option<Timestamp>,
    /// When the first one left after that: whoever is not asked is not silent.
    pub(crate) unanswered_since: Option<Timestamp>,
    /// Since when the next one waits for its turn.
    pub(crate) kept_since: Option<Timestamp>,
    /// How long those before it waited for theirs, while its patience was tried.
    pub(crate) kept_for: Duration,
    /// Last complaint.
    pub(crate) complaint: Option<String>,
}

/// What the cloud's tag says of the idle behaviour.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Tag {
    /// Unknown while a write is under way, and after one that may or may not have been made.
    pub(crate) written: Option<IdleBehavior>,
    pub(crate) in_flight: Option<(CommandId, IdleBehavior)>,
    /// Not to be tried again before this.
    pub(crate) retry_at: Timestamp,
    /// When the cloud confirmed the last write.
    pub(crate) confirmed_at: Timestamp,
}

/// How far the end is.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Shutdown {
    /// When it was fenced, or its end was decided.
    pub(crate) since: Timestamp,
    pub(crate) in_flight: Option<CommandId>,
    pub(crate) attempts: u32,
    /// Where it was in its life when its end was decided.
    pub(crate) before: Option<Phase>,
}

impl Vm {
    /// One that is asked for or was found just now; everything else is still to be learned.
    pub(crate) fn new(
        now: Timestamp,
        key: VmKey,
        cloud: CloudId,
        type_name: TypeName,
        offer: Option<&InstanceType>,
        image: ImageId,
    ) -> Self {
        Self {
            key,
            cloud,
            instance: None,
            intent: None,
            type_name,
            offer: offer.map(Offer::from),
            image,
            address: None,
            phase: Phase::Creating,
            behavior: IdleBehavior::Run,
            behavior_cause: BehaviorCause::Normal,
            behavior_since: now,
            created_for: None,
            ready_at: None,
            since: now,
            appeared_at: None,
            found: false,
            write_off_at: None,
            alive_at: now,
            absent_lists: 0,
            absent_since: None,
            probe: Probe::default(),
            runners: SmallMap::default(),
            reserved: SmallMap::default(),
            last_container: None,
            idle_since: now,
            broken: false,
            fault: None,
            preempted_at: None,
            stale_since: None,
            boot_counted: false,
            must_replace: false,
            quarantined_since: None,
            start_failures: 0,
            room_since: now,
            ended_at: Timestamp::EPOCH,
            tag: Tag {
                written: Some(IdleBehavior::Run),
                ..Tag::default()
            },
            terminating: None,
            shutdown: Shutdown::default(),
        }
    }

    /// What runs on it, and what was promised.
    pub(crate) fn load(&self) -> Load {
        self.needs().chain(self.reserved.values()).collect()
    }

    /// What its runners take, as far as it is known.
    pub(crate) fn needs(&self) -> impl Iterator<Item = &Resources> {
        self.runners.values().filter_map(|r| r.need.as_ref())
    }

    /// Whether one more container fits.
    pub(crate) fn has_room(&self, need: &Resources, containers_max: Option<u32>) -> bool {
        self.load().has_room(need, &self.total(), containers_max)
    }

    /// Runners that exist or may exist; not places kept for one.
    pub(crate) fn live_runners(&self) -> impl Iterator<Item = (&ContainerId, &Runner)> {
        self.runners
            .iter()
            .filter(|(_, r)| r.phase != RunnerPhase::Assigned)
    }

    pub(crate) fn total(&self) -> Resources {
        self.offer.as_ref().map(|o| o.resources).unwrap_or_default()
    }

    pub(crate) fn price(&self) -> MicroDollars {
        self.offer.as_ref().map(|o| o.price).unwrap_or_default()
    }

    /// Whether containers may be placed on it, now or once it is ready.
    pub(crate) fn takes_containers(&self) -> bool {
        self.behavior == IdleBehavior::Run
            && self.offer.is_some()
            && !self.must_replace
            && !self.broken
            && self.preempted_at.is_none()
            && self.runners.values().all(|r| r.need.is_some())
            && self.quarantined_since.is_none()
            && self.stale_since.is_none()
            && match self.phase {
                Phase::Creating | Phase::Booting | Phase::Ready => true,
                // One that stays silent promises nothing.
                Phase::Unknown => self.probe.failures == 0,
                Phase::Cordoned | Phase::Shutdown => false,
            }
    }

    /// Whether it may run containers that have not been seen yet.
    pub(crate) fn unprobed(&self) -> bool {
        self.found && !self.probe.listed
    }

    pub(crate) fn idle(&self) -> bool {
        self.runners.is_empty()
    }

    /// What stood in the way of its boot, as far as it said.
    pub(crate) fn last_words(&self) -> String {
        match &self.probe.complaint {
            Some(complaint) => complaint.clone(),
            None if self.broken => "it reports itself broken".to_owned(),
            None => "it never answered".to_owned(),
        }
    }

    /// The name that operators know; for a wish, the wish.
    pub(crate) fn name(&self) -> VmName {
        match (&self.instance, &self.intent) {
            (Some(instance), _) => VmName::from(instance),
            (None, Some(intent)) => VmName::new(format!("intent {intent}")),
            (None, None) => VmName::from("unnamed"),
        }
    }

    /// Since when it has been in its phase.
    pub(crate) fn phase_since(&self) -> Timestamp {
        match self.phase {
            Phase::Creating | Phase::Unknown => self.since,
            Phase::Booting => self.appeared_at.unwrap_or(self.since),
            Phase::Ready => self.ready_at.unwrap_or(self.since),
            Phase::Cordoned | Phase::Shutdown => self.shutdown.since,
        }
    }
}
