//! Whether the dispatcher is able to work.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::CloudId;
use crate::time::Timestamp;
use crate::view::View;

/// A silence that short is never trouble: one look may take a minute.
const SILENCE_MIN: Duration = Duration::from_secs(120);
/// So many looks in a row that gave nothing are trouble.
const LOOKS: u32 = 3;

/// Something that keeps the dispatcher from its work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HealthProblem {
    /// Another process is in charge, or nobody.
    NotLeader,
    /// The queue has given no whole answer for so long.
    QueueSilent {
        /// How long.
        silent: Duration,
    },
    /// A cloud has given no whole list for so long.
    CloudSilent {
        /// Which.
        cloud: CloudId,
        /// How long.
        silent: Duration,
    },
}

impl fmt::Display for HealthProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader => f.write_str("this process is not in charge"),
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
    /// What is wrong as of `now`. Silence is measured from the beginning of the last look that went
    /// well; it is trouble after three regular intervals, two minutes at least. O(clouds).
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
