//! Explanations for programs; `text` holds the same for people.

use longshore_core::ids::ContainerId;
use longshore_core::resources::MicroDollars;
use longshore_core::time::Timestamp;
use longshore_core::{
    ContainerExplanation, Eligible, IneligibleType, InstanceExplanation, OnInstance, Origin,
    PendingInstance, Phase, PlannedTermination, RunnerPhase, Shortfall, ShutdownReason, StopStage,
    Unschedulable,
};
use serde::Serialize;

use super::container::EntryJson;
use super::instance::{InstanceJson, instance};
use super::types::Catalog;
use super::waiting::LimitJson;
use super::{dollars, rfc3339};
use crate::settings::ManagementSettings;

#[derive(Debug, Serialize)]
pub(crate) struct ContainerJson<'c, 'a> {
    kind: &'static str,
    /// Time of the explanation.
    at: String,
    /// Several lines for people.
    text: String,
    #[serde(flatten)]
    entry: EntryJson<'c, 'a>,
    /// Number of all waiting containers.
    waiting_in_all: usize,
    /// Phase of the runner.
    runner: Option<RunnerJson>,
    /// Reason of the last attempt's end.
    last_exit: Option<&'c str>,
    /// Eligible types, cheapest first; empty unless the container waits for room.
    eligible: Vec<EligibleJson<'c>>,
    /// Ineligible types, nearest first; empty unless the container waits for room.
    ineligible: Vec<IneligibleJson<'c>>,
}

#[derive(Debug, Serialize)]
struct RunnerJson {
    phase: &'static str,
    since: String,
}

#[derive(Debug, Serialize)]
struct EligibleJson<'c> {
    instance_type: &'c str,
    /// Dollars per hour.
    price: f64,
    /// Present for an on-demand type, used while every preemptible type fails.
    fallback: Option<FallbackJson>,
    full: usize,
    with_room: usize,
    unschedulable: usize,
    pending: Vec<PendingJson<'c>>,
    /// Limit against another create request now.
    blocked: Option<LimitJson<'c>>,
    /// Change to lift the limit.
    unblocked_by: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct FallbackJson {
    after_seconds: u64,
    /// `None` while some preemptible type does not fail.
    begins: Option<String>,
}

#[derive(Debug, Serialize)]
struct PendingJson<'c> {
    instance: &'c str,
    phase: &'static str,
    since: String,
    /// `None` without a deadline.
    due: Option<String>,
    reserved: usize,
    for_this: bool,
}

#[derive(Debug, Serialize)]
struct IneligibleJson<'c> {
    instance_type: &'c str,
    shortfalls: Vec<ShortfallJson>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "shortfall", rename_all = "snake_case")]
enum ShortfallJson {
    Lifecycle {
        preemptible: bool,
    },
    Resource {
        of: &'static str,
        need: u64,
        have: u64,
    },
    Gpu,
    Interrupted,
    /// Dollars per hour.
    Price {
        price: f64,
        cheapest: f64,
    },
}

impl<'a> Catalog<'a> {
    pub(crate) fn explain<'c>(&'c self, told: &'c ContainerExplanation) -> ContainerJson<'c, 'a> {
        ContainerJson {
            kind: "container",
            at: rfc3339(told.at),
            text: told.to_string(),
            entry: self.container(&told.container),
            waiting_in_all: told.waiting_total,
            runner: told.runner.map(|(phase, since)| RunnerJson {
                phase: runner_phase(phase),
                since: rfc3339(since),
            }),
            last_exit: told.last_exit.as_deref(),
            eligible: told.eligible.iter().map(EligibleJson::new).collect(),
            ineligible: told.ineligible.iter().map(IneligibleJson::new).collect(),
        }
    }
}

impl<'c> EligibleJson<'c> {
    fn new(eligible: &'c Eligible) -> Self {
        let blocked = eligible.blocked.as_ref();
        Self {
            instance_type: eligible.instance_type.as_str(),
            price: dollars(eligible.price),
            fallback: eligible.fallback.map(|fallback| FallbackJson {
                after_seconds: fallback.after.as_secs(),
                begins: fallback.begins.map(rfc3339),
            }),
            full: eligible.full,
            with_room: eligible.roomy,
            unschedulable: eligible.unschedulable,
            pending: eligible.pending.iter().map(PendingJson::new).collect(),
            blocked: blocked.map(LimitJson::new),
            unblocked_by: blocked.map(|blocked| blocked.remedy()),
        }
    }
}

impl<'c> PendingJson<'c> {
    fn new(arriving: &'c PendingInstance) -> Self {
        Self {
            instance: arriving.instance.as_str(),
            phase: phase(arriving.phase),
            since: rfc3339(arriving.since),
            due: (arriving.due != Timestamp::NEVER).then(|| rfc3339(arriving.due)),
            reserved: arriving.reserved,
            for_this: arriving.for_this,
        }
    }
}

impl<'c> IneligibleJson<'c> {
    fn new(other: &'c IneligibleType) -> Self {
        let shortfall = |shortfall: &Shortfall| match *shortfall {
            Shortfall::Lifecycle { preemptible } => ShortfallJson::Lifecycle { preemptible },
            Shortfall::Resource { of, need, have } => ShortfallJson::Resource {
                of: of.name(),
                need,
                have,
            },
            Shortfall::Gpu => ShortfallJson::Gpu,
            Shortfall::Interrupted => ShortfallJson::Interrupted,
            Shortfall::Price { price, cheapest } => {
                let [price, cheapest]: [f64; 2] =
                    [price, cheapest].map(|p: MicroDollars| dollars(p));
                ShortfallJson::Price { price, cheapest }
            }
        };
        Self {
            instance_type: other.instance_type.as_str(),
            shortfalls: other.shortfalls.iter().map(shortfall).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct InstanceExplanationJson<'a> {
    kind: &'static str,
    /// Time of the explanation.
    at: String,
    /// Several lines for people.
    text: String,
    #[serde(flatten)]
    instance: InstanceJson<'a>,
    /// Origin of the instance.
    origin: OriginJson,
    phase: &'static str,
    phase_since: String,
    /// Cause of the idle behavior.
    behavior_cause: String,
    behavior_since: String,
    runners: Vec<OnInstanceJson>,
    /// Containers waiting for the instance to be ready.
    reserved: &'a [ContainerId],
    /// Reason against placements on the instance.
    unschedulable: Option<&'static str>,
    termination: TerminationJson,
    /// Time of the shutdown unless a probe succeeds before.
    probe_deadline: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "origin", rename_all = "snake_case")]
enum OriginJson {
    CreatedFor { container: ContainerId, at: String },
    Found { at: String },
}

#[derive(Debug, Serialize)]
struct OnInstanceJson {
    container: ContainerId,
    phase: &'static str,
    since: String,
    /// Reason of the stop.
    stopping: Option<String>,
    /// Stage `term`, `kill` or `unkillable`.
    stop_stage: Option<&'static str>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "plan", rename_all = "snake_case")]
enum TerminationJson {
    Asked {
        until: String,
    },
    Booting {
        until: String,
    },
    Held {
        until: Option<String>,
    },
    Busy,
    Idle {
        until: String,
    },
    Draining {
        left: usize,
        until: Option<String>,
    },
    Confirming {
        reason: String,
    },
    Destroying {
        reason: Option<String>,
        attempts: u32,
        next: Option<String>,
    },
}

pub(crate) fn explain_instance<'a>(
    settings: &'a ManagementSettings,
    told: &'a InstanceExplanation,
) -> InstanceExplanationJson<'a> {
    InstanceExplanationJson {
        kind: "instance",
        at: rfc3339(told.at),
        text: told.to_string(),
        instance: instance(&settings.config, told.at, &told.instance),
        origin: match told.origin {
            Origin::CreatedFor { container, at } => OriginJson::CreatedFor {
                container,
                at: rfc3339(at),
            },
            Origin::Found { at } => OriginJson::Found { at: rfc3339(at) },
        },
        phase: phase(told.instance.phase),
        phase_since: rfc3339(told.phase_since),
        behavior_cause: told.behavior_cause.to_string(),
        behavior_since: rfc3339(told.behavior_since),
        runners: told.runners.iter().map(OnInstanceJson::new).collect(),
        reserved: &told.reserved,
        unschedulable: told.unschedulable.map(unschedulable),
        termination: TerminationJson::new(&told.termination),
        probe_deadline: told.silent_until.map(rfc3339),
    }
}

impl OnInstanceJson {
    fn new(runner: &OnInstance) -> Self {
        let stage = |stage: StopStage| match stage {
            StopStage::Term => "term",
            StopStage::Kill => "kill",
            StopStage::Unkillable => "unkillable",
        };
        let stopping = runner.stopping.as_ref();
        Self {
            container: runner.container,
            phase: runner_phase(runner.phase),
            since: rfc3339(runner.since),
            stopping: stopping.map(|(reason, _)| reason.to_string()),
            stop_stage: stopping.map(|(_, at)| stage(*at)),
        }
    }
}

impl TerminationJson {
    fn new(fate: &PlannedTermination) -> Self {
        match fate {
            PlannedTermination::Asked { until } => Self::Asked {
                until: rfc3339(*until),
            },
            PlannedTermination::Booting { until } => Self::Booting {
                until: rfc3339(*until),
            },
            PlannedTermination::Held { until } => Self::Held {
                until: until.map(rfc3339),
            },
            PlannedTermination::Busy => Self::Busy,
            PlannedTermination::Idle { until } => Self::Idle {
                until: rfc3339(*until),
            },
            PlannedTermination::Draining { left, until } => Self::Draining {
                left: *left,
                until: until.map(rfc3339),
            },
            PlannedTermination::Confirming { reason } => Self::Confirming {
                reason: reason.to_string(),
            },
            PlannedTermination::Destroying {
                reason,
                attempts,
                next,
            } => Self::Destroying {
                reason: reason.as_ref().map(ShutdownReason::to_string),
                attempts: *attempts,
                next: next.map(rfc3339),
            },
        }
    }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Creating => "creating",
        Phase::Booting => "booting",
        Phase::Unknown => "unknown",
        Phase::Ready => "ready",
        Phase::Cordoned => "cordoned",
        Phase::Shutdown => "shutdown",
    }
}

fn runner_phase(phase: RunnerPhase) -> &'static str {
    match phase {
        RunnerPhase::Assigned => "assigned",
        RunnerPhase::Starting => "starting",
        RunnerPhase::Unsure => "unsure",
        RunnerPhase::Alive => "alive",
    }
}

fn unschedulable(reason: Unschedulable) -> &'static str {
    match reason {
        Unschedulable::Held => "held",
        Unschedulable::Preempted => "preempted",
        Unschedulable::Draining => "draining",
        Unschedulable::Terminating => "terminating",
        Unschedulable::Broken => "broken",
        Unschedulable::MustReplace => "must_replace",
        Unschedulable::Quarantined => "quarantined",
        Unschedulable::Unprobed => "unprobed",
    }
}
