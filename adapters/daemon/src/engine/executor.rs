//! Executes commands of the core by calls to the queue, the cloud and the VMs.
//!
//! Each command runs as a separate task until its deadline; the task sends the answer to the loop.
//! The core limits the number of commands in flight. The executor retries nothing: retries are
//! decisions of the core.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use longshore_core::command::{Action, CloudAction, Command, QueueAction, VmAction};
use longshore_core::config::{Config, InstanceType};
use longshore_core::ids::{Address, CloudId, CommandId, ImageId, InstanceId, IntentId, TypeName};
use longshore_core::input::{
    Answer, CloudError, IdleBehavior, Input, InstanceRecord, InstanceTags, ProbeReport, VmError,
};
use longshore_core::time::Timestamp;
use longshore_driver::{Instance, SharedCloud, tag};
use longshore_queue_client::ApiClient;
use longshore_ssh::{InstanceKey, Remote, Target};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::create_spec::CreateRequest;
use super::instance_secrets::InstanceSecrets;
use super::prices::{Prices, priced};
use super::runner_config::RunnerConfig;
use crate::clock::Clock;

/// Configured cloud with SSH access to the VMs.
pub(crate) struct CloudComponents {
    pub(crate) cloud: SharedCloud,
    pub(crate) remote: Remote,
    /// Public key for the driver to deploy on VMs; `None` if images contain the key.
    pub(crate) public_key: Option<String>,
    pub(crate) init_command: String,
}

/// Configuration that may change while the dispatcher runs.
pub(crate) struct Catalog {
    pub(crate) types: BTreeMap<TypeName, InstanceType>,
}

impl From<&Config> for Catalog {
    fn from(config: &Config) -> Self {
        Self {
            types: config.types.clone(),
        }
    }
}

/// Executor of commands. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Executor(Arc<Inner>);

struct Inner {
    api: ApiClient,
    clouds: Vec<CloudComponents>,
    /// Prices by cloud, in the order of `clouds`.
    prices: Vec<Arc<Prices>>,
    catalog: RwLock<Arc<Catalog>>,
    runner: RunnerConfig,
    clock: Clock,
    instance_secrets: InstanceSecrets,
    tasks: TaskTracker,
    answers: mpsc::Sender<Input>,
}

impl Executor {
    pub(crate) fn new(
        api: ApiClient,
        clouds: Vec<CloudComponents>,
        catalog: Catalog,
        runner: RunnerConfig,
        clock: Clock,
        answers: mpsc::Sender<Input>,
    ) -> Self {
        Self(Arc::new(Inner {
            api,
            prices: clouds.iter().map(|_| Arc::default()).collect(),
            clouds,
            catalog: RwLock::new(Arc::new(catalog)),
            runner,
            clock,
            instance_secrets: InstanceSecrets::default(),
            tasks: TaskTracker::new(),
            answers,
        }))
    }

    /// Starts to execute a command issued at `now`.
    pub(crate) fn execute(&self, now: Timestamp, command: Command) {
        let inner = Arc::clone(&self.0);
        let timeout = command.deadline.since(now);
        self.0.tasks.spawn(async move {
            let CommandId(number) = command.id;
            let work = inner.answer(command.action, timeout);
            // The core ignores answers after the deadline.
            match tokio::time::timeout(timeout, work).await {
                Ok(answer) => {
                    let id = command.id;
                    // The receiver is closed only during shutdown.
                    let _ = inner.answers.send(Input::Answer { id, answer }).await;
                }
                Err(_) => tracing::debug!(command = number, "command abandoned at the deadline"),
            }
        });
    }

    /// Replaces the instance types for subsequent commands.
    pub(crate) fn reconfigure(&self, catalog: Catalog) {
        let mut slot = self
            .0
            .catalog
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *slot = Arc::new(catalog);
    }

    /// Forgets the state kept for a vanished instance, in any cloud.
    pub(crate) fn forget(&self, instance: &InstanceId) {
        for (number, components) in (0..).zip(&self.0.clouds) {
            let cloud = CloudId(number);
            self.0.instance_secrets.forget(cloud, instance);
            let instance = instance.clone();
            components.remote.forget(&InstanceKey { cloud, instance });
        }
    }

    /// Time of the last 503 response of the queue.
    pub(crate) fn last_503(&self) -> Option<Timestamp> {
        self.0.api.last_503()
    }

    /// Waits for commands in flight until the timeout; false if commands were left.
    pub(crate) async fn finish(&self, timeout: Duration) -> bool {
        self.0.tasks.close();
        tokio::time::timeout(timeout, self.0.tasks.wait())
            .await
            .is_ok()
    }
}

impl Inner {
    fn catalog(&self) -> Arc<Catalog> {
        let slot = self.catalog.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&slot)
    }

    async fn answer(&self, action: Action, timeout: Duration) -> Answer {
        match action {
            Action::Queue(action) => self.ask_queue(action, timeout).await,
            Action::Cloud { cloud, action } => self.ask_cloud(cloud, action).await,
            Action::Vm {
                cloud,
                instance,
                address,
                action,
            } => {
                let secret = self.instance_secrets.get(cloud, &instance);
                let target = Target {
                    cloud,
                    instance,
                    address: address.to_string(),
                    secret,
                };
                self.ask_vm(&target, action, Instant::now() + timeout).await
            }
        }
    }

    async fn ask_queue(&self, action: QueueAction, within: Duration) -> Answer {
        let api = &self.api;
        match action {
            QueueAction::Poll { queued_max } => {
                Answer::Containers(api.poll(queued_max, within).await)
            }
            QueueAction::Lookup { ids } => Answer::Containers(api.lookup(&ids, within).await),
            QueueAction::Lock { id } => Answer::Updated(api.lock(id, within).await),
            QueueAction::Unlock { id } => Answer::Updated(api.unlock(id, within).await),
            QueueAction::Requeue { id, why } => {
                Answer::Updated(api.requeue(id, &why, within).await)
            }
            QueueAction::Cancel { id, error } => {
                Answer::Updated(api.cancel(id, error.as_deref(), within).await)
            }
        }
    }

    async fn ask_cloud(&self, id: CloudId, action: CloudAction) -> Answer {
        let Some(components) = self.clouds.get(usize::from(id.0)) else {
            let message = format!("there is no cloud number {}", id.0);
            let error = CloudError::Permanent { message };
            return match action {
                CloudAction::List => Answer::Instances(Err(error)),
                CloudAction::Create { .. } => Answer::Created(Err(error)),
                CloudAction::Destroy { .. } | CloudAction::Tag { .. } => {
                    Answer::CloudDone(Err(error))
                }
            };
        };
        match action {
            CloudAction::List => Answer::Instances(self.list(id, components).await),
            CloudAction::Create {
                intent,
                instance_type,
                image,
            } => Answer::Created(
                self.create(id, components, intent, &instance_type, image)
                    .await,
            ),
            CloudAction::Destroy { instance } => {
                Answer::CloudDone(components.cloud.destroy(&instance).await)
            }
            CloudAction::Tag {
                instance,
                idle_behavior,
            } => {
                let value = idle_behavior.name().to_owned();
                let tags = BTreeMap::from([(tag::IDLE_BEHAVIOR.to_owned(), value)]);
                Answer::CloudDone(components.cloud.set_tags(&instance, tags).await)
            }
        }
    }

    async fn list(
        &self,
        id: CloudId,
        components: &CloudComponents,
    ) -> Result<Vec<InstanceRecord>, CloudError> {
        let instances = components.cloud.list().await?;
        if let Some(prices) = self.prices.get(usize::from(id.0)) {
            let living = instances.iter().filter(|instance| !instance.terminated);
            let all = living.filter_map(|instance| self.priced(instance));
            prices.listed(&components.cloud, all.collect());
        }
        Ok(instances.into_iter().map(|i| self.record(id, i)).collect())
    }

    async fn create(
        &self,
        id: CloudId,
        components: &CloudComponents,
        intent: IntentId,
        type_name: &TypeName,
        image: ImageId,
    ) -> Result<InstanceRecord, CloudError> {
        let catalog = self.catalog();
        let Some(instance_type) = catalog.types.get(type_name) else {
            let message = format!("there is no instance type {type_name}");
            return Err(CloudError::Permanent { message });
        };
        let request = CreateRequest {
            intent,
            type_name,
            offer: instance_type,
            image,
            secret_path: components.cloud.secret_path(),
            init_command: &components.init_command,
            public_key: components.public_key.clone(),
        };
        let instance = components.cloud.create(request.spec()?).await?;
        if let Some(prices) = self.prices.get(usize::from(id.0))
            && let Some(one) = self.priced(&instance)
        {
            prices.created(&components.cloud, one);
        }
        Ok(self.record(id, instance))
    }

    /// Instance with a price other than the configured price of its type, and the start of the
    /// period in question; `None` if the type has a fixed price, so that clouds without preemptible
    /// types are never asked for prices.
    fn priced(&self, instance: &Instance) -> Option<(InstanceId, Timestamp)> {
        let name = instance.tags.get(tag::TYPE);
        let catalog = self.catalog();
        let offer = name.and_then(|name| catalog.types.get(&TypeName::from(name.as_str())));
        let fixed = offer.is_some_and(|offer| !offer.preemptible);
        let intent = instance.tags.get(tag::INTENT);
        let intent = intent.and_then(|text| text.parse().ok());
        (!fixed).then(|| priced(instance, intent, self.clock.now()))
    }

    /// Keeps the secret and converts the rest for the core.
    fn record(&self, cloud: CloudId, instance: Instance) -> InstanceRecord {
        self.instance_secrets
            .keep(cloud, &instance.id, instance.secret);
        let tag = |name| instance.tags.get(name).map(String::as_str);
        InstanceRecord {
            tags: InstanceTags {
                instance_type: tag(tag::TYPE).map(TypeName::from),
                idle_behavior: tag(tag::IDLE_BEHAVIOR).and_then(IdleBehavior::parse),
                intent: tag(tag::INTENT).and_then(|text| text.parse().ok()),
                image: tag(tag::IMAGE).map(ImageId::from),
            },
            id: instance.id,
            address: instance.address.map(Address::from),
            terminated: instance.terminated,
            preempted: instance.preempted,
        }
    }

    async fn ask_vm(&self, target: &Target, action: VmAction, deadline: Instant) -> Answer {
        let catalog = self.catalog();
        let components = self.clouds.get(usize::from(target.cloud.0));
        let remote = components.map(|components| &components.remote);
        let unknown = || VmError::Unreachable(format!("there is no cloud {}", target.cloud.0));
        match action {
            VmAction::Probe { boot } => Answer::Probed(match remote {
                Some(remote) => self.probe(remote, target, boot, deadline).await,
                None => Err(unknown()),
            }),
            VmAction::Start {
                container,
                instance_type,
            } => Answer::Started(match (remote, catalog.types.get(&instance_type)) {
                (Some(remote), Some(offer)) => {
                    let config = self.runner.document(container, offer, &target.address);
                    remote.start(target, container, config, deadline).await
                }
                (None, _) => Err(unknown()),
                (_, None) => Err(VmError::Unreachable(format!(
                    "instance type {instance_type} is not configured"
                ))),
            }),
            VmAction::Signal { container, signal } => Answer::Signalled(match remote {
                Some(remote) => remote.signal(target, container, signal, deadline).await,
                None => Err(unknown()),
            }),
        }
    }
}

impl Inner {
    /// Probes a VM. Probes after the boot carry prices that the VM does not have yet.
    async fn probe(
        &self,
        remote: &Remote,
        target: &Target,
        boot: bool,
        deadline: Instant,
    ) -> Result<ProbeReport, VmError> {
        let prices = self.prices.get(usize::from(target.cloud.0));
        let update = prices.and_then(|prices| prices.update_for(&target.instance));
        let (Some(prices), Some(update), false) = (prices, update, boot) else {
            return remote.probe(target, boot, deadline).await;
        };
        let report = remote.probe_with_prices(target, update.clone(), deadline);
        let report = report.await?;
        prices.delivered(&target.instance, &update);
        Ok(report)
    }
}
