//! What came out, step by step.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::advice::Check;

/// A point of the contract, in the order in which they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Point {
    /// The cloud lists the instances of the set.
    List,
    /// There are none yet, or they were destroyed as wanted; and none of another set is shown.
    Leftovers,
    /// It rents an instance.
    Create,
    /// The new instance is in the list.
    Listed,
    /// The new instance bears every tag.
    Tags,
    /// A tag is changed, and the others stay.
    Retag,
    /// The new instance gets an address.
    Address,
    /// The instance shows its secret over SSH.
    Identity,
    /// The cloud vouches for the host key that the instance showed.
    HostKey,
    /// The instance says that it is ready.
    BootProbe,
    /// The wanted command succeeds there.
    Command,
    /// A human has looked around there.
    Pause,
    /// The cloud tells the prices of the instance.
    Prices,
    /// A create with the same token makes no second instance.
    DuplicateToken,
    /// Two sets do not see each other.
    OtherSet,
    /// Each known refusal of the cloud becomes the right error, with its words.
    Refusals,
    /// The cloud takes the instance back.
    Destroy,
    /// The instance is gone.
    Gone,
    /// Destroying it again is success.
    DestroyAgain,
    /// An instance whose create was answered with an error is found, and destroyed.
    LostCreate,
    /// Two are made and destroyed at once, each with its own tags.
    Batch,
    /// Nothing of the set is left.
    Empty,
}

impl Point {
    /// All of them, in order.
    pub const ALL: [Self; 22] = [
        Self::List,
        Self::Leftovers,
        Self::Create,
        Self::Listed,
        Self::Tags,
        Self::Retag,
        Self::Address,
        Self::Identity,
        Self::HostKey,
        Self::BootProbe,
        Self::Command,
        Self::Pause,
        Self::Prices,
        Self::DuplicateToken,
        Self::OtherSet,
        Self::Refusals,
        Self::Destroy,
        Self::Gone,
        Self::DestroyAgain,
        Self::LostCreate,
        Self::Batch,
        Self::Empty,
    ];

    /// In a few words, for a table.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::List => "list instances",
            Self::Leftovers => "nothing left from before",
            Self::Create => "create an instance",
            Self::Listed => "it is in the list",
            Self::Tags => "it bears all tags",
            Self::Retag => "change a tag",
            Self::Address => "it gets an address",
            Self::Identity => "it proves its identity over SSH",
            Self::HostKey => "the cloud knows its host key",
            Self::BootProbe => "boot probe",
            Self::Command => "command",
            Self::Pause => "pause",
            Self::Prices => "prices",
            Self::DuplicateToken => "same token, no second instance",
            Self::OtherSet => "other sets are kept apart",
            Self::Refusals => "refusals are understood",
            Self::Destroy => "destroy it",
            Self::Gone => "it is gone",
            Self::DestroyAgain => "destroy it again",
            Self::LostCreate => "create with a lost answer",
            Self::Batch => "two at once",
            Self::Empty => "nothing is left",
        }
    }
}

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// As it must be.
    Passed {
        /// What is worth knowing; may be empty.
        note: String,
    },
    /// Not as it must be.
    Failed {
        /// The words of the cloud, of the instance, or of what was expected.
        words: String,
        /// What to look at.
        check: Vec<Check>,
    },
    /// Not tried.
    Skipped {
        /// Why not.
        why: String,
    },
}

/// One point, tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Which.
    pub point: Point,
    /// From its beginning to its end; in seconds where it is serialized.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub took: Duration,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

fn seconds<S: Serializer>(took: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(took.as_secs_f64())
}

impl Step {
    /// Whether it failed.
    #[must_use]
    pub fn failed(&self) -> bool {
        matches!(self.outcome, Outcome::Failed { .. })
    }
}

/// All steps of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// One for each point, in order.
    pub steps: Vec<Step>,
}

impl Report {
    /// Whether no step failed.
    #[must_use]
    pub fn passed(&self) -> bool {
        !self.steps.iter().any(Step::failed)
    }

    /// The points that failed, in order.
    #[must_use]
    pub fn failures(&self) -> Vec<Point> {
        let failed = self.steps.iter().filter(|step| step.failed());
        failed.map(|step| step.point).collect()
    }

    /// What became of a point.
    #[must_use]
    pub fn outcome(&self, point: Point) -> Option<&Outcome> {
        let step = self.steps.iter().find(|step| step.point == point)?;
        Some(&step.outcome)
    }
}

/// For a failed test's message: one line for each step.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            let (word, rest) = match &step.outcome {
                Outcome::Passed { note } => ("passed", note),
                Outcome::Failed { words, .. } => ("FAILED", words),
                Outcome::Skipped { why } => ("left out", why),
            };
            let title = step.point.title();
            writeln!(f, "{title:32} {word:8} {:8.3?} {rest}", step.took)?;
        }
        Ok(())
    }
}

/// Who watches a run. Called on the run's task: to be quick.
pub trait Progress: Send + Sync {
    /// A point is tried now.
    fn began(&self, point: Point);
    /// What it waits for, when that changes.
    fn note(&self, words: &str);
    /// It was tried, or left out.
    fn ended(&self, step: &Step);
}

/// Nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn began(&self, _: Point) {}
    fn note(&self, _: &str) {}
    fn ended(&self, _: &Step) {}
}
