//! Why something is as it is, for programs; the same for people stands under `text`.

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
    /// When this was true.
    at: String,
    /// For people: several lines.
    text: String,
    #[serde(flatten)]
    entry: EntryJson<'c, 'a>,
    /// How many wait in all.
    waiting_in_all: usize,
    /// How far its runner is.
    runner: Option<RunnerJson>,
    /// Why its last attempt ended.
    last_exit: Option<&'c str>,
    /// Cheapest first; empty unless it waits for room.
    eligible: Vec<EligibleJson<'c>>,
    /// Nearest first; empty unless it waits for room.
    ruled_out: Vec<RuledOutJson<'c>>,
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
    /// It is not preemptible, and to be used while everything that is fails.
    fallback: Option<FallbackJson>,
    full: usize,
    roomy: usize,
    closed: usize,
    arriving: Vec<ArrivingJson<'c>>,
    /// Why no further one is created now.
    blocked: Option<LimitJson<'c>>,
    /// What would end that.
    unblocked_by: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct FallbackJson {
    after_seconds: u64,
    /// `None` while one of the preemptible types does not fail.
    begins: Option<String>,
}

#[derive(Debug, Serialize)]
struct ArrivingJson<'c> {
    instance: &'c str,
    phase: &'static str,
    since: String,
    /// `None` where it is never given up.
    due: Option<String>,
    promised: usize,
    for_this: bool,
}

#[derive(Debug, Serialize)]
struct RuledOutJson<'c> {
    instance_type: &'c str,
    lacks: Vec<LackJson>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "lack", rename_all = "snake_case")]
enum LackJson {
    Lifecycle {
        preemptible: bool,
    },
    ResourceKind {
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
            ruled_out: told.ineligible.iter().map(RuledOutJson::new).collect(),
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
            roomy: eligible.roomy,
            closed: eligible.unschedulable,
            arriving: eligible.pending.iter().map(ArrivingJson::new).collect(),
            blocked: blocked.map(LimitJson::new),
            unblocked_by: blocked.map(|blocked| blocked.remedy()),
        }
    }
}

impl<'c> ArrivingJson<'c> {
    fn new(arriving: &'c PendingInstance) -> Self {
        Self {
            instance: arriving.instance.as_str(),
            phase: phase(arriving.phase),
            since: rfc3339(arriving.since),
            due: (arriving.due != Timestamp::NEVER).then(|| rfc3339(arriving.due)),
            promised: arriving.reserved,
            for_this: arriving.for_this,
        }
    }
}

impl<'c> RuledOutJson<'c> {
    fn new(other: &'c IneligibleType) -> Self {
        let lack = |lack: &Shortfall| match *lack {
            Shortfall::Lifecycle { preemptible } => LackJson::Lifecycle { preemptible },
            Shortfall::Resource { of, need, have } => LackJson::ResourceKind {
                of: of.name(),
                need,
                have,
            },
            Shortfall::Gpu => LackJson::Gpu,
            Shortfall::Interrupted => LackJson::Interrupted,
            Shortfall::Price { price, cheapest } => {
                let [price, cheapest]: [f64; 2] =
                    [price, cheapest].map(|p: MicroDollars| dollars(p));
                LackJson::Price { price, cheapest }
            }
        };
        Self {
            instance_type: other.instance_type.as_str(),
            lacks: other.shortfalls.iter().map(lack).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct InstanceExplanationJson<'a> {
    kind: &'static str,
    /// When this was true.
    at: String,
    /// For people: several lines.
    text: String,
    #[serde(flatten)]
    instance: InstanceJson<'a>,
    /// Why it exists.
    origin: OriginJson,
    phase: &'static str,
    phase_since: String,
    /// Who decided what it is for.
    behavior_cause: String,
    behavior_since: String,
    runners: Vec<OnInstanceJson>,
    /// Containers that wait for it to be ready.
    promised: &'a [ContainerId],
    /// Why nothing is placed on it.
    closed: Option<&'static str>,
    fate: FateJson,
    /// It is given up if it stays silent until then.
    silent_until: Option<String>,
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
    /// Why it is being stopped.
    stopping: Option<String>,
    /// `term`, `kill` or `unkillable`.
    rung: Option<&'static str>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "fate", rename_all = "snake_case")]
enum FateJson {
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
        promised: &told.reserved,
        closed: told.unschedulable.map(closed),
        fate: FateJson::new(&told.termination),
        silent_until: told.silent_until.map(rfc3339),
    }
}

impl OnInstanceJson {
    fn new(runner: &OnInstance) -> Self {
        let rung = |rung: StopStage| match rung {
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
            rung: stopping.map(|(_, at)| rung(*at)),
        }
    }
}

impl FateJson {
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
        Phase::Cordoned => "fenced",
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

fn closed(closed: Unschedulable) -> &'static str {
    match closed {
        Unschedulable::Held => "held",
        Unschedulable::Preempted => "taken_back",
        Unschedulable::Draining => "draining",
        Unschedulable::Terminating => "leaving",
        Unschedulable::Broken => "broken",
        Unschedulable::MustReplace => "tainted",
        Unschedulable::Quarantined => "suspect",
        Unschedulable::Unprobed => "unheard",
    }
}
