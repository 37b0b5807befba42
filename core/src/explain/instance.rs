//! Explanation of an instance: origin, use and termination.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fleet::vm::{BehaviorCause, Phase, RunnerPhase, ShutdownReason, Vm};
use crate::ids::{ContainerId, InstanceId, VmKey};
use crate::input::IdleBehavior;
use crate::signals::{StopReason, StopStage};
use crate::time::Timestamp;
use crate::timers::TimeoutReason;
use crate::view::{InstanceView, View, describe_vm};

/// Explanation of the state of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceExplanation {
    /// Time of the explanation, by the clock of the loop.
    pub at: Timestamp,
    /// Entry of the instance in lists.
    pub instance: InstanceView,
    /// Reason of existence.
    pub origin: Origin,
    /// Start of the current phase.
    pub phase_since: Timestamp,
    /// Cause of the idle behavior.
    pub behavior_cause: BehaviorCause,
    /// Time of the last change of the idle behavior.
    pub behavior_since: Timestamp,
    /// Runners on the instance, certain or possible.
    pub runners: Vec<OnInstance>,
    /// Containers with a reservation on the pending instance.
    pub reserved: Vec<ContainerId>,
    /// Reason against placement; `None` if containers may be placed.
    #[serde(alias = "closed")]
    pub unschedulable: Option<Unschedulable>,
    /// Expected termination.
    #[serde(alias = "fate")]
    pub termination: PlannedTermination,
    /// Deadline for the next successful probe.
    pub silent_until: Option<Timestamp>,
}

/// Origin of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// Created by this process.
    CreatedFor {
        /// First container of the create request.
        container: ContainerId,
        /// Time of the create request.
        at: Timestamp,
    },
    /// Adopted: existed before this process, or appeared after the write-off of the create request.
    Found {
        /// Time of the first sight.
        at: Timestamp,
    },
}

/// Runner on an instance, or assignment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnInstance {
    /// Container of the runner.
    pub container: ContainerId,
    /// Phase of the runner.
    pub phase: RunnerPhase,
    /// Start of the phase.
    pub since: Timestamp,
    /// Reason and stage of the stop, if being stopped.
    pub stopping: Option<(StopReason, StopStage)>,
}

/// Reason against placement on an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unschedulable {
    /// Held by an operator.
    Held,
    /// Preemption announced by the cloud.
    Preempted,
    /// Being drained.
    Draining,
    /// About to terminate.
    Terminating,
    /// Reports itself broken, or holds a run lock without a runner.
    Broken,
    /// Needed KILL for a container, with processes possibly left behind.
    #[serde(alias = "Tainted")]
    MustReplace,
    /// Quarantined after a failed start, until a successful probe.
    #[serde(alias = "Suspect")]
    Quarantined,
    /// Runners not known well enough.
    #[serde(alias = "Unheard")]
    Unprobed,
}

impl Unschedulable {
    /// Text for people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Held => "held by an operator",
            Self::Preempted => "preempted by the cloud",
            Self::Draining => "draining",
            Self::Terminating => "terminating",
            Self::Broken => "reported broken, or a run lock without a runner",
            Self::MustReplace => "a container needed KILL and may have left processes behind",
            Self::Quarantined => "quarantined after a failed start, until a successful probe",
            Self::Unprobed => "runners not known well enough",
        }
    }
}

/// Expected termination of an instance, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlannedTermination {
    /// Create request without an answer from the cloud.
    Asked {
        /// Time of the write-off.
        until: Timestamp,
    },
    /// Booting, and terminated without success by the deadline.
    Booting {
        /// Deadline of the boot.
        until: Timestamp,
    },
    /// Held until a request by an operator.
    Held {
        /// Time of the announced preemption.
        until: Option<Timestamp>,
    },
    /// Kept while a container is assigned or running.
    Busy,
    /// Idle, and terminated without a new container.
    Idle {
        /// Time of the termination.
        until: Timestamp,
    },
    /// Terminated after the last runner.
    Draining {
        /// Number of runners.
        left: usize,
        /// Latest time of the termination, because of an unkillable runner or a preemption.
        until: Option<Timestamp>,
    },
    /// Terminated after a probe without runners.
    Confirming {
        /// Reason of the termination.
        reason: ShutdownReason,
    },
    /// Being destroyed.
    Destroying {
        /// Reason of the termination.
        reason: Option<ShutdownReason>,
        /// Number of attempts so far.
        attempts: u32,
        /// Time of the next attempt.
        next: Option<Timestamp>,
    },
}

impl View<'_> {
    /// Explains an instance, named by id or by create request (`intent …`), as of `now`, the time
    /// of the loop. O(containers).
    #[must_use]
    pub fn explain_instance(&self, now: Timestamp, name: &str) -> Option<InstanceExplanation> {
        let vm = self.core.fleet().get(self.find_instance(name)?)?;
        Some(InstanceExplanation {
            at: now,
            origin: match vm.lifecycle.created_for {
                Some(container) => Origin::CreatedFor {
                    container,
                    at: vm.lifecycle.since,
                },
                None => Origin::Found {
                    at: vm.lifecycle.since,
                },
            },
            phase_since: vm.phase_since(),
            behavior_cause: vm.behavior.cause.clone(),
            behavior_since: vm.behavior.since,
            runners: runners_on(vm),
            reserved: vm.work.reserved.keys().map(|rank| rank.2).collect(),
            unschedulable: unschedulable(vm),
            termination: self.termination(vm),
            silent_until: self.silent_until(vm),
            instance: describe_vm(vm),
        })
    }

    fn find_instance(&self, name: &str) -> Option<VmKey> {
        let intent = name.strip_prefix("intent ").unwrap_or(name);
        let named = self.core.fleet().named(&InstanceId::from(name));
        named.or_else(|| self.core.fleet().by_intent(intent.parse().ok()?))
    }

    fn termination(&self, vm: &Vm) -> PlannedTermination {
        let latest = [self.core.unkillable_due(vm), vm.health.preempted_at];
        let latest = latest.into_iter().flatten().min();
        match vm.phase {
            Phase::Shutdown => PlannedTermination::Destroying {
                reason: vm.shutdown.reason.clone(),
                attempts: vm.shutdown.attempts,
                next: self.core.timers().due(TimeoutReason::DestroyVm(vm.key)),
            },
            _ if vm.behavior.idle == IdleBehavior::Hold => PlannedTermination::Held {
                until: vm.health.preempted_at,
            },
            Phase::Creating => PlannedTermination::Asked {
                until: self.ready_due(vm),
            },
            Phase::Cordoned => PlannedTermination::Confirming {
                reason: vm.shutdown.reason.clone().unwrap_or(ShutdownReason::Idle),
            },
            _ if vm.behavior.idle == IdleBehavior::Drain || vm.health.must_replace => {
                PlannedTermination::Draining {
                    left: vm.live_runners().count(),
                    until: latest,
                }
            }
            _ if latest.is_some() => PlannedTermination::Draining {
                left: vm.live_runners().count(),
                until: latest,
            },
            Phase::Booting | Phase::Unknown if vm.live_runners().next().is_none() => {
                PlannedTermination::Booting {
                    until: self.ready_due(vm),
                }
            }
            Phase::Ready if vm.idle() => PlannedTermination::Idle {
                until: vm.work.idle_since + self.core.config().timeouts.idle,
            },
            _ => PlannedTermination::Busy,
        }
    }

    fn silent_until(&self, vm: &Vm) -> Option<Timestamp> {
        if vm.behavior.idle == IdleBehavior::Hold {
            return None;
        }
        if vm.phase == Phase::Unknown && vm.live_runners().next().is_some() {
            return self.core.boot_due(vm).map(|(due, _)| due);
        }
        let judged = matches!(vm.phase, Phase::Ready | Phase::Cordoned);
        // After a successful probe, the timeout counts from the next probe.
        let asked = || self.core.now() + self.core.config().timeouts.probe;
        judged.then(|| self.core.silent_due(vm).unwrap_or_else(asked))
    }
}

fn runners_on(vm: &Vm) -> Vec<OnInstance> {
    let runners = vm.work.runners.iter();
    let described = runners.map(|(id, runner)| OnInstance {
        container: *id,
        phase: runner.phase,
        since: runner.since,
        stopping: runner
            .escalation
            .as_ref()
            .map(|escalation| (escalation.reason.clone(), escalation.stage)),
    });
    described.collect()
}

fn unschedulable(vm: &Vm) -> Option<Unschedulable> {
    if vm.takes_containers() {
        return None;
    }
    Some(match vm.phase {
        Phase::Cordoned | Phase::Shutdown => Unschedulable::Terminating,
        _ if vm.health.preempted_at.is_some() => Unschedulable::Preempted,
        _ if vm.behavior.idle == IdleBehavior::Hold => Unschedulable::Held,
        _ if vm.behavior.idle == IdleBehavior::Drain => Unschedulable::Draining,
        _ if vm.health.broken || vm.health.stale_since.is_some() => Unschedulable::Broken,
        _ if vm.health.must_replace => Unschedulable::MustReplace,
        _ if vm.health.quarantined_since.is_some() => Unschedulable::Quarantined,
        _ => Unschedulable::Unprobed,
    })
}

/// Phase as a verb for people.
pub(super) fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Creating => "is requested",
        Phase::Booting => "boots",
        Phase::Unknown => "is adopted and unprobed",
        Phase::Ready => "is ready",
        Phase::Cordoned => "is cordoned",
        Phase::Shutdown => "is being destroyed",
    }
}

/// Formats times relative to a moment.
pub(super) struct RelativeTime(pub(super) Timestamp);

impl RelativeTime {
    pub(super) fn past(&self, at: Timestamp) -> String {
        format!("{} ago", span(self.0.since(at)))
    }

    pub(super) fn lasting(&self, since: Timestamp) -> String {
        format!("for {}", span(self.0.since(since)))
    }

    pub(super) fn future(&self, at: Timestamp) -> String {
        match at {
            Timestamp::NEVER => "never".to_owned(),
            at if at <= self.0 => "now".to_owned(),
            at => format!("in {}", span(at.since(self.0))),
        }
    }
}

/// Formats whole seconds in the two largest units.
fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

impl fmt::Display for InstanceExplanation {
    /// Writes several lines for people, without a line break at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ago, view) = (RelativeTime(self.at), &self.instance);
        match (&view.instance, &view.intent) {
            (Some(instance), _) => write!(f, "{instance}")?,
            (None, Some(intent)) => write!(f, "intent {intent}")?,
            (None, None) => f.write_str("unnamed")?,
        }
        write!(f, ": {}, {} an hour", view.instance_type, view.price)?;
        match &view.address {
            Some(address) => write!(f, ", at {address}")?,
            None => f.write_str(", no address yet")?,
        }
        match self.origin {
            Origin::CreatedFor { container, at } => {
                write!(f, "\ncreated for {container}, requested {}", ago.past(at))?;
            }
            Origin::Found { at } => write!(f, "\nadopted after a restart, {}", ago.past(at))?,
        }
        let phase = phase_name(view.phase);
        write!(f, "\nit {phase}, {}", ago.lasting(self.phase_since))?;
        if view.idle_behavior != IdleBehavior::Run {
            let what = match view.idle_behavior {
                IdleBehavior::Hold => "held",
                _ => "drained",
            };
            let span = ago.lasting(self.behavior_since);
            write!(f, "\n{what} {span}: {}", self.behavior_cause)?;
        }
        for runner in &self.runners {
            runner.write(f, &ago)?;
        }
        for id in &self.reserved {
            write!(f, "\n  {id} has a reservation")?;
        }
        if let Some(reason) = self.unschedulable {
            write!(f, "\nunschedulable: {}", reason.text())?;
        }
        if let Some(at) = view.preempted_at {
            write!(f, "\npreempted by the cloud: {}", ago.future(at))?;
        }
        if let Some(why) = &view.broken {
            write!(f, "\nbroken: {why}")?;
        }
        if let Some(complaint) = &view.complaint {
            write!(f, "\nlast error: {complaint}")?;
        }
        write!(f, "\n{}", self.termination.text(&ago))?;
        match self.silent_until {
            Some(at) => write!(f, "; terminated {} if unresponsive", ago.future(at)),
            None => Ok(()),
        }
    }
}

impl OnInstance {
    fn write(&self, f: &mut fmt::Formatter<'_>, ago: &RelativeTime) -> fmt::Result {
        let what = match self.phase {
            RunnerPhase::Assigned => "is assigned",
            RunnerPhase::Starting => "starts",
            RunnerPhase::Unsure => "may have been started",
            RunnerPhase::Alive => "runs",
        };
        let span = ago.lasting(self.since);
        write!(f, "\n  {} {what}, {span}", self.container)?;
        match &self.stopping {
            None => Ok(()),
            Some((reason, StopStage::Term)) => write!(f, "; stopped with TERM: {reason}"),
            Some((reason, StopStage::Kill)) => write!(f, "; stopped with KILL: {reason}"),
            Some((reason, StopStage::Unkillable)) => write!(f, "; unkillable: {reason}"),
        }
    }
}

impl PlannedTermination {
    fn text(&self, ago: &RelativeTime) -> String {
        match self {
            Self::Asked { until } => format!(
                "not confirmed by the cloud; written off {}",
                ago.future(*until)
            ),
            Self::Booting { until } => {
                format!("terminated {} if not ready", ago.future(*until))
            }
            Self::Held { until } => {
                let taken =
                    |at: &Timestamp| format!(", preempted by the cloud {}", ago.future(*at));
                let taken = until.as_ref().map(taken).unwrap_or_default();
                format!("held until an operator sets run or drain{taken}")
            }
            Self::Busy => "kept while containers are assigned or running".to_owned(),
            Self::Idle { until } => {
                format!(
                    "idle: terminated {} without a new container",
                    ago.future(*until)
                )
            }
            Self::Draining { left, until } => {
                let latest = |at: &Timestamp| format!(", {} at the latest", ago.future(*at));
                let latest = until.as_ref().map(latest).unwrap_or_default();
                format!("terminated after the last runner ({left} left){latest}")
            }
            Self::Confirming { reason } => {
                format!("terminated ({reason}) after a probe without runners")
            }
            Self::Destroying {
                reason,
                attempts,
                next,
            } => {
                let reason = reason.as_ref().map_or(String::new(), ToString::to_string);
                let next = match next {
                    Some(at) => format!("; again {}", ago.future(*at)),
                    None => String::new(),
                };
                format!("being destroyed: {reason} (attempt {attempts}{next})")
            }
        }
    }
}
