//! Dispatchers of a given size for benchmarks, built through the public interface only.

use std::time::Duration;

use longshore_core::Dispatcher;
use longshore_core::command::{Action, CloudAction, Command, QueueAction, VmAction};
use longshore_core::config::{Config, InstanceType};
use longshore_core::ids::{CloudId, CommandId, ContainerId, InstanceId, QuotaGroup, TypeName};
use longshore_core::input::{
    Answer, ContainerRecord, ContainerState, ContainerUpdate, Input, InstanceRecord, InstanceTags,
    ProbeReport, RunnerList, RunnerStatus,
};
use longshore_core::resources::{Demand, MIB, MicroDollars, Resources};
use longshore_core::time::Timestamp;
use longshore_sim::reference_placement::Wanted;

/// Dispatcher and simulated time.
#[derive(Clone, Debug)]
pub struct Bench {
    /// Dispatcher.
    pub core: Dispatcher,
    /// Simulated time.
    pub now: Timestamp,
    size: Size,
}

/// Size of a benchmark.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Number of ready instances.
    pub instances: u32,
    /// Number of queued containers.
    pub containers: u32,
    /// Number of container classes.
    pub shapes: u32,
    /// Number of instance types.
    pub types: u32,
}

impl Bench {
    /// Builds a dispatcher with ready, idle instances of the smallest type and an empty queue.
    ///
    /// # Panics
    ///
    /// If the core does not issue the expected commands.
    #[must_use]
    pub fn with_instances(size: Size) -> Self {
        let now = Timestamp::from_nanos(1);
        let mut config = config(size.types);
        config.limits.instances = Some(size.instances);
        config.limits.queued_per_poll = u32::MAX;
        config.timeouts.idle = Duration::from_secs(1 << 30);
        let mut bench = Self {
            core: Dispatcher::new(config, [0; 32], now),
            now,
            size,
        };
        bench
            .core
            .handle_input(now, Input::Leadership { held: true });
        bench.core.handle_timeout(now);
        for command in bench.drain() {
            bench.answer_look(&command);
        }
        bench.pass(1);
        for command in bench.drain() {
            if matches!(command.action, Action::Vm { .. }) {
                bench.answer_probe(&command, &[]);
            }
        }
        bench.drain();
        bench
    }

    /// Cloud list of all instances.
    fn instances(&self) -> Vec<InstanceRecord> {
        (0..self.size.instances).map(instance).collect()
    }

    /// Answers a poll of the queue with an empty list, or a list of the cloud with all instances.
    ///
    /// # Panics
    ///
    /// For any other command.
    pub fn answer_look(&mut self, look: &Command) {
        let answer = match &look.action {
            Action::Queue(QueueAction::Poll { .. }) => Answer::Containers(Ok(Vec::new())),
            Action::Cloud {
                action: CloudAction::List,
                ..
            } => Answer::Instances(Ok(self.instances())),
            other => panic!("unexpected command: {other:?}"),
        };
        let id = look.id;
        self.core
            .handle_input(self.now, Input::Answer { id, answer });
    }

    /// Advances the time by a number of seconds.
    pub fn pass(&mut self, secs: u64) {
        self.now = self.now + Duration::from_secs(secs);
        self.core.handle_timeout(self.now);
    }

    /// Returns all commands, in order; events are dropped.
    pub fn drain(&mut self) -> Vec<Command> {
        let commands = std::iter::from_fn(|| self.core.poll_command()).collect();
        while self.core.poll_event().is_some() {}
        commands
    }

    /// Drains the commands, and returns the last probe.
    pub fn drain_to_probe(&mut self) -> Option<Command> {
        let mut last = None;
        while let Some(command) = self.core.poll_command() {
            if is_probe(&command) {
                last = Some(command);
            }
        }
        while self.core.poll_event().is_some() {}
        last
    }

    /// Answers a poll with these records; the core has not run a pass yet.
    ///
    /// # Panics
    ///
    /// If the core does not poll the queue within a minute.
    pub fn queue_shows(&mut self, records: Vec<ContainerRecord>) {
        self.pass(60);
        let commands = self.drain();
        let poll = commands
            .iter()
            .rev()
            .find(|c| matches!(c.action, Action::Queue(QueueAction::Poll { .. })))
            .expect("a poll is due");
        let answer = Answer::Containers(Ok(records));
        let id = poll.id;
        self.core
            .handle_input(self.now, Input::Answer { id, answer });
    }

    /// Answers a probe: ready, with these containers running.
    pub fn answer_probe(&mut self, probe: &Command, running: &[ContainerId]) {
        let sighting = |container: &ContainerId| RunnerStatus {
            container: *container,
            stale: false,
        };
        let report = ProbeReport {
            ready: Ok(()),
            runners: Some(RunnerList {
                broken: false,
                preempted_at: None,
                runners: running.iter().map(sighting).collect(),
            }),
        };
        let answer = Answer::Probed(Ok(report));
        let id = probe.id;
        self.core
            .handle_input(self.now, Input::Answer { id, answer });
    }

    /// Advances the time to the next probe.
    ///
    /// # Panics
    ///
    /// If no probe is issued within an hour.
    pub fn next_probe(&mut self) -> Command {
        for _ in 0..3600 {
            let (at, _) = self.core.poll_timeout().expect("a timer is always due");
            self.now = self.now.max(at);
            self.core.handle_timeout(self.now);
            if let Some(found) = self.drain_to_probe() {
                return found;
            }
        }
        panic!("no probe within an hour");
    }
}

/// Unanswered lock commands, answered one after another.
#[derive(Clone, Debug)]
pub struct Busy {
    locks: std::collections::VecDeque<(CommandId, ContainerId)>,
}

impl Busy {
    /// Runs the core; all locks stay unanswered.
    pub fn of(bench: &mut Bench) -> Self {
        let commands = bench.drain();
        Self {
            locks: commands.iter().filter_map(lock).collect(),
        }
    }

    /// Answers the oldest lock: the container was cancelled meanwhile. The reservation goes to
    /// another container, whose lock is issued.
    ///
    /// # Panics
    ///
    /// If there is no unanswered lock.
    pub fn one_ends(&mut self, bench: &mut Bench) {
        let (id, _) = self.locks.pop_front().expect("a lock is open");
        let update = ContainerUpdate {
            state: ContainerState::Cancelled,
            priority: 0,
            locked_by_us: false,
        };
        let answer = Answer::Updated(Ok(update));
        let input = Input::Answer { id, answer };
        bench.core.handle_input(bench.now, input);
        while let Some(command) = bench.core.poll_command() {
            self.locks.extend(lock(&command));
        }
        while bench.core.poll_event().is_some() {}
    }
}

fn is_probe(command: &Command) -> bool {
    let probe = VmAction::Probe { boot: false };
    matches!(&command.action, Action::Vm { action, .. } if *action == probe)
}

fn lock(command: &Command) -> Option<(CommandId, ContainerId)> {
    match command.action {
        Action::Queue(QueueAction::Lock { id }) => Some((command.id, id)),
        _ => None,
    }
}

/// Queued containers of `size.shapes` classes, of rising priority.
#[must_use]
pub fn containers(size: Size) -> Vec<ContainerRecord> {
    let record = |n: u32| {
        let shape = n % size.shapes;
        ContainerRecord {
            id: container_id(n),
            state: ContainerState::Queued,
            priority: u64::from(n % 1000) + 1,
            locked_by_us: false,
            lock_count: 0,
            created_at: Timestamp::from_nanos(u64::from(n)),
            demand: Ok(Demand {
                vcpus: 1 + shape % 4,
                ram: MIB * u64::from(100 + shape),
                ..Demand::default()
            }),
        }
    };
    (0..size.containers).map(record).collect()
}

/// Same containers in the format of the reference placement, after a poll.
///
/// # Panics
///
/// If a container is unknown to the core.
#[must_use]
pub fn wanted(bench: &Bench, size: Size) -> Vec<Wanted> {
    let view = bench.core.view();
    let wanted = |n: u32| {
        let shown = view
            .container(container_id(n))
            .expect("the poll contains the container");
        Wanted {
            id: shown.id,
            priority: shown.priority,
            need: shown.need.expect("the record is well formed"),
            eligible: shown.eligible,
            image: bench.core.config().image.clone(),
        }
    };
    (0..size.containers).map(wanted).collect()
}

/// Uuid of the nth container.
///
/// # Panics
///
/// Never: the text is well formed.
#[must_use]
pub fn container_id(n: u32) -> ContainerId {
    let text = format!("zzzzz-dz642-{n:015}");
    text.parse().expect("well formed")
}

fn instance(n: u32) -> InstanceRecord {
    InstanceRecord {
        id: InstanceId::new(format!("i-{n:017x}")),
        address: Some(format!("10.{}.{}.{}:22", n >> 16, n >> 8 & 255, n & 255).into()),
        terminated: false,
        preempted: false,
        tags: InstanceTags {
            instance_type: Some(type_name(0)),
            ..InstanceTags::default()
        },
    }
}

fn type_name(n: u32) -> TypeName {
    TypeName::new(format!("type{n:04}"))
}

fn config(types: u32) -> Config {
    let offer = |n: u32| InstanceType {
        cloud: CloudId(0),
        provider_type: format!("provider{n}"),
        resources: Resources {
            vcpus: 4 + n % 60,
            ram: (16_000 + u64::from(n) * 1000) * MIB,
            scratch: 1 << 40,
            gpus: 0,
        },
        added_scratch: 0,
        gpus: None,
        price: MicroDollars(100_000 + u64::from(n) * 1000),
        preemptible: false,
        quota_group: QuotaGroup::from("on-demand"),
    };
    let mut config = Config {
        types: (0..types).map(|n| (type_name(n), offer(n))).collect(),
        ..Config::default()
    };
    config.sizing.reserve_extra_ram = 0;
    config.sizing.keep_buffers_per_vcpu = 0;
    config.limits.cloud_ops = None;
    config
}
