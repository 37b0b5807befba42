//! Carries out commands: by the queue, the cloud, the VMs.
//!
//! Each command runs as a task of its own until its deadline; its answer is sent to the loop. There
//! are never more than the core has awaited answers. Nothing is retried here: the core decides.

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

use super::prices::{Prices, priced};
use super::runner_config::RunnerConfig;
use super::vault::Vault;
use super::wish::Wish;
use crate::clock::Clock;

/// One configured cloud and how to reach its VMs.
pub(crate) struct CloudParts {
    pub(crate) cloud: SharedCloud,
    pub(crate) remote: Remote,
    /// For the cloud to put on VMs; none where images bring it.
    pub(crate) public_key: Option<String>,
    pub(crate) init_command: String,
}

/// What may change while we run.
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

/// Everything outside. Cheap to clone.
#[derive(Clone)]
pub(crate) struct World(Arc<Inner>);

struct Inner {
    api: ApiClient,
    clouds: Vec<CloudParts>,
    /// One for each of the clouds.
    prices: Vec<Arc<Prices>>,
    catalog: RwLock<Arc<Catalog>>,
    runner: RunnerConfig,
    clock: Clock,
    vault: Vault,
    tasks: TaskTracker,
    answers: mpsc::Sender<Input>,
}

impl World {
    pub(crate) fn new(
        api: ApiClient,
        clouds: Vec<CloudParts>,
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
            vault: Vault::default(),
            tasks: TaskTracker::new(),
            answers,
        }))
    }

    /// Begins to carry out a command that was decided at `now`.
    pub(crate) fn carry_out(&self, now: Timestamp, command: Command) {
        let inner = Arc::clone(&self.0);
        let patience = command.deadline.since(now);
        self.0.tasks.spawn(async move {
            let CommandId(number) = command.id;
            let work = inner.answer(command.action, patience);
            // Past its deadline nobody waits for the answer any more.
            match tokio::time::timeout(patience, work).await {
                Ok(answer) => {
                    let id = command.id;
                    // The loop is gone only when the process is about to end.
                    let _ = inner.answers.send(Input::Answer { id, answer }).await;
                }
                Err(_) => tracing::debug!(command = number, "given up at its deadline"),
            }
        });
    }

    /// Takes over types and image for the commands from now on.
    pub(crate) fn reconfigure(&self, catalog: Catalog) {
        let mut slot = self
            .0
            .catalog
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *slot = Arc::new(catalog);
    }

    /// Forgets what was kept about an instance that is gone, in whichever cloud it was.
    pub(crate) fn forget(&self, instance: &InstanceId) {
        for (number, parts) in (0..).zip(&self.0.clouds) {
            let cloud = CloudId(number);
            self.0.vault.forget(cloud, instance);
            let instance = instance.clone();
            parts.remote.forget(&InstanceKey { cloud, instance });
        }
    }

    /// When the queue last said that it was overloaded.
    pub(crate) fn last_503(&self) -> Option<Timestamp> {
        self.0.api.last_503()
    }

    /// Waits for the commands under way, at most so long; false if some were left.
    pub(crate) async fn finish(&self, patience: Duration) -> bool {
        self.0.tasks.close();
        tokio::time::timeout(patience, self.0.tasks.wait())
            .await
            .is_ok()
    }
}

impl Inner {
    fn catalog(&self) -> Arc<Catalog> {
        let slot = self.catalog.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&slot)
    }

    async fn answer(&self, action: Action, patience: Duration) -> Answer {
        match action {
            Action::Queue(action) => self.ask_queue(action, patience).await,
            Action::Cloud { cloud, action } => self.ask_cloud(cloud, action).await,
            Action::Vm {
                cloud,
                instance,
                address,
                action,
            } => {
                let secret = self.vault.get(cloud, &instance);
                let target = Target {
                    cloud,
                    instance,
                    address: address.to_string(),
                    secret,
                };
                self.ask_vm(&target, action, Instant::now() + patience)
                    .await
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
        let Some(parts) = self.clouds.get(usize::from(id.0)) else {
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
            CloudAction::List => Answer::Instances(self.list(id, parts).await),
            CloudAction::Create {
                intent,
                instance_type,
                image,
            } => Answer::Created(self.create(id, parts, intent, &instance_type, image).await),
            CloudAction::Destroy { instance } => {
                Answer::CloudDone(parts.cloud.destroy(&instance).await)
            }
            CloudAction::Tag {
                instance,
                idle_behavior,
            } => {
                let value = idle_behavior.name().to_owned();
                let tags = BTreeMap::from([(tag::IDLE_BEHAVIOR.to_owned(), value)]);
                Answer::CloudDone(parts.cloud.set_tags(&instance, tags).await)
            }
        }
    }

    async fn list(
        &self,
        id: CloudId,
        parts: &CloudParts,
    ) -> Result<Vec<InstanceRecord>, CloudError> {
        let instances = parts.cloud.list().await?;
        if let Some(prices) = self.prices.get(usize::from(id.0)) {
            let living = instances.iter().filter(|instance| !instance.terminated);
            let all = living.filter_map(|instance| self.priced(instance));
            prices.listed(&parts.cloud, all.collect());
        }
        Ok(instances.into_iter().map(|i| self.record(id, i)).collect())
    }

    async fn create(
        &self,
        id: CloudId,
        parts: &CloudParts,
        intent: IntentId,
        type_name: &TypeName,
        image: ImageId,
    ) -> Result<InstanceRecord, CloudError> {
        let catalog = self.catalog();
        let Some(instance_type) = catalog.types.get(type_name) else {
            let message = format!("there is no instance type {type_name}");
            return Err(CloudError::Permanent { message });
        };
        let wish = Wish {
            intent,
            type_name,
            offer: instance_type,
            image,
            secret_path: parts.cloud.secret_path(),
            init_command: &parts.init_command,
            public_key: parts.public_key.clone(),
        };
        let instance = parts.cloud.create(wish.spec()?).await?;
        if let Some(prices) = self.prices.get(usize::from(id.0))
            && let Some(one) = self.priced(&instance)
        {
            prices.made(&parts.cloud, one);
        }
        Ok(self.record(id, instance))
    }

    /// An instance whose price may be another than that of its type, and since when it matters:
    /// none where the type is known and its price is fixed, so that clouds without such types are
    /// never asked.
    fn priced(&self, instance: &Instance) -> Option<(InstanceId, Timestamp)> {
        let name = instance.tags.get(tag::TYPE);
        let catalog = self.catalog();
        let offer = name.and_then(|name| catalog.types.get(&TypeName::from(name.as_str())));
        let fixed = offer.is_some_and(|offer| !offer.preemptible);
        let intent = instance.tags.get(tag::INTENT);
        let intent = intent.and_then(|text| text.parse().ok());
        (!fixed).then(|| priced(instance, intent, self.clock.now()))
    }

    /// Keeps the secret here and passes the rest on.
    fn record(&self, cloud: CloudId, instance: Instance) -> InstanceRecord {
        self.vault.keep(cloud, &instance.id, instance.secret);
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
        let parts = self.clouds.get(usize::from(target.cloud.0));
        let remote = parts.map(|parts| &parts.remote);
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
    /// A steady probe takes along the prices that the VM does not have yet.
    async fn probe(
        &self,
        remote: &Remote,
        target: &Target,
        boot: bool,
        deadline: Instant,
    ) -> Result<ProbeReport, VmError> {
        let prices = self.prices.get(usize::from(target.cloud.0));
        let news = prices.and_then(|prices| prices.news(&target.instance));
        let (Some(prices), Some(news), false) = (prices, news, boot) else {
            return remote.probe(target, boot, deadline).await;
        };
        let report = remote.probe_with_prices(target, news.clone(), deadline);
        let report = report.await?;
        prices.told(&target.instance, &news);
        Ok(report)
    }
}
