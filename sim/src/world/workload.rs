//! Workloads: content and times of submissions.

use std::sync::Arc;
use std::time::Duration;

use longshore_core::ids::ContainerId;
use longshore_core::resources::Demand;

/// Pattern of arrivals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// Single containers at intervals.
    Steady { gap: Duration },
    /// Rare bursts of many containers.
    Bursty { gap: Duration, size: u32 },
    /// Supervisors with children submitted step by step during the supervisor's run, before its
    /// end.
    Workflow { gap: Duration, children: u32 },
    /// Single containers at intervals, from a user who changes priorities at each submission.
    Churn { gap: Duration },
    /// Bursts of many containers, most of them cancelled soon after.
    Storm { gap: Duration, size: u32 },
    /// Arrivals recorded elsewhere or written by hand.
    Recorded(Arc<[Arrival]>),
}

/// Work of a single user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Workload {
    pub(crate) pattern: Pattern,
    /// Number of containers still to be submitted.
    pub(crate) left: u32,
    pub(crate) demands: Vec<Demand>,
    pub(crate) run_secs: (u64, u64),
    pub(crate) priorities: u64,
}

/// Container of a recorded workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Submission time, from the start of the run.
    pub at: Duration,
    /// Uuid of the container, if known.
    pub id: Option<ContainerId>,
    /// Resource needs.
    pub demand: Demand,
    /// Priority; higher goes first, 0 means cancelled.
    pub priority: u64,
    /// Run time of the container's program.
    pub runs_for: Duration,
    /// Time from the submission to the user's cancellation, if any.
    pub cancel_after: Option<Duration>,
    /// Supervisor submitting the container; ends after the container.
    pub parent: Option<ContainerId>,
}

impl Workload {
    /// Returns a short summary.
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

    /// Creates a workload with exactly the recorded arrivals.
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
