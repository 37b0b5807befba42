//! What users submit, and when.

use std::sync::Arc;
use std::time::Duration;

use longshore_core::ids::ContainerId;
use longshore_core::resources::Demand;

/// How work comes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// One now and then.
    Steady { gap: Duration },
    /// Many at once, seldom.
    Bursty { gap: Duration, size: u32 },
    /// A supervisor that submits its children step by step while it runs, and ends after them.
    Workflow { gap: Duration, children: u32 },
    /// One now and then, by a user who changes priorities with each.
    Churn { gap: Duration },
    /// Many at once, most of which are cancelled soon after.
    Storm { gap: Duration, size: u32 },
    /// What was recorded elsewhere, or written by hand.
    Recorded(Arc<[Arrival]>),
}

/// One user's work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Workload {
    pub(crate) pattern: Pattern,
    /// Containers still to be submitted.
    pub(crate) left: u32,
    pub(crate) demands: Vec<Demand>,
    pub(crate) run_secs: (u64, u64),
    pub(crate) priorities: u64,
}

/// One container of a recorded workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When it is submitted, after the beginning.
    pub at: Duration,
    /// Its name, if it has one.
    pub id: Option<ContainerId>,
    /// What it needs.
    pub demand: Demand,
    /// Higher goes first; 0 is not wanted.
    pub priority: u64,
    /// How long its program runs.
    pub runs_for: Duration,
    /// Its user gives it up so long after submitting it.
    pub cancel_after: Option<Duration>,
    /// The container that submits it and ends after it.
    pub parent: Option<ContainerId>,
}

impl Workload {
    /// In a few words.
    pub(crate) fn summary(&self) -> String {
        let name = match self.pattern {
            Pattern::Steady { .. } => "steady",
            Pattern::Bursty { .. } => "bursty",
            Pattern::Workflow { .. } => "workflow",
            Pattern::Churn { .. } => "churn",
            Pattern::Storm { .. } => "storm",
            Pattern::Recorded(_) => "recorded",
        };
        format!("{} {name}", self.left)
    }

    /// Exactly what was recorded.
    pub(crate) fn recorded(arrivals: &[Arrival]) -> Self {
        let mut arrivals = arrivals.to_vec();
        arrivals.sort_by_key(|arrival| arrival.at);
        Self {
            left: u32::try_from(arrivals.len()).unwrap_or(u32::MAX),
            pattern: Pattern::Recorded(arrivals.into()),
            demands: Vec::new(),
            run_secs: (0, 0),
            priorities: 1,
        }
    }
}
