//! What can be put around any driver.
//!
//! None of it retries, and none of it waits for its turn: rates are the core's.

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

/// A call of a driver.
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
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Create,
        Self::List,
        Self::SetTags,
        Self::Destroy,
        Self::Prices,
        Self::HostKeyCheck,
    ];

    /// The peer's name for it in metrics, and ours for those that it does not count.
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

    /// Whether it may have been done where no answer came.
    fn changes_something(self) -> bool {
        matches!(self, Self::Create | Self::SetTags | Self::Destroy)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A call under way.
pub type Call<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What is done around each call.
#[async_trait]
pub trait Layer: Clone + Send + Sync + 'static {
    /// Makes the call, at most once. `instances` is how many it is about.
    async fn around<T: Answer>(
        &self,
        operation: Operation,
        instances: usize,
        call: Call<'_, T>,
    ) -> T;
}

/// What a call gives back: a result, or one for each instance.
pub trait Answer: Send {
    /// The same error for all instances of the call.
    fn all(error: CloudError, instances: usize) -> Self;
    /// The first error in it.
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

/// A driver with a layer around it.
#[derive(Clone, Debug)]
pub struct Layered<C, L> {
    inner: C,
    layer: L,
}

impl<C: Cloud, L: Layer> Layered<C, L> {
    /// Puts the layer around the driver.
    pub fn new(inner: C, layer: L) -> Self {
        Self { inner, layer }
    }
}

#[async_trait]
impl<C: Cloud, L: Layer> Cloud for Layered<C, L> {
    async fn create(&self, spec: CreateSpec) -> Result<Instance, CloudError> {
        let call = self.inner.create(spec);
        self.layer.around(Operation::Create, 1, call).await
    }

    async fn list(&self) -> Result<Vec<Instance>, CloudError> {
        let call = self.inner.list();
        self.layer.around(Operation::List, 0, call).await
    }

    async fn set_tags(
        &self,
        instance: &InstanceId,
        tags: BTreeMap<String, String>,
    ) -> Result<(), CloudError> {
        let call = self.inner.set_tags(instance, tags);
        self.layer.around(Operation::SetTags, 1, call).await
    }

    async fn destroy(&self, instance: &InstanceId) -> Result<(), CloudError> {
        let call = self.inner.destroy(instance);
        self.layer.around(Operation::Destroy, 1, call).await
    }

    async fn create_many(&self, specs: Vec<CreateSpec>) -> Vec<Result<Instance, CloudError>> {
        let instances = specs.len();
        let call = self.inner.create_many(specs);
        self.layer.around(Operation::Create, instances, call).await
    }

    async fn destroy_many(&self, instances: &[InstanceId]) -> Vec<Result<(), CloudError>> {
        let call = self.inner.destroy_many(instances);
        let count = instances.len();
        self.layer.around(Operation::Destroy, count, call).await
    }

    async fn prices(
        &self,
        instances: &[InstanceId],
        since: Timestamp,
    ) -> Result<BTreeMap<InstanceId, Vec<PricePoint>>, CloudError> {
        let call = self.inner.prices(instances, since);
        let count = instances.len();
        self.layer.around(Operation::Prices, count, call).await
    }

    async fn host_key_check(
        &self,
        instance: &InstanceId,
        shown: &str,
    ) -> Result<HostKeyCheck, CloudError> {
        let call = self.inner.host_key_check(instance, shown);
        self.layer.around(Operation::HostKeyCheck, 1, call).await
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

/// Gives up each call after a time. What may have been done is then [`CloudError::Ambiguous`].
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// For each call; batches get no more.
    pub each: Duration,
}

#[async_trait]
impl Layer for Deadlines {
    async fn around<T: Answer>(
        &self,
        operation: Operation,
        instances: usize,
        call: Call<'_, T>,
    ) -> T {
        tokio::time::timeout(self.each, call)
            .await
            .unwrap_or_else(|_| {
                let message = format!("{operation}: no answer within {:?}", self.each);
                let error = match operation.changes_something() {
                    true => CloudError::Ambiguous { message },
                    false => CloudError::Transient { message },
                };
                T::all(error, instances)
            })
    }
}

/// A call that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Called<'a> {
    /// Which.
    pub operation: Operation,
    /// From the call to its end.
    pub took: Duration,
    /// How it ended.
    pub end: CallEnd<'a>,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallEnd<'a> {
    /// It was done.
    Done,
    /// With this error; of a batch, with this one among others.
    Failed(&'a CloudError),
    /// Whoever called did not wait for the answer.
    Abandoned,
}

/// Who wants to know of calls.
pub trait Watch: Send + Sync + 'static {
    /// A call has ended. Called on the caller's task: to be quick, and not to block.
    fn called(&self, call: &Called<'_>);
}

/// Tells somebody of every call, those included that nobody waited for, and logs it at `debug`.
#[derive(Clone)]
pub struct Instrument(pub Arc<dyn Watch>);

impl fmt::Debug for Instrument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Instrument(…)")
    }
}

#[async_trait]
impl Layer for Instrument {
    async fn around<T: Answer>(&self, operation: Operation, _: usize, call: Call<'_, T>) -> T {
        let mut under_way = UnderWay {
            watch: &*self.0,
            operation,
            since: Instant::now(),
            ended: false,
        };
        let answer = call.await;
        under_way.ended = true;
        under_way.tell(match answer.error() {
            None => CallEnd::Done,
            Some(error) => CallEnd::Failed(error),
        });
        answer
    }
}

/// Tells of the call's end, whatever that is.
struct UnderWay<'a> {
    watch: &'a dyn Watch,
    operation: Operation,
    since: Instant,
    ended: bool,
}

impl UnderWay<'_> {
    fn tell(&self, end: CallEnd<'_>) {
        let took = self.since.elapsed();
        let (class, error) = match end {
            CallEnd::Done => ("done", None),
            CallEnd::Failed(error) => (ErrorClass::of(error).name(), Some(error)),
            CallEnd::Abandoned => ("abandoned", None),
        };
        tracing::debug!(
            operation = self.operation.name(),
            ?took,
            class,
            error = error.map(tracing::field::display),
            "driver call"
        );
        self.watch.called(&Called {
            operation: self.operation,
            took,
            end,
        });
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.tell(CallEnd::Abandoned);
        }
    }
}
