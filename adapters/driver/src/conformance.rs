//! Proves a driver right before it costs money: every point of the contract, one after the other,
//! against a real cloud, an emulator or VMs on this host.
//!
//! Who has a driver to prove supplies a [`Bench`]: the driver, a wish for an instance, a way to
//! reach it, and, for a cloud that can be made to fail, ways to make it fail. [`run`] goes through
//! the [points](Point) and gives back a [`Report`] with a [`Step`] for each. It makes one instance
//! at a time where the driver [promises](Promises) no batches, and whatever the suite makes it
//! destroys, also where a step fails and where it is [told to stop](Bench::stopped).
//!
//! The suite touches only what it made, and with [`Plan::destroy_existing`] what the list shows as
//! of the set under test.

mod advice;
mod guards;
mod life;
mod report;
mod run;

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use longshore_core::ids::InstanceId;

use crate::driver::SharedCloud;
use crate::error::ErrorClass;
use crate::instance::{CreateSpec, Instance};
use crate::layer::Operation;
pub use advice::Check;
pub use report::{Outcome, Point, Progress, Report, Silent, Step};
pub use run::run;

/// What the suite needs of whoever has a driver to prove.
#[async_trait]
pub trait Bench: Send + Sync {
    /// The driver under test, for the set under test.
    fn cloud(&self) -> SharedCloud;

    /// Value of the tag `InstanceSetID` that the driver under test is for.
    fn instance_set_id(&self) -> &str;

    /// The same account seen by a driver for another set. None where there is none: the point is
    /// then left out.
    fn other_set(&self) -> Option<SharedCloud> {
        None
    }

    /// A wish with an intent that was never used before, and a secret of its own. Its tags are those
    /// that a dispatcher sets.
    ///
    /// # Errors
    /// One sentence: no wish can be made here.
    fn spec(&self) -> Result<CreateSpec, String>;

    /// Logs in to the instance at its address and compares the secret there with `instance.secret`.
    /// Called again and again until it succeeds or [`Patience::boot`] is over, so it does not wait
    /// for longer than a try needs.
    ///
    /// # Errors
    /// What happened, in one sentence.
    async fn prove(&self, instance: &Instance) -> Result<Proof, String>;

    /// Asks a proved instance whether it is ready. Called again and again like [`Self::prove`].
    ///
    /// # Errors
    /// What it says, in one sentence.
    async fn boot_probe(&self, instance: &Instance) -> Result<(), String>;

    /// Does what somebody wanted done on a ready instance, once, and gives back its words.
    ///
    /// # Errors
    /// `NotWanted` where there is nothing to do, which is no failure.
    async fn command(&self, instance: &Instance) -> Result<String, CommandError> {
        let _ = instance;
        Err(CommandError::NotWanted)
    }

    /// Waits for a human who looks around on the ready instance; false where none wanted that.
    async fn pause(&self, instance: &Instance) -> bool {
        let _ = instance;
        false
    }

    /// All tags of an instance, names as the cloud has them, seen by another way than the driver's.
    /// None where there is no such way.
    ///
    /// # Errors
    /// What happened, in one sentence.
    async fn tags_seen_otherwise(
        &self,
        instance: &InstanceId,
    ) -> Result<Option<BTreeMap<String, String>>, String> {
        let _ = instance;
        Ok(None)
    }

    /// What every instance must bear beside our tags (`ResourceTags`), names as the cloud has them.
    /// Looked for where [`Self::tags_seen_otherwise`] shows them.
    fn resource_tags(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// Makes the cloud do this at the driver's next call of that kind, and only then.
    ///
    /// # Errors
    /// `Unable` where this cloud cannot be made to: the point is then left out.
    async fn inject(&self, fault: &Fault) -> Result<(), InjectError> {
        let _ = fault;
        Err(InjectError::Unable)
    }

    /// The refusals of the cloud that the driver must understand, and how.
    fn refusals(&self) -> Vec<Refusal> {
        Vec::new()
    }

    /// What the driver promises beyond what every driver must do.
    fn promises(&self) -> Promises;

    /// How long things may take.
    fn patience(&self) -> Patience {
        Patience::default()
    }

    /// Whether to stop: what was made is then destroyed, and nothing else is begun.
    fn stopped(&self) -> bool {
        false
    }
}

/// What the suite is to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plan {
    /// Instances of the set that are there already are destroyed; otherwise they end the run.
    pub destroy_existing: bool,
}

/// What a driver promises beyond what every driver must do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Promises {
    /// A create with an intent that was used before makes no second instance.
    pub idempotent_create: bool,
    /// Batches are worth a try: two instances are made at once.
    pub batches: bool,
    /// Of instances of preemptible types, and of no others, the price is told by the market.
    pub market_prices: bool,
}

/// How long things may take. The defaults suit real clouds.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// One call of the driver. One that takes longer is given up, and may have been done.
    pub call: Duration,
    /// Until a new instance, or a new tag, shows in the list.
    pub appear: Duration,
    /// Until an instance has an address.
    pub address: Duration,
    /// From there until it has proved its identity and is ready (`TimeoutBooting`).
    pub boot: Duration,
    /// From the first call to destroy until the instance is gone.
    pub gone: Duration,
    /// How long an instance that should not be there is looked for.
    pub settle: Duration,
    /// Between two looks, after the first few.
    pub pause: Duration,
    /// Between two calls to destroy the same instance (`TimeoutShutdown`).
    pub again: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        Self {
            call: minutes(2),
            appear: minutes(2),
            address: minutes(5),
            boot: minutes(10),
            gone: minutes(10),
            settle: Duration::from_secs(10),
            pause: Duration::from_secs(2),
            again: Duration::from_secs(10),
        }
    }
}

/// What an instance has shown to prove its identity.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    /// Its host key, a line in OpenSSH format, where that is known.
    pub host_key: Option<String>,
}

/// Why a command has no words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// There was nothing to do.
    NotWanted,
    /// It did not work: what happened, with its output.
    Failed(String),
}

/// Something that goes wrong once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The next create is carried out by the cloud, and its answer gets lost on the way: the driver
    /// sees a broken connection, a time-out or an error without a meaning.
    LostCreate,
    /// The next call of its operation is refused, and nothing is done.
    Refused(Refusal),
}

/// A refusal of the cloud, and what a driver must make of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The cloud's name for it, such as `InstanceLimitExceeded`. The error's message must have it.
    pub code: String,
    /// The cloud's sentence. The error's message must have it.
    pub message: String,
    /// What is refused: [`Operation::Create`], `List`, `SetTags` or `Destroy`.
    pub operation: Operation,
    /// What it means.
    pub class: ErrorClass,
}

/// Why a fault was not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InjectError {
    /// This cloud cannot be made to.
    Unable,
    /// It should have worked: what happened.
    Failed(String),
}
