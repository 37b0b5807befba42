//! Wrappers for any driver.
//!
//! No layer retries or delays a call: rates belong to the core.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use longshore_core::config::InstanceType;
use longshore_core::ids::{InstanceId, QuotaGroup};
use longshore_core::time::Timestamp;

use crate::driver::{Cloud, SharedCloud};
use crate::instance::{CreateSpec, HostKeyCheck, Instance, PricePoint};
use crate::{CloudError, ErrorClass};

/// Operation of a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// [`Cloud::create`] and [`Cloud::create_many`].
    Create,
    /// [`Cloud::list`].
    List,
    /// [`Cloud::set_tags`].
    SetTags,
    /// [`Cloud::destroy`] and [`Cloud::destroy_many`].
    Destroy,
    /// [`Cloud::prices`].
    Prices,
    /// [`Cloud::host_key_check`].
    HostKeyCheck,
}

impl Operation {
    /// All operations.
    pub const ALL: [Self; 6] = [
        Self::Create,
        Self::List,
        Self::SetTags,
        Self::Destroy,
        Self::Prices,
        Self::HostKeyCheck,
    ];

    /// Name in metrics: the name used by arvados-dispatch-cloud for the operations in its metrics,
    /// and a name of the same form for all others.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "Create",
            Self::List => "List",
            Self::SetTags => "SetTags",
            Self::Destroy => "Destroy",
            Self::Prices => "Prices",
            Self::HostKeyCheck => "HostKeyCheck",
        }
    }

    /// True if the operation may have taken effect although no response arrived.
    fn has_side_effects(self) -> bool {
        matches!(self, Self::Create | Self::SetTags | Self::Destroy)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Call in flight.
pub type Call<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Wrapper around every call of a driver.
#[async_trait]
pub trait Layer: Clone + Send + Sync + 'static {
    /// Runs the call, at most once. `instances` is the number of instances in the call.
    async fn wrap<T: Answer>(&self, operation: Operation, instances: usize, call: Call<'_, T>)
    -> T;
}

/// Result of a call: a single result, or one result per instance.
pub trait Answer: Send {
    /// The same error for every instance of the call.
    fn all(error: CloudError, instances: usize) -> Self;
    /// First error in the result.
    fn error(&self) -> Option<&CloudError>;
}

impl<T: Send> Answer for Result<T, CloudError> {
    fn all(error: CloudError, _: usize) -> Self {
        Err(error)
    }

    fn error(&self) -> Option<&CloudError> {
        self.as_ref().err()
    }
}

impl<T: Send> Answer for Vec<Result<T, CloudError>> {
    fn all(error: CloudError, instances: usize) -> Self {
        (0..instances).map(|_| Err(error.clone())).collect()
    }

    fn error(&self) -> Option<&CloudError> {
        self.iter().find_map(|answer| answer.as_ref().err())
    }
}

/// Driver with a layer.
#[derive(Clone, Debug)]
pub struct Layered<C, L> {
    inner: C,
    layer: L,
}

impl<C: Cloud, L: Layer> Layered<C, L> {
    /// Wraps the driver in the layer.
    pub fn new(inner: C, layer: L) -> Self {
        Self { inner, layer }
    }
}

#[async_trait]
impl<C: Cloud, L: Layer> Cloud for Layered<C, L> {
    async fn create(&self, spec: CreateSpec) -> Result<Instance, CloudError> {
        let call = self.inner.create(spec);
        self.layer.wrap(Operation::Create, 1, call).await
    }

    async fn list(&self) -> Result<Vec<Instance>, CloudError> {
        let call = self.inner.list();
        self.layer.wrap(Operation::List, 0, call).await
    }

    async fn set_tags(
        &self,
        instance: &InstanceId,
        tags: BTreeMap<String, String>,
    ) -> Result<(), CloudError> {
        let call = self.inner.set_tags(instance, tags);
        self.layer.wrap(Operation::SetTags, 1, call).await
    }

    async fn destroy(&self, instance: &InstanceId) -> Result<(), CloudError> {
        let call = self.inner.destroy(instance);
        self.layer.wrap(Operation::Destroy, 1, call).await
    }

    async fn create_many(&self, specs: Vec<CreateSpec>) -> Vec<Result<Instance, CloudError>> {
        let instances = specs.len();
        let call = self.inner.create_many(specs);
        self.layer.wrap(Operation::Create, instances, call).await
    }

    async fn destroy_many(&self, instances: &[InstanceId]) -> Vec<Result<(), CloudError>> {
        let call = self.inner.destroy_many(instances);
        let count = instances.len();
        self.layer.wrap(Operation::Destroy, count, call).await
    }

    async fn prices(
        &self,
        instances: &[InstanceId],
        since: Timestamp,
    ) -> Result<BTreeMap<InstanceId, Vec<PricePoint>>, CloudError> {
        let call = self.inner.prices(instances, since);
        let count = instances.len();
        self.layer.wrap(Operation::Prices, count, call).await
    }

    async fn host_key_check(
        &self,
        instance: &InstanceId,
        presented_key: &str,
    ) -> Result<HostKeyCheck, CloudError> {
        let call = self.inner.host_key_check(instance, presented_key);
        self.layer.wrap(Operation::HostKeyCheck, 1, call).await
    }

    fn remote_user(&self) -> &str {
        self.inner.remote_user()
    }

    fn sudo(&self) -> bool {
        self.inner.sudo()
    }

    fn secret_path(&self) -> &str {
        self.inner.secret_path()
    }

    fn quota_group(&self, instance_type: &InstanceType) -> QuotaGroup {
        self.inner.quota_group(instance_type)
    }

    fn subnets(&self) -> Vec<String> {
        self.inner.subnets()
    }

    fn for_subnet(&self, index: usize) -> Option<SharedCloud> {
        let inner = self.inner.for_subnet(index)?;
        let layer = self.layer.clone();
        Some(Arc::new(Layered { inner, layer }))
    }
}

/// Applies a timeout to each call. After a timeout, an operation with side effects is
/// [`CloudError::Ambiguous`].
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// Timeout of a call, the same for batches.
    pub each: Duration,
}

#[async_trait]
impl Layer for Deadlines {
    async fn wrap<T: Answer>(
        &self,
        operation: Operation,
        instances: usize,
        call: Call<'_, T>,
    ) -> T {
        tokio::time::timeout(self.each, call)
            .await
            .unwrap_or_else(|_| {
                let message = format!("{operation}: no answer within {:?}", self.each);
                let error = match operation.has_side_effects() {
                    true => CloudError::Ambiguous { message },
                    false => CloudError::Transient { message },
                };
                T::all(error, instances)
            })
    }
}

/// Record of a finished call.
#[derive(Clone, Copy, Debug)]
pub struct CallRecord<'a> {
    /// Operation of the call.
    pub operation: Operation,
    /// Duration of the call.
    pub took: Duration,
    /// Outcome of the call.
    pub outcome: CallOutcome<'a>,
}

/// Outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome<'a> {
    /// Success.
    Done,
    /// Failure with this error; for a batch, the first error in the batch.
    Failed(&'a CloudError),
    /// Dropped by the caller before the response.
    Abandoned,
}

/// Observer of calls.
pub trait CallObserver: Send + Sync + 'static {
    /// Handles the end of a call. Runs on the task of the caller, so it must be quick and must not
    /// block.
    fn call_ended(&self, call: &CallRecord<'_>);
}

/// Reports every call to an observer, including calls dropped by the caller, and logs the call at
/// `debug`.
#[derive(Clone)]
pub struct Instrument(pub Arc<dyn CallObserver>);

impl fmt::Debug for Instrument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Instrument(…)")
    }
}

#[async_trait]
impl Layer for Instrument {
    async fn wrap<T: Answer>(&self, operation: Operation, _: usize, call: Call<'_, T>) -> T {
        let mut in_flight = InFlightCall {
            observer: &*self.0,
            operation,
            since: Instant::now(),
            ended: false,
        };
        let answer = call.await;
        in_flight.ended = true;
        in_flight.report(match answer.error() {
            None => CallOutcome::Done,
            Some(error) => CallOutcome::Failed(error),
        });
        answer
    }
}

/// Guard of a call in flight: reports the outcome, at the latest on drop.
struct InFlightCall<'a> {
    observer: &'a dyn CallObserver,
    operation: Operation,
    since: Instant,
    ended: bool,
}

impl InFlightCall<'_> {
    fn report(&self, outcome: CallOutcome<'_>) {
        let took = self.since.elapsed();
        let (class, error) = match outcome {
            CallOutcome::Done => ("done", None),
            CallOutcome::Failed(error) => (ErrorClass::of(error).name(), Some(error)),
            CallOutcome::Abandoned => ("abandoned", None),
        };
        tracing::debug!(
            operation = self.operation.name(),
            ?took,
            class,
            error = error.map(tracing::field::display),
            "driver call"
        );
        self.observer.call_ended(&CallRecord {
            operation: self.operation,
            took,
            outcome,
        });
    }
}

impl Drop for InFlightCall<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.report(CallOutcome::Abandoned);
        }
    }
}
