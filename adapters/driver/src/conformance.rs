//! Conformance suite: checks a driver against the contract, on a real cloud, an emulator or VMs of
//! this host, before the driver costs money.
//!
//! The author of a driver implements a [`Harness`]: the driver, create requests, a way to reach an
//! instance and, if the cloud supports fault injection, faults. [`run`] executes all
//! [checks](Check) and returns a [`Report`] with a [`Step`] for each check. Without the
//! [capability](Capabilities) for batches, the suite creates one instance at a time. The suite
//! destroys every instance created by the suite, also after a failed check and after a
//! [stop](Harness::stopped).
//!
//! The suite changes only instances created by the suite and, with [`Options::destroy_existing`],
//! listed instances of the tested instance set.

mod check;
mod hint;
mod isolation;
mod lifecycle;
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
pub use check::Check;
pub use hint::Hint;
pub use report::{NoProgress, Outcome, Progress, Report, Step};
pub use run::run;

/// Environment of a driver under test.
#[async_trait]
pub trait Harness: Send + Sync {
    /// Driver under test, for the tested instance set.
    fn cloud(&self) -> SharedCloud;

    /// Value of the tag `InstanceSetID` used by the driver under test.
    fn instance_set_id(&self) -> &str;

    /// Driver for another instance set of the same account. `None` skips the check.
    fn other_set(&self) -> Option<SharedCloud> {
        None
    }

    /// New create request with an unused intent, a secret of its own and the tags set by a
    /// dispatcher.
    ///
    /// # Errors
    /// A sentence, if no request can be made.
    fn spec(&self) -> Result<CreateSpec, String>;

    /// Logs in to the address of the instance and compares the secret there with `instance.secret`.
    /// The suite repeats the call until success or until [`Timeouts::boot`], so a call makes only
    /// one attempt.
    ///
    /// # Errors
    /// The failure in one sentence.
    async fn verify_identity(&self, instance: &Instance) -> Result<Identity, String>;

    /// Runs the boot probe on an instance with verified identity. Repeated like
    /// [`Self::verify_identity`].
    ///
    /// # Errors
    /// The failure in one sentence.
    async fn boot_probe(&self, instance: &Instance) -> Result<(), String>;

    /// Runs the requested command on a ready instance, once, and returns the output.
    ///
    /// # Errors
    /// `NotRequested` if no command was requested, which is not a failure.
    async fn command(&self, instance: &Instance) -> Result<String, CommandError> {
        let _ = instance;
        Err(CommandError::NotRequested)
    }

    /// Waits for the user's inspection of the ready instance; returns false if no pause was
    /// requested.
    async fn pause(&self, instance: &Instance) -> bool {
        let _ = instance;
        false
    }

    /// All tags of an instance by complete name, read by a path other than the driver. `None` if no
    /// such path exists.
    ///
    /// # Errors
    /// The failure in one sentence.
    async fn provider_tags(
        &self,
        instance: &InstanceId,
    ) -> Result<Option<BTreeMap<String, String>>, String> {
        let _ = instance;
        Ok(None)
    }

    /// Required tags of every instance in addition to the dispatcher's tags (`ResourceTags`), by
    /// complete name. Checked if [`Self::provider_tags`] returns tags.
    fn resource_tags(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// Injects the fault into the driver's next call of the fault's operation, and only into that
    /// call.
    ///
    /// # Errors
    /// `Unsupported` if the fault cannot be injected: the check is then skipped.
    async fn inject(&self, fault: &Fault) -> Result<(), InjectError> {
        let _ = fault;
        Err(InjectError::Unsupported)
    }

    /// Provider errors with the expected classification.
    fn error_cases(&self) -> Vec<ErrorCase> {
        Vec::new()
    }

    /// Optional capabilities of the driver.
    fn capabilities(&self) -> Capabilities;

    /// Time limits of the run.
    fn timeouts(&self) -> Timeouts {
        Timeouts::default()
    }

    /// True to stop the run: the suite then destroys all created instances and starts no further
    /// check.
    fn stopped(&self) -> bool {
        false
    }
}

/// Options of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Destroys existing instances of the set. If false, existing instances end the run.
    pub destroy_existing: bool,
}

/// Optional capabilities of a driver.
#[derive(Clone, Copy, Debug, Default)]
pub struct Capabilities {
    /// A create with a used intent creates no second instance.
    pub idempotent_create: bool,
    /// Batches are to be tested: two instances are created at once.
    pub batches: bool,
    /// The driver returns spot prices for instances of preemptible types, and for no others.
    pub market_prices: bool,
}

/// Time limits. The defaults suit real clouds.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Timeout of a driver call; the outcome of a call after a timeout is unknown.
    pub call: Duration,
    /// Time until a new instance or a new tag is listed.
    pub visible: Duration,
    /// Time until an instance has an address.
    pub address: Duration,
    /// Time from the address until the identity is verified and the boot probe succeeds
    /// (`TimeoutBooting`).
    pub boot: Duration,
    /// Time from the first destroy call until the instance is terminated.
    pub terminated: Duration,
    /// Duration of the polls for an instance expected to be absent.
    pub absence: Duration,
    /// Maximum interval between polls; the first polls are more frequent.
    pub poll_interval: Duration,
    /// Interval between destroy calls for the same instance (`TimeoutShutdown`).
    pub destroy_retry: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        Self {
            call: minutes(2),
            visible: minutes(2),
            address: minutes(5),
            boot: minutes(10),
            terminated: minutes(10),
            absence: Duration::from_secs(10),
            poll_interval: Duration::from_secs(2),
            destroy_retry: Duration::from_secs(10),
        }
    }
}

/// Result of a successful identity verification.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// Host key of the instance in OpenSSH format, if known.
    pub host_key: Option<String>,
}

/// Reason for a command without output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// No command was requested.
    NotRequested,
    /// The command failed: the reason, with the output.
    Failed(String),
}

/// Fault injected once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The cloud executes the next create, but the response is lost: the driver sees a broken
    /// connection, a timeout or an unclassified error.
    LostCreate,
    /// The next call of the operation fails with this error and has no effect.
    Error(ErrorCase),
}

/// Provider error and its expected classification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorCase {
    /// Error code, such as `InstanceLimitExceeded`. Must be part of the driver's error text.
    pub code: String,
    /// Error message. Must be part of the driver's error text.
    pub message: String,
    /// Failing operation: [`Operation::Create`], `List`, `SetTags` or `Destroy`.
    pub operation: Operation,
    /// Expected class.
    pub class: ErrorClass,
}

/// Reason for a fault that was not injected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InjectError {
    /// The harness does not support this fault.
    Unsupported,
    /// The injection failed, for this reason.
    Failed(String),
}
