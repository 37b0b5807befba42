//! The face every cloud driver has.
//!
//! A driver touches only instances that bear its [instance set](CloudSettings::instance_set_id), or
//! that it is told to destroy; it never retries by itself (the core decides); and it turns every
//! error of its cloud into exactly one [`CloudError`].

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use longshore_core::config::InstanceType;
use longshore_core::ids::{ImageId, InstanceId, IntentId, QuotaGroup, TypeName};
pub use longshore_core::input::{CapacityScope, CloudError};
use longshore_secret::Secret;

/// A cloud that rents VMs.
#[async_trait]
pub trait Cloud: Send + Sync + 'static {
    /// Rents one instance. With an intent that was used before, it makes no second one where the
    /// cloud has such a guard.
    ///
    /// # Errors
    /// `Ambiguous` where the instance may exist all the same; any other error means that it does not.
    async fn create(&self, spec: CreateSpec) -> Result<Instance, CloudError>;

    /// Every instance of the set, booting and stopping ones included, terminated ones as long as the
    /// cloud shows them, from all pages.
    ///
    /// # Errors
    /// Whatever the cloud says; a list is never partial.
    async fn list(&self) -> Result<Vec<Instance>, CloudError>;

    /// Sets these tags (names without the prefix) and leaves the others as they are.
    ///
    /// # Errors
    /// `NotFound` where there is no such instance.
    async fn set_tags(
        &self,
        instance: &InstanceId,
        tags: BTreeMap<String, String>,
    ) -> Result<(), CloudError>;

    /// Ends an instance. Success where it is already gone.
    ///
    /// # Errors
    /// Whatever the cloud says.
    async fn destroy(&self, instance: &InstanceId) -> Result<(), CloudError>;

    /// The user to log in as.
    fn remote_user(&self) -> &str;

    /// Whether commands that need root are put behind `sudo`.
    fn sudo(&self) -> bool {
        self.remote_user() != "root"
    }

    /// Where an instance keeps its secret: a path, in which its shell replaces variables.
    fn secret_path(&self) -> &str {
        "/var/run/arvados-instance-secret"
    }

    /// Types of one group share one quota.
    fn quota_group(&self, instance_type: &InstanceType) -> QuotaGroup;
}

/// Settings that every driver gets.
#[derive(Clone, Debug)]
pub struct CloudSettings {
    /// Value of the tag `InstanceSetID`: what belongs to this dispatcher.
    pub instance_set_id: String,
    /// Put before each tag's name.
    pub tag_key_prefix: String,
    /// Further tags for everything that is created, names as they are.
    pub resource_tags: BTreeMap<String, String>,
}

/// The wish for an instance.
#[derive(Clone, Debug)]
pub struct CreateSpec {
    /// Idempotency token; also among `tags`.
    pub intent: IntentId,
    /// The configured name, for messages.
    pub type_name: TypeName,
    /// What to rent.
    pub instance_type: InstanceType,
    /// To boot from.
    pub image: ImageId,
    /// All of our tags, names without the prefix, [`tag::SECRET`] excepted.
    pub tags: BTreeMap<String, String>,
    /// Value of [`tag::SECRET`], which the instance must be able to show after boot.
    pub secret: Secret,
    /// Shell script that the instance runs as root at boot; it writes the secret, so it is secret.
    pub init_script: Secret,
    /// OpenSSH format, for [`Cloud::remote_user`]; none where images bring their own.
    pub public_key: Option<String>,
}

/// An instance as the cloud shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// The cloud's name for it.
    pub id: InstanceId,
    /// Host and port of its SSH server, `host:port`, or `host` where the configured port counts;
    /// once it has one.
    pub address: Option<String>,
    /// Gone for good, and only still shown.
    pub terminated: bool,
    /// Our tags, names without the prefix, [`tag::SECRET`] excepted.
    pub tags: BTreeMap<String, String>,
    /// Value of [`tag::SECRET`].
    pub secret: Secret,
}

/// Names of our tags, to be put behind the prefix.
pub mod tag {
    /// Whose instance it is.
    pub const SET: &str = "InstanceSetID";
    /// The configured name of its type.
    pub const TYPE: &str = "InstanceType";
    /// `run`, `hold` or `drain`.
    pub const IDLE_BEHAVIOR: &str = "IdleBehavior";
    /// What it must show to prove its identity.
    pub const SECRET: &str = "InstanceSecret";
    /// The core's wish that it was created for.
    pub const INTENT: &str = "InstanceIntent";
    /// The image it was booted from, where that is not the configured one.
    pub const IMAGE: &str = "InstanceImage";
}

/// A driver, shared by the tasks that call it.
pub type SharedCloud = Arc<dyn Cloud>;
