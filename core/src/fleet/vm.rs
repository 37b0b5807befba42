//! State of an instance, from the create request to the end.

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

/// Phase of the life cycle of an instance. A gone instance is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Create request sent, not confirmed by the cloud.
    Creating,
    /// Existing, not ready yet.
    Booting,
    /// Adopted after a restart, not probed yet.
    Unknown,
    /// Available for containers.
    Ready,
    /// Cordoned: destroyed after a fresh probe without runners.
    #[serde(alias = "Fenced")]
    Cordoned,
    /// Being destroyed until gone.
    Shutdown,
}

/// Reason of the termination of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ShutdownReason {
    /// Idle for `TimeoutIdle`.
    Idle,
    /// Drained, and the last container has ended.
    Drained,
    /// Unsuitable for every waiting container, at a limit on instances.
    MakeRoom,
    /// Not ready within `TimeoutBooting`.
    BootTimeout,
    /// No successful probe for `TimeoutProbe`.
    Unresponsive,
    /// Unkillable container.
    Unkillable,
    /// Request of an operator.
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

/// Cause of the idle behavior of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BehaviorCause {
    /// Default.
    Normal,
    /// Tag of an adopted instance.
    Tag,
    /// Request of an operator.
    Operator,
    /// Fault of the instance, with the description.
    Broken(String),
    /// Type no longer configured.
    TypeRemoved,
    /// Unkillable container.
    Unkillable(ContainerId),
    /// Preemption announced by the cloud.
    #[serde(alias = "TakenBack")]
    Preempted,
}

impl std::fmt::Display for BehaviorCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Normal => f.write_str("default"),
            Self::Tag => f.write_str("tag of the adopted instance"),
            Self::Operator => f.write_str("set by an operator"),
            Self::Broken(why) => f.write_str(why),
            Self::TypeRemoved => f.write_str("its type is no longer configured"),
            Self::Unkillable(id) => write!(f, "unkillable container {id}"),
            Self::Preempted => f.write_str("preempted by the cloud"),
        }
    }
}

/// Phase of a runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RunnerPhase {
    /// Room assigned while the container is being locked.
    Assigned,
    /// Start in flight.
    Starting,
    /// Start of unknown outcome: only a fresh probe can tell.
    Unsure,
    /// Running.
    Alive,
}

/// Runner on an instance, or assignment of room.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Runner {
    pub(crate) phase: RunnerPhase,
    pub(crate) since: Timestamp,
    /// Resources; unknown for an adopted runner until the record is known.
    pub(crate) need: Option<Resources>,
    /// True for a known supervisor.
    pub(crate) supervisor: bool,
    /// A probe begun earlier cannot prove the exit of the runner.
    pub(crate) provable_from: Timestamp,
    /// Escalation of a stop; rare.
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
    /// Start of the first of `absent_lists`.
    pub(crate) absent_since: Option<Timestamp>,
}

/// Containers on an instance.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Work {
    pub(crate) runners: SmallMap<ContainerId, Runner>,
    /// Room reserved for waiting containers while the instance is pending.
    pub(crate) reserved: SmallMap<Rank, Resources>,
    pub(crate) last_container: Option<ContainerId>,
    /// Start of the time without any runner.
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
    /// Start of the time with a run lock without a runner.
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

/// Configuration of an instance type, as far as needed for an instance.
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

/// Results of probes.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Probe {
    pub(crate) in_flight: Option<CommandId>,
    /// Number of consecutive failures.
    pub(crate) failures: u32,
    /// Time of the first answer.
    pub(crate) first_contact: Option<Timestamp>,
    /// True after the first list of runners.
    pub(crate) listed: bool,
    /// Start of the latest probe with a list of runners.
    pub(crate) list_from: Timestamp,
    /// Time of the last successful probe.
    pub(crate) good_at: Option<Timestamp>,
    /// Time of the first probe sent since the last success; an instance without a probe is not
    /// unresponsive.
    pub(crate) unanswered_since: Option<Timestamp>,
    /// Start of the wait of the next probe for the rate limit.
    pub(crate) queued_since: Option<Timestamp>,
    /// Time spent by earlier probes waiting for the rate limit, while the timeout ran.
    pub(crate) queued_for: Duration,
    /// Error of the last probe.
    pub(crate) complaint: Option<String>,
}

/// Tag with the idle behavior.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Tag {
    /// Value in the cloud; unknown during a write, and after a write of unknown outcome.
    pub(crate) written: Option<IdleBehavior>,
    pub(crate) in_flight: Option<(CommandId, IdleBehavior)>,
    /// Earliest time of the next write.
    pub(crate) retry_at: Timestamp,
    /// Time of the confirmation of the last write.
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
    /// Phase before the shutdown.
    pub(crate) before: Option<Phase>,
}

impl Vm {
    /// New instance, created or adopted now.
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

    /// Resources of all runners and reservations.
    pub(crate) fn load(&self) -> Load {
        self.needs().chain(self.work.reserved.values()).collect()
    }

    /// Known resources of all runners.
    pub(crate) fn needs(&self) -> impl Iterator<Item = &Resources> {
        self.work.runners.values().filter_map(|r| r.need.as_ref())
    }

    /// True if one more container fits.
    pub(crate) fn has_room(&self, need: &Resources, containers_max: Option<u32>) -> bool {
        self.load().has_room(need, &self.total(), containers_max)
    }

    /// Runners that exist or may exist, without mere assignments.
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

    /// True if containers may be placed on the instance, now or once ready.
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
                // An unresponsive instance is not expected to become ready.
                Phase::Unknown => self.probe.failures == 0,
                Phase::Cordoned | Phase::Shutdown => false,
            }
    }

    /// True if containers unknown so far may run on the instance.
    pub(crate) fn unprobed(&self) -> bool {
        self.lifecycle.found && !self.probe.listed
    }

    pub(crate) fn idle(&self) -> bool {
        self.work.runners.is_empty()
    }

    /// Last known obstacle to the boot.
    pub(crate) fn last_words(&self) -> String {
        match &self.probe.complaint {
            Some(complaint) => complaint.clone(),
            None if self.health.broken => "it reports itself broken".to_owned(),
            None => "it never answered".to_owned(),
        }
    }

    /// Name for operators; the create request before the confirmation.
    pub(crate) fn name(&self) -> VmName {
        match (&self.identity.instance, &self.identity.intent) {
            (Some(instance), _) => VmName::from(instance),
            (None, Some(intent)) => VmName::new(format!("intent {intent}")),
            (None, None) => VmName::from("unnamed"),
        }
    }

    /// Start of the current phase.
    pub(crate) fn phase_since(&self) -> Timestamp {
        match self.phase {
            Phase::Creating | Phase::Unknown => self.lifecycle.since,
            Phase::Booting => self.lifecycle.appeared_at.unwrap_or(self.lifecycle.since),
            Phase::Ready => self.lifecycle.ready_at.unwrap_or(self.lifecycle.since),
            Phase::Cordoned | Phase::Shutdown => self.shutdown.since,
        }
    }
}
