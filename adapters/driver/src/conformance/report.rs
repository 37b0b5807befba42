//! Report of a run, step by step.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::check::Check;
use super::hint::Hint;

/// Outcome of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Check passed.
    Passed {
        /// Additional information; may be empty.
        note: String,
    },
    /// Check failed.
    Failed {
        /// Message of the cloud or of the instance, or a description of the difference.
        message: String,
        /// Possible causes.
        hints: Vec<Hint>,
    },
    /// Check not executed.
    Skipped {
        /// Reason for the skip.
        reason: String,
    },
}

/// Executed or skipped check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Check of this step.
    pub check: Check,
    /// Duration; serialized in seconds.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub took: Duration,
    /// Outcome of the check.
    #[serde(flatten)]
    pub outcome: Outcome,
}

fn seconds<S: Serializer>(took: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(took.as_secs_f64())
}

impl Step {
    /// True if the check failed.
    #[must_use]
    pub fn failed(&self) -> bool {
        matches!(self.outcome, Outcome::Failed { .. })
    }
}

/// All steps of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// One step per check, in order.
    pub steps: Vec<Step>,
}

impl Report {
    /// True if no check failed.
    #[must_use]
    pub fn passed(&self) -> bool {
        !self.steps.iter().any(Step::failed)
    }

    /// Failed checks, in order.
    #[must_use]
    pub fn failures(&self) -> Vec<Check> {
        let failed = self.steps.iter().filter(|step| step.failed());
        failed.map(|step| step.check).collect()
    }

    /// Outcome of a check.
    #[must_use]
    pub fn outcome(&self, check: Check) -> Option<&Outcome> {
        let step = self.steps.iter().find(|step| step.check == check)?;
        Some(&step.outcome)
    }
}

/// For the assertion messages of tests: one line per step.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            let (word, rest) = match &step.outcome {
                Outcome::Passed { note } => ("passed", note),
                Outcome::Failed { message, .. } => ("FAILED", message),
                Outcome::Skipped { reason } => ("left out", reason),
            };
            let title = step.check.title();
            writeln!(f, "{title:32} {word:8} {:8.3?} {rest}", step.took)?;
        }
        Ok(())
    }
}

/// Observer of a run. Runs on the task of the suite, so calls must be quick.
pub trait Progress: Send + Sync {
    /// A check has started.
    fn check_started(&self, check: Check);
    /// The event awaited by the current check has changed.
    fn waiting_for(&self, message: &str);
    /// A check has ended or was skipped.
    fn check_ended(&self, step: &Step);
}

/// No progress output.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn check_started(&self, _: Check) {}
    fn waiting_for(&self, _: &str) {}
    fn check_ended(&self, _: &Step) {}
}
