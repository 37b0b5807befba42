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

/// State of an instance.
///
/// The state hash follows the order of the groups and of the fields in each group.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Vm {
    pub(crate) key: VmKey,
    pub(crate) identity: Identity,
    pub(crate) phase: Phase,
    pub(crate) behavior: Behavior,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) liveness: Liveness,
    pub(crate) probe: Probe,
    pub(crate) work: Work,
    pub(crate) health: Health,
    pub(crate) vacancy: Vacancy,
    pub(crate) tag: Tag,
    pub(crate) shutdown: Shutdown,
}

/// Names, type and address of an instance.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Identity {
    pub(crate) cloud: CloudId,
    /// Name in the cloud, after the confirmation of the create.
    pub(crate) instance: Option<InstanceId>,
    pub(crate) intent: Option<IntentId>,
    pub(crate) type_name: TypeName,
    /// Configuration of the type; `None` for an unconfigured type.
    pub(crate) offer: Option<Offer>,
    pub(crate) image: ImageId,
    pub(crate) address: Option<Address>,
}

/// Idle behavior, with the cause and time of the last change.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Behavior {
    pub(crate) idle: IdleBehavior,
    pub(crate) cause: BehaviorCause,
    pub(crate) since: Timestamp,
}

/// Origin of an instance and times of the first phases.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Lifecycle {
    /// First container of the create request; `None` for an adopted instance.
    pub(crate) created_for: Option<ContainerId>,
    /// Time of the first successful probe.
    pub(crate) ready_at: Option<Timestamp>,
    /// Time of the create request or of the adoption.
    pub(crate) since: Timestamp,
    /// Time of the first confirmation by the cloud.
    pub(crate) appeared_at: Option<Timestamp>,
    /// True for an adopted instance, not created by this process.
    pub(crate) found: bool,
    /// Write-off time of a create with a lost answer, unless a list shows the instance before.
    pub(crate) write_off_at: Option<Timestamp>,
}

/// Proofs of existence, from the cloud and from probes.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Liveness {
    /// Last proof of existence.
    pub(crate) alive_at: Timestamp,
    /// Number of consecutive lists without the instance, begun after `alive_at`.
    pub(crate) absent_lists: u32,
    /// Begin of the first of `absent_lists`.
    pub(crate) absent_since: Option<Timestamp>,
}

/// Containers on an instance.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Work {
    pub(crate) runners: SmallMap<ContainerId, Runner>,
    /// Room reserved for waiting containers while the instance is pending.
    pub(crate) reserved: SmallMap<Rank, Resources>,
    pub(crate) last_container: Option<ContainerId>,
    /// Begin of the time without any runner.
    pub(crate) idle_since: Timestamp,
}

/// Conditions that keep containers away from an instance.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Health {
    /// True if the instance reports itself broken.
    pub(crate) broken: bool,
    /// Reported fault: broken, or a run lock without a runner for too long.
    pub(crate) fault: Option<String>,
    /// Time of the preemption, announced or past.
    pub(crate) preempted_at: Option<Timestamp>,
    /// Begin of the time with a run lock without a runner.
    pub(crate) stale_since: Option<Timestamp>,
    /// True after the boot outcome was counted.
    pub(crate) boot_counted: bool,
    /// True after a KILL with processes possibly left behind.
    pub(crate) must_replace: bool,
    /// Time of a failed start: no container for a while, then until a successful probe.
    pub(crate) quarantined_since: Option<Timestamp>,
    /// Number of consecutive failed starts.
    pub(crate) start_failures: u32,
}

/// Times at which room became free.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Vacancy {
    /// Time at which the instance became ready or room became free.
    pub(crate) room_since: Timestamp,
    /// End of the last runner: lists begun earlier may still show that runner.
    pub(crate) ended_at: Timestamp,
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
    pub(crate) queued_since: Option<Timestamp>,
    /// How long those before it waited for theirs, while its patience was tried.
    pub(crate) queued_for: Duration,
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

/// Progress of the termination.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Shutdown {
    /// Reason of the cordon or the shutdown.
    pub(crate) reason: Option<ShutdownReason>,
    /// Time of the cordon, or of the decision to shut down.
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
            identity: Identity {
                cloud,
                instance: None,
                intent: None,
                type_name,
                offer: offer.map(Offer::from),
                image,
                address: None,
            },
            phase: Phase::Creating,
            behavior: Behavior {
                idle: IdleBehavior::Run,
                cause: BehaviorCause::Normal,
                since: now,
            },
            lifecycle: Lifecycle {
                created_for: None,
                ready_at: None,
                since: now,
                appeared_at: None,
                found: false,
                write_off_at: None,
            },
            liveness: Liveness {
                alive_at: now,
                absent_lists: 0,
                absent_since: None,
            },
            probe: Probe::default(),
            work: Work {
                runners: SmallMap::default(),
                reserved: SmallMap::default(),
                last_container: None,
                idle_since: now,
            },
            health: Health::default(),
            vacancy: Vacancy {
                room_since: now,
                ended_at: Timestamp::EPOCH,
            },
            tag: Tag {
                written: Some(IdleBehavior::Run),
                ..Tag::default()
            },
            shutdown: Shutdown::default(),
        }
    }

    /// What runs on it, and what was promised.
    pub(crate) fn load(&self) -> Load {
        self.needs().chain(self.work.reserved.values()).collect()
    }

    /// What its runners take, as far as it is known.
    pub(crate) fn needs(&self) -> impl Iterator<Item = &Resources> {
        self.work.runners.values().filter_map(|r| r.need.as_ref())
    }

    /// Whether one more container fits.
    pub(crate) fn has_room(&self, need: &Resources, containers_max: Option<u32>) -> bool {
        self.load().has_room(need, &self.total(), containers_max)
    }

    /// Runners that exist or may exist; not places kept for one.
    pub(crate) fn live_runners(&self) -> impl Iterator<Item = (&ContainerId, &Runner)> {
        self.work
            .runners
            .iter()
            .filter(|(_, r)| r.phase != RunnerPhase::Assigned)
    }

    pub(crate) fn total(&self) -> Resources {
        self.identity
            .offer
            .as_ref()
            .map(|o| o.resources)
            .unwrap_or_default()
    }

    pub(crate) fn price(&self) -> MicroDollars {
        self.identity
            .offer
            .as_ref()
            .map(|o| o.price)
            .unwrap_or_default()
    }

    /// Whether containers may be placed on it, now or once it is ready.
    pub(crate) fn takes_containers(&self) -> bool {
        self.behavior.idle == IdleBehavior::Run
            && self.identity.offer.is_some()
            && !self.health.must_replace
            && !self.health.broken
            && self.health.preempted_at.is_none()
            && self.work.runners.values().all(|r| r.need.is_some())
            && self.health.quarantined_since.is_none()
            && self.health.stale_since.is_none()
            && match self.phase {
                Phase::Creating | Phase::Booting | Phase::Ready => true,
                // One that stays silent promises nothing.
                Phase::Unknown => self.probe.failures == 0,
                Phase::Cordoned | Phase::Shutdown => false,
            }
    }

    /// Whether it may run containers that have not been seen yet.
    pub(crate) fn unprobed(&self) -> bool {
        self.lifecycle.found && !self.probe.listed
    }

    pub(crate) fn idle(&self) -> bool {
        self.work.runners.is_empty()
    }

    /// What stood in the way of its boot, as far as it said.
    pub(crate) fn last_words(&self) -> String {
        match &self.probe.complaint {
            Some(complaint) => complaint.clone(),
            None if self.health.broken => "it reports itself broken".to_owned(),
            None => "it never answered".to_owned(),
        }
    }

    /// The name that operators know; for a wish, the wish.
    pub(crate) fn name(&self) -> VmName {
        match (&self.identity.instance, &self.identity.intent) {
            (Some(instance), _) => VmName::from(instance),
            (None, Some(intent)) => VmName::new(format!("intent {intent}")),
            (None, None) => VmName::from("unnamed"),
        }
    }

    /// Since when it has been in its phase.
    pub(crate) fn phase_since(&self) -> Timestamp {
        match self.phase {
            Phase::Creating | Phase::Unknown => self.lifecycle.since,
            Phase::Booting => self.lifecycle.appeared_at.unwrap_or(self.lifecycle.since),
            Phase::Ready => self.lifecycle.ready_at.unwrap_or(self.lifecycle.since),
            Phase::Cordoned | Phase::Shutdown => self.shutdown.since,
        }
    }
}
