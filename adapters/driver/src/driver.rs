//! Interface of a cloud driver.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use longshore_core::config::InstanceType;
use longshore_core::ids::{InstanceId, QuotaGroup};
use longshore_core::time::Timestamp;

use crate::CloudError;
use crate::instance::{CreateSpec, HostKeyCheck, Instance, PricePoint};

/// Cloud with instances for rent.
#[async_trait]
pub trait Cloud: Send + Sync + 'static {
    /// Creates an instance. If the intent was used before, no second instance is created, provided
    /// that the cloud supports idempotency tokens.
    ///
    /// # Errors
    /// `Ambiguous` if the instance may exist despite the error; any other error means that no
    /// instance was created.
    async fn create(&self, spec: CreateSpec) -> Result<Instance, CloudError>;

    /// Lists every instance of the set, from all pages: booting and stopping instances too, and
    /// terminated instances as long as the cloud lists them.
    ///
    /// # Errors
    /// Any error of the cloud. A list is never partial.
    async fn list(&self) -> Result<Vec<Instance>, CloudError>;

    /// Sets these tags (names without the prefix). All other tags stay unchanged.
    ///
    /// # Errors
    /// `NotFound` if the instance does not exist.
    async fn set_tags(
        &self,
        instance: &InstanceId,
        tags: BTreeMap<String, String>,
    ) -> Result<(), CloudError>;

    /// Destroys an instance. Succeeds if the instance is already terminated.
    ///
    /// # Errors
    /// Any error of the cloud.
    async fn destroy(&self, instance: &InstanceId) -> Result<(), CloudError>;

    /// Creates several instances, each with its own intent and secret. Returns one result per
    /// request, in the same order. By default calls [`Self::create`] for one request after another.
    async fn create_many(&self, specs: Vec<CreateSpec>) -> Vec<Result<Instance, CloudError>> {
        let mut answers = Vec::with_capacity(specs.len());
        for spec in specs {
            answers.push(self.create(spec).await);
        }
        answers
    }

    /// Destroys several instances. Returns one result per instance, in the same order. By default
    /// calls [`Self::destroy`] for one instance after another.
    async fn destroy_many(&self, instances: &[InstanceId]) -> Vec<Result<(), CloudError>> {
        let mut answers = Vec::with_capacity(instances.len());
        for instance in instances {
            answers.push(self.destroy(instance).await);
        }
        answers
    }

    /// Prices of these instances from `since` on, for instances with a varying price (spot): the
    /// prices of each instance in order of time, beginning with the price at `since` or at the
    /// creation of the instance. Instances at the configured price are absent from the result. By
    /// default the result is empty.
    ///
    /// # Errors
    /// Any error of the cloud.
    async fn prices(
        &self,
        instances: &[InstanceId],
        since: Timestamp,
    ) -> Result<BTreeMap<InstanceId, Vec<PricePoint>>, CloudError> {
        let _ = (instances, since);
        Ok(BTreeMap::new())
    }

    /// Compares the host key presented by an instance (a line in OpenSSH format) with the host key
    /// known to the cloud. Most clouds have no information about host keys.
    ///
    /// # Errors
    /// Any error of the cloud.
    async fn host_key_check(
        &self,
        instance: &InstanceId,
        presented_key: &str,
    ) -> Result<HostKeyCheck, CloudError> {
        let _ = (instance, presented_key);
        Ok(HostKeyCheck::Unknown)
    }

    /// Login user of the instances.
    fn remote_user(&self) -> &str;

    /// True if commands with root rights are run by `sudo`.
    fn sudo(&self) -> bool {
        self.remote_user() != "root"
    }

    /// Path of the secret on an instance. The shell of the instance expands variables in the path.
    fn secret_path(&self) -> &str {
        "/var/run/arvados-instance-secret"
    }

    /// Quota group of a type. All types of a group share one quota.
    fn quota_group(&self, instance_type: &InstanceType) -> QuotaGroup;

    /// Names of the configured subnets, if instances can be placed in one of several; otherwise
    /// empty.
    fn subnets(&self) -> Vec<String> {
        Vec::new()
    }

    /// Driver for the same cloud with creates only in the subnet at this index of
    /// [`Self::subnets`]; `None` if the index is out of range.
    fn for_subnet(&self, index: usize) -> Option<SharedCloud> {
        let _ = index;
        None
    }
}

/// Driver shared by tasks.
pub type SharedCloud = Arc<dyn Cloud>;

#[async_trait]
impl<C: Cloud + ?Sized> Cloud for Arc<C> {
    async fn create(&self, spec: CreateSpec) -> Result<Instance, CloudError> {
        (**self).create(spec).await
    }

    async fn list(&self) -> Result<Vec<Instance>, CloudError> {
        (**self).list().await
    }

    async fn set_tags(
        &self,
        instance: &InstanceId,
        tags: BTreeMap<String, String>,
    ) -> Result<(), CloudError> {
        (**self).set_tags(instance, tags).await
    }

    async fn destroy(&self, instance: &InstanceId) -> Result<(), CloudError> {
        (**self).destroy(instance).await
    }

    async fn create_many(&self, specs: Vec<CreateSpec>) -> Vec<Result<Instance, CloudError>> {
        (**self).create_many(specs).await
    }

    async fn destroy_many(&self, instances: &[InstanceId]) -> Vec<Result<(), CloudError>> {
        (**self).destroy_many(instances).await
    }

    async fn prices(
        &self,
        instances: &[InstanceId],
        since: Timestamp,
    ) -> Result<BTreeMap<InstanceId, Vec<PricePoint>>, CloudError> {
        (**self).prices(instances, since).await
    }

    async fn host_key_check(
        &self,
        instance: &InstanceId,
        presented_key: &str,
    ) -> Result<HostKeyCheck, CloudError> {
        (**self).host_key_check(instance, presented_key).await
    }

    fn remote_user(&self) -> &str {
        (**self).remote_user()
    }

    fn sudo(&self) -> bool {
        (**self).sudo()
    }

    fn secret_path(&self) -> &str {
        (**self).secret_path()
    }

    fn quota_group(&self, instance_type: &InstanceType) -> QuotaGroup {
        (**self).quota_group(instance_type)
    }

    fn subnets(&self) -> Vec<String> {
        (**self).subnets()
    }

    fn for_subnet(&self, index: usize) -> Option<SharedCloud> {
        (**self).for_subnet(index)
    }
}
