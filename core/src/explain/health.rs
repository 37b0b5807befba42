//! Health of the dispatcher.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::CloudId;
use crate::time::Timestamp;
use crate::view::View;

/// Shortest silence reported as a problem: a single poll may take a minute.
const SILENCE_MIN: Duration = Duration::from_secs(120);
/// Number of missed intervals reported as a problem.
const LOOKS: u32 = 3;

/// Obstacle to the work of the dispatcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HealthProblem {
    /// Not the leader: another process leads, or none.
    NotLeader,
    /// No complete answer from the queue for too long.
    QueueSilent {
        /// Duration of the silence.
        silent: Duration,
    },
    /// No complete list from a cloud for too long.
    CloudSilent {
        /// Silent cloud.
        cloud: CloudId,
        /// Duration of the silence.
        silent: Duration,
    },
}

impl fmt::Display for HealthProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader => f.write_str("this process is not the leader"),
            Self::QueueSilent { silent } => {
                write!(f, "no answer of the queue for {} s", silent.as_secs())
            }
            Self::CloudSilent { cloud, silent } => {
                let silent = silent.as_secs();
                write!(
                    f,
                    "no list of instances from cloud {} for {silent} s",
                    cloud.0
                )
            }
        }
    }
}

impl View<'_> {
    /// Health problems as of `now`, the time of the loop. Silence counts from the start of the last
    /// successful poll or list, and is a problem after three regular intervals, at least two
    /// minutes. O(clouds).
    #[must_use]
    pub fn health_problems(&self, now: Timestamp) -> Vec<HealthProblem> {
        if !self.core.is_leader() {
            return vec![HealthProblem::NotLeader];
        }
        let intervals = &self.core.config().intervals;
        let silence = |seen: Option<Timestamp>| now.since(seen.unwrap_or(self.core.leader_since()));
        let bound = |interval: Duration| (interval * LOOKS).max(SILENCE_MIN);
        let mut health_problems = Vec::new();
        let silent = silence(self.core.latest_snapshot());
        if silent > bound(intervals.poll) {
            health_problems.push(HealthProblem::QueueSilent { silent });
        }
        for (cloud, seen) in self.core.latest_lists() {
            let silent = silence(seen);
            if silent > bound(intervals.sync) {
                health_problems.push(HealthProblem::CloudSilent { cloud, silent });
            }
        }
        health_problems
    }
}
