//! Real dispatcher in a small simulated world, so that all answers have real content.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use longshore_core::Dispatcher;
use longshore_core::command::{Action, CloudAction, QueueAction, VmAction};
use longshore_core::config::{Config, InstanceType};
use longshore_core::ids::{CloudId, ContainerId, InstanceId, IntentId, QuotaGroup, TypeName};
use longshore_core::input::{
    Answer, CloudError, ContainerRecord, ContainerState, ContainerUpdate, IdleBehavior, Input,
    InstanceRecord, InstanceTags, ProbeReport, QueueError, RunnerList, RunnerStatus, SignalReport,
    VmError,
};
use longshore_core::resources::{
    Demand, GpuDemand, GpuStack, Gpus, MIB, MicroDollars, Resources, Version,
};
use longshore_core::time::Timestamp;
use longshore_management::Metrics;

/// Timestamp of 2026-08-07T00:00:00Z.
pub(crate) const START: Timestamp = Timestamp::from_nanos(1_786_060_800_000_000_000);
/// Duration of each answer.
const ANSWER_TIME: Duration = Duration::from_millis(10);

/// Container running on `i-0001`.
pub(crate) const RUNNING: &str = "zzzzz-dz642-000000000000001";
/// Container waiting for a booting instance.
pub(crate) const BOOTING: &str = "zzzzz-dz642-000000000000002";
/// Container waiting for the account's quota.
pub(crate) const AT_QUOTA: &str = "zzzzz-dz642-000000000000003";
/// Container waiting for a create request; needs graphics processors.
pub(crate) const ASKED: &str = "zzzzz-dz642-000000000000004";
/// Unsatisfiable container; the queue refuses its cancellation.
pub(crate) const HOPELESS: &str = "zzzzz-dz642-000000000000005";

pub(crate) struct World {
    pub(crate) core: Dispatcher,
    pub(crate) now: Timestamp,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) queue: Vec<ContainerRecord>,
    pub(crate) cloud: Vec<InstanceRecord>,
    /// Runners on each instance with successful probes.
    pub(crate) runners: BTreeMap<InstanceId, Vec<ContainerId>>,
    /// Signals sent, by number.
    pub(crate) signals: Vec<(ContainerId, u8)>,
}

impl World {
    /// World before any input.
    pub(crate) fn new(config: Config) -> Self {
        Self {
            core: Dispatcher::new(config, [7; 32], START),
            now: START,
            metrics: Arc::new(Metrics::new()),
            queue: Vec::new(),
            cloud: Vec::new(),
            runners: BTreeMap::new(),
            signals: Vec::new(),
        }
    }

    /// World with all kinds of containers (see the constants). `i-0001` runs a container, `i-0002`
    /// is held, `i-0003` does not answer.
    pub(crate) fn busy() -> Self {
        let mut world = Self::new(config());
        world.queue = vec![
            record(RUNNING, ContainerState::Running, 60, demand(1, 1024)),
            record(BOOTING, ContainerState::Queued, 50, demand(2, 1024)),
            record(
                ASKED,
                ContainerState::Queued,
                562_949_953_421_312_001,
                gpu_demand(),
            ),
            record(HOPELESS, ContainerState::Queued, 20, demand(1000, 1024)),
        ];
        world.cloud = vec![
            instance("i-0001", "small", IdleBehavior::Run),
            instance("i-0002", "small", IdleBehavior::Hold),
            instance("i-0003", "tiny", IdleBehavior::Run),
        ];
        world.runners.insert("i-0001".into(), vec![id(RUNNING)]);
        world.runners.insert("i-0002".into(), Vec::new());
        world.lead();
        world.run_for(Duration::from_secs(1));
        // Submitted last, so that its quota does not delay the others.
        let at_quota = record(AT_QUOTA, ContainerState::Queued, 40, demand(6, 2048));
        world.submit(at_quota);
        world.run_for(Duration::from_secs(2));
        world
    }

    pub(crate) fn lead(&mut self) {
        let input = Input::Leadership { held: true };
        self.core.handle_input(self.now, input);
        self.settle();
    }

    pub(crate) fn submit(&mut self, record: ContainerRecord) {
        self.queue.push(record);
        self.core.handle_input(self.now, Input::QueueChanged);
        self.settle();
    }

    pub(crate) fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            self.settle();
            match self.core.poll_timeout() {
                Some((at, _)) if at <= end => self.now = self.now.max(at),
                _ => break,
            }
        }
        self.now = self.now.max(end);
    }

    /// Answers commands and counts events until none is left.
    pub(crate) fn settle(&mut self) {
        self.core.handle_timeout(self.now);
        for _ in 0..1000 {
            while let Some(event) = self.core.poll_event() {
                self.metrics.observe(self.now, &event);
            }
            let Some(command) = self.core.poll_command() else {
                return;
            };
            if let Some(answer) = self.answer(command.action) {
                self.now = self.now + ANSWER_TIME;
                let id = command.id;
                self.core
                    .handle_input(self.now, Input::Answer { id, answer });
            }
        }
        panic!("the dispatcher does not come to rest");
    }

    fn answer(&mut self, action: Action) -> Option<Answer> {
        match action {
            Action::Queue(action) => Some(self.answer_queue(action)),
            Action::Cloud { action, .. } => self.answer_cloud(action),
            Action::Vm {
                instance, action, ..
            } => Some(self.answer_vm(&instance, action)),
        }
    }

    fn answer_queue(&mut self, action: QueueAction) -> Answer {
        let (wanted, state) = match action {
            QueueAction::Poll { .. } => return Answer::Containers(Ok(self.queue.clone())),
            QueueAction::Lookup { ids } => {
                let found = self.queue.iter().filter(|record| ids.contains(&record.id));
                return Answer::Containers(Ok(found.cloned().collect()));
            }
            QueueAction::Lock { id } => (id, ContainerState::Locked),
            QueueAction::Unlock { id } | QueueAction::Requeue { id, .. } => {
                (id, ContainerState::Queued)
            }
            QueueAction::Cancel { id, .. } => (id, ContainerState::Cancelled),
        };
        let record = self.queue.iter_mut().find(|record| record.id == wanted);
        match record {
            Some(record) if wanted != id(HOPELESS) => {
                record.state = state;
                record.locked_by_us = state == ContainerState::Locked;
                Answer::Updated(Ok(ContainerUpdate {
                    state,
                    priority: record.priority,
                    locked_by_us: record.locked_by_us,
                }))
            }
            _ => Answer::Updated(Err(QueueError::Unavailable("no answer".into()))),
        }
    }

    /// Creates a small instance, reports the quota for a large one, leaves other requests
    /// unanswered.
    fn answer_cloud(&mut self, action: CloudAction) -> Option<Answer> {
        Some(match action {
            CloudAction::List => Answer::Instances(Ok(self.cloud.clone())),
            CloudAction::Create {
                intent,
                instance_type,
                ..
            } => Answer::Created(self.create(intent, &instance_type)?),
            CloudAction::Destroy { instance } => {
                self.cloud.retain(|record| record.id != instance);
                Answer::CloudDone(Ok(()))
            }
            CloudAction::Tag { .. } => Answer::CloudDone(Ok(())),
        })
    }

    fn create(
        &mut self,
        intent: IntentId,
        name: &TypeName,
    ) -> Option<Result<InstanceRecord, CloudError>> {
        match name.as_str() {
            "small" => {
                let id = format!("i-{:04}", 100 + self.cloud.len());
                let mut made = instance(&id, "small", IdleBehavior::Run);
                made.address = None;
                made.tags.intent = Some(intent);
                self.cloud.push(made.clone());
                Some(Ok(made))
            }
            "large" => Some(Err(CloudError::Quota {
                message: "vCPU limit exceeded".into(),
            })),
            _ => None,
        }
    }

    fn answer_vm(&mut self, instance: &InstanceId, action: VmAction) -> Answer {
        let runners = self.runners.get_mut(instance);
        let unreachable = || VmError::Unreachable("connection refused".into());
        match action {
            VmAction::Probe { .. } => Answer::Probed(match runners {
                Some(runners) => Ok(report(runners)),
                None => Err(unreachable()),
            }),
            VmAction::Start { container, .. } => Answer::Started(match runners {
                Some(runners) => {
                    runners.push(container);
                    Ok(())
                }
                None => Err(unreachable()),
            }),
            VmAction::Signal { container, signal } => {
                self.signals.push((container, signal.number()));
                Answer::Signalled(Ok(SignalReport::Alive))
            }
        }
    }
}

pub(crate) fn id(text: &str) -> ContainerId {
    text.parse().expect("a container uuid")
}

fn report(runners: &[ContainerId]) -> ProbeReport {
    let sighting = |container: &ContainerId| RunnerStatus {
        container: *container,
        stale: false,
    };
    ProbeReport {
        ready: Ok(()),
        runners: Some(RunnerList {
            broken: false,
            preempted_at: None,
            runners: runners.iter().map(sighting).collect(),
        }),
    }
}

pub(crate) fn record(
    uuid: &str,
    state: ContainerState,
    priority: u64,
    demand: Demand,
) -> ContainerRecord {
    ContainerRecord {
        id: id(uuid),
        state,
        priority,
        locked_by_us: state == ContainerState::Running,
        lock_count: u32::from(state == ContainerState::Running),
        created_at: START - Duration::from_millis(90_500),
        demand: Ok(demand),
    }
}

pub(crate) fn demand(vcpus: u32, ram_mib: u64) -> Demand {
    Demand {
        vcpus,
        ram: ram_mib * MIB,
        ..Demand::default()
    }
}

fn gpu_demand() -> Demand {
    Demand {
        gpu: Some(GpuDemand {
            stack: GpuStack::Cuda,
            driver: version(11, 0),
            targets: vec!["9.0".into()],
            count: 1,
            vram: 8192 * MIB,
        }),
        ..demand(2, 1024)
    }
}

pub(crate) fn instance(id: &str, instance_type: &str, behavior: IdleBehavior) -> InstanceRecord {
    InstanceRecord {
        id: id.into(),
        address: Some(format!("10.0.0.{}:22", &id[5..]).into()),
        terminated: false,
        preempted: false,
        tags: InstanceTags {
            instance_type: Some(instance_type.into()),
            idle_behavior: Some(behavior),
            ..InstanceTags::default()
        },
    }
}

pub(crate) fn config() -> Config {
    let gpus = Gpus {
        stack: GpuStack::Cuda,
        driver: version(12, 4),
        target: "9.0".into(),
        count: 2,
        vram: 80_000 * MIB,
    };
    let types = [
        ("tiny", offer("t.tiny", 1, 1024, 50_000, None)),
        ("small", offer("t.small", 2, 4096, 100_000, None)),
        ("large", offer("t.large", 8, 32_768, 500_000, None)),
        ("larger", offer("t.larger", 8, 65_536, 600_000, None)),
        ("gpu", offer("t.gpu", 8, 32_768, 4_000_000, Some(gpus))),
    ];
    let types = types.map(|(name, offer)| (TypeName::from(name), offer));
    Config {
        types: types.into(),
        image: "image-1".into(),
        ..Config::default()
    }
}

fn offer(provider: &str, vcpus: u32, ram: u64, price: u64, gpus: Option<Gpus>) -> InstanceType {
    InstanceType {
        cloud: CloudId(0),
        provider_type: provider.into(),
        resources: Resources {
            vcpus,
            ram: ram * MIB,
            scratch: 100_000 * MIB,
            gpus: gpus.as_ref().map_or(0, |gpus| gpus.count),
        },
        added_scratch: 60_000 * MIB,
        gpus,
        price: MicroDollars(price),
        preemptible: false,
        quota_group: QuotaGroup::from(if provider == "t.small" { "a" } else { "b" }),
    }
}

fn version(major: u32, minor: u32) -> Version {
    Version { major, minor }
}
