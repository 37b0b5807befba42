//! What a driver must do.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use longshore_core::config::InstanceType;
use longshore_core::ids::{InstanceId, QuotaGroup};
use longshore_core::time::Timestamp;

use crate::CloudError;
use crate::instance::{CreateSpec, HostKeyCheck, Instance, PricePoint};

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

    /// Rents several instances, each with its own intent and secret. One answer for each, in the
    /// same order. One call of [`Self::create`] after the other, unless the driver knows better.
    async fn create_many(&self, specs: Vec<CreateSpec>) -> Vec<Result<Instance, CloudError>> {
        let mut answers = Vec::with_capacity(specs.len());
        for spec in specs {
            answers.push(self.create(spec).await);
        }
        answers
    }

    /// Ends several instances. One answer for each, in the same order. One call of
    /// [`Self::destroy`] after the other, unless the driver knows better.
    async fn destroy_many(&self, instances: &[InstanceId]) -> Vec<Result<(), CloudError>> {
        let mut answers = Vec::with_capacity(instances.len());
        for instance in instances {
            answers.push(self.destroy(instance).await);
        }
        answers
    }

    /// What these instances cost from `since` on, where that changes while they live (spot prices):
    /// for each the prices in the order of time, the first of them in force at `since` or at its
    /// creation. Instances that cost what is configured are missing from the answer; by default
    /// that is all of them.
    ///
    /// # Errors
    /// Whatever the cloud says.
    async fn prices(
        &self,
        instances: &[InstanceId],
        since: Timestamp,
    ) -> Result<BTreeMap<InstanceId, Vec<PricePoint>>, CloudError> {
        let _ = (instances, since);
        Ok(BTreeMap::new())
    }

    /// Compares the host key that an instance showed, a line in OpenSSH format, with what the cloud
    /// itself knows about it. Most clouds know nothing.
    ///
    /// # Errors
    /// Whatever the cloud says.
    async fn host_key_check(
        &self,
        instance: &InstanceId,
        shown: &str,
    ) -> Result<HostKeyCheck, CloudError> {
        let _ = (instance, shown);
        Ok(HostKeyCheck::Unknown)
    }

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

    /// Names of the configured subnets, where instances may come into any of several; none where
    /// there is nothing to choose from.
    fn subnets(&self) -> Vec<String> {
        Vec::new()
    }

    /// The same cloud, creating only in the subnet with this place in [`Self::subnets`]; none where
    /// there is no such subnet.
    fn for_subnet(&self, index: usize) -> Option<SharedCloud> {
        let _ = index;
        None
    }
}

/// A driver, shared by the tasks that call it.
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
        shown: &str,
    ) -> Result<HostKeyCheck, CloudError> {
        (**self).host_key_check(instance, shown).await
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
