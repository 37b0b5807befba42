//! World controlled by hand: the test answers each command and gets a readable trace.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::Duration;

use longshore_core::Dispatcher;
use longshore_core::command::{Action, CloudAction, Command, QueueAction, Signal, VmAction};
use longshore_core::config::{Config, InstanceType};
use longshore_core::ids::{CloudId, ContainerId, InstanceId, IntentId, QuotaGroup, TypeName};
use longshore_core::input::{
    Answer, CloudError, ContainerRecord, ContainerState, ContainerUpdate, IdleBehavior, Input,
    InstanceRecord, InstanceTags, ProbeReport, QueueError, RunnerList, RunnerStatus, SignalReport,
    VmError,
};
use longshore_core::resources::{Demand, MIB, MicroDollars, Resources};
use longshore_core::time::Timestamp;

/// Scenario and its trace.
pub(crate) struct Story {
    pub(crate) core: Dispatcher,
    now: Timestamp,
    records: Vec<ContainerRecord>,
    open: VecDeque<Command>,
    trace: String,
    /// VM with these runners in every probe while time passes; polls are answered too.
    steady: Option<(String, Vec<u32>)>,
}

/// Queued container number `n`, with priority 1.
pub(crate) fn container(n: u32) -> ContainerRecord {
    ContainerRecord {
        id: id(n),
        state: ContainerState::Queued,
        priority: 1,
        locked_by_us: false,
        lock_count: 0,
        created_at: Timestamp::from_nanos(0),
        demand: Ok(Demand::default()),
    }
}

fn id(n: u32) -> ContainerId {
    let text = format!("zzzzz-dz642-{n:015}");
    text.parse().expect("well formed")
}

/// Shorthand for records.
pub(crate) trait Sized {
    fn vcpus(self, vcpus: u32) -> Self;
}

impl Sized for ContainerRecord {
    fn vcpus(mut self, vcpus: u32) -> Self {
        self.demand = Ok(Demand {
            vcpus,
            ram: 100 * MIB,
            ..Demand::default()
        });
        self
    }
}

fn config() -> Config {
    let offer = InstanceType {
        cloud: CloudId(0),
        provider_type: "p2".into(),
        resources: Resources {
            vcpus: 2,
            ram: 4000 * MIB,
            scratch: 1 << 40,
            gpus: 0,
        },
        added_scratch: 0,
        gpus: None,
        price: MicroDollars(100_000),
        preemptible: false,
        quota_group: QuotaGroup::from("on-demand"),
    };
    let mut config = Config::default();
    config.types.insert(TypeName::from("two"), offer);
    config.sizing.keep_buffers_per_vcpu = 0;
    config.sizing.reserve_extra_ram = 0;
    config.limits.instances = Some(1);
    config.timeouts.term = Duration::from_secs(15);
    config
}

impl Story {
    /// Dispatcher with leadership just gained.
    pub(crate) fn begin() -> Self {
        let now = Timestamp::from_nanos(1_000_000_000);
        let mut story = Self {
            core: Dispatcher::new(config(), [1; 32], now),
            now,
            records: Vec::new(),
            open: VecDeque::new(),
            trace: String::new(),
            steady: None,
        };
        story.input(Input::Leadership { held: true });
        story.wait_secs(0);
        story
    }

    pub(crate) fn trace(&self) -> &str {
        &self.trace
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.now
    }

    pub(crate) fn note(&mut self, text: &str) {
        let _ = writeln!(self.trace, "         -- {text}");
    }

    pub(crate) fn input(&mut self, input: Input) {
        self.core.handle_input(self.now, input);
        self.drain();
    }

    /// Advances the time, deadline by deadline.
    pub(crate) fn wait_secs(&mut self, secs: u64) {
        let end = self.now + Duration::from_secs(secs);
        while let Some((at, _)) = self.core.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = self.now.max(at);
            self.core.handle_timeout(self.now);
            self.drain();
            self.stay_steady();
        }
        self.now = end;
    }

    /// Advances the time while every probe of the VM reports these runners.
    pub(crate) fn wait_steadily(&mut self, secs: u64, name: &str, running: &[u32]) {
        self.steady = Some((name.to_owned(), running.to_vec()));
        self.stay_steady();
        self.wait_secs(secs);
        self.steady = None;
    }

    fn stay_steady(&mut self) {
        let Some((name, running)) = self.steady.clone() else {
            return;
        };
        let probe = |c: &Command| {
            matches!(
                &c.action,
                Action::Vm {
                    action: VmAction::Probe { .. },
                    ..
                }
            )
        };
        let poll = |c: &Command| matches!(&c.action, Action::Queue(QueueAction::Poll { .. }));
        if self.open.iter().any(probe) {
            self.answer_probe(&name, &running);
        }
        if self.open.iter().any(poll) {
            self.answer_poll();
        }
    }

    fn drain(&mut self) {
        let stamp = self.now.as_nanos() / 1_000_000;
        let stamp = format!("{:4}.{:03}", stamp / 1000, stamp % 1000);
        while let Some(command) = self.core.poll_command() {
            let shown = match &command.action {
                Action::Queue(action) => format!("queue   {action:?}"),
                Action::Cloud { action, .. } => format!("cloud   {action:?}"),
                Action::Vm {
                    instance, action, ..
                } => format!("{instance:7} {action:?}"),
            };
            let _ = writeln!(self.trace, "{stamp} -> {shown}");
            self.open.push_back(command);
        }
        while let Some(event) = self.core.poll_event() {
            let _ = writeln!(self.trace, "{stamp}    {event}");
        }
    }

    /// Removes the open command with a matching action.
    fn take(&mut self, what: &str, wanted: impl Fn(&Action) -> bool) -> Command {
        let found = self.open.iter().position(|command| wanted(&command.action));
        match found.and_then(|i| self.open.remove(i)) {
            Some(command) => command,
            None => panic!("no {what} is open; the story so far:\n{}", self.trace),
        }
    }

    fn answer(&mut self, command: &Command, answer: Answer) {
        let id = command.id;
        self.input(Input::Answer { id, answer });
    }

    pub(crate) fn container(&mut self, n: u32) -> &mut ContainerRecord {
        let found = self.records.iter_mut().find(|r| r.id == id(n));
        found.expect("submitted before")
    }

    pub(crate) fn hint(&mut self) {
        self.wait_secs(1);
        self.input(Input::QueueChanged);
        self.wait_secs(0);
    }

    /// Answers the first poll, and the first list with no instance.
    pub(crate) fn queue_has(&mut self, records: &[ContainerRecord]) {
        self.records = records.to_vec();
        self.answer_poll();
        if self
            .records
            .iter()
            .all(|r| r.state == ContainerState::Queued)
        {
            self.list(&[]);
        }
    }

    pub(crate) fn answer_poll(&mut self) {
        let poll = self.take("poll", |a| {
            matches!(a, Action::Queue(QueueAction::Poll { .. }))
        });
        let shown = |r: &&ContainerRecord| {
            r.locked_by_us && !r.state.is_final() || r.state == ContainerState::Queued
        };
        let records = self.records.iter().filter(shown).cloned().collect();
        self.answer(&poll, Answer::Containers(Ok(records)));
        let lookup = |c: &Command| matches!(&c.action, Action::Queue(QueueAction::Lookup { .. }));
        if self.open.iter().any(lookup) {
            let lookup = self.take("lookup", |a| {
                matches!(a, Action::Queue(QueueAction::Lookup { .. }))
            });
            let Action::Queue(QueueAction::Lookup { ids }) = &lookup.action else {
                unreachable!()
            };
            let asked = |r: &&ContainerRecord| ids.contains(&r.id);
            let found = self.records.iter().filter(asked).cloned().collect();
            self.answer(&lookup, Answer::Containers(Ok(found)));
        }
    }

    pub(crate) fn list(&mut self, instances: &[(&str, IdleBehavior, Option<IntentId>)]) {
        let list = self.take("list", |a| {
            matches!(
                a,
                Action::Cloud {
                    action: CloudAction::List,
                    ..
                }
            )
        });
        let records = instances
            .iter()
            .map(|(name, behavior, intent)| record(name, *behavior, *intent));
        let records = records.collect();
        self.answer(&list, Answer::Instances(Ok(records)));
    }

    /// Answers the first list after a restart.
    pub(crate) fn cloud_has(&mut self, name: &str, behavior: IdleBehavior) {
        self.list(&[(name, behavior, None)]);
        self.wait_secs(0);
    }

    fn take_create(&mut self) -> (Command, IntentId) {
        let create = self.take("create", |a| {
            matches!(
                a,
                Action::Cloud {
                    action: CloudAction::Create { .. },
                    ..
                }
            )
        });
        let Action::Cloud {
            action: CloudAction::Create { intent, .. },
            ..
        } = create.action
        else {
            unreachable!()
        };
        (create, intent)
    }

    pub(crate) fn vm_appears(&mut self, name: &str) {
        let (create, intent) = self.take_create();
        self.wait_secs(1);
        let made = record(name, IdleBehavior::Run, Some(intent));
        self.answer(&create, Answer::Created(Ok(made)));
        self.wait_secs(0);
    }

    pub(crate) fn vm_boots(&mut self, name: &str) {
        self.vm_appears(name);
        self.wait_secs(1);
        self.probe_succeeds(name, &[]);
    }

    pub(crate) fn create_fails(&mut self, error: CloudError) -> IntentId {
        let (create, intent) = self.take_create();
        self.answer(&create, Answer::Created(Err(error)));
        intent
    }

    fn take_probe(&mut self, name: &str) -> Command {
        self.take("probe", |a| {
            matches!(a, Action::Vm { instance, action: VmAction::Probe { .. }, .. }
                if instance.as_str() == name)
        })
    }

    /// Answers the latest probe.
    pub(crate) fn probe_succeeds(&mut self, name: &str, running: &[u32]) {
        self.wait_secs(0);
        self.answer_probe(name, running);
    }

    fn answer_probe(&mut self, name: &str, running: &[u32]) {
        let probe = self.take_probe(name);
        let sighting = |n: &u32| RunnerStatus {
            container: id(*n),
            stale: false,
        };
        let list = RunnerList {
            broken: false,
            preempted_at: None,
            runners: running.iter().map(sighting).collect(),
        };
        let report = ProbeReport {
            ready: Ok(()),
            runners: Some(list),
        };
        self.answer(&probe, Answer::Probed(Ok(report)));
    }

    pub(crate) fn probe_fails(&mut self, name: &str, error: VmError) {
        let probe = self.take_probe(name);
        self.answer(&probe, Answer::Probed(Err(error)));
    }

    pub(crate) fn lock_succeeds(&mut self, n: u32) {
        let lock = self.take_lock(n);
        let record = self.container(n);
        record.state = ContainerState::Locked;
        record.locked_by_us = true;
        let update = ContainerUpdate {
            state: ContainerState::Locked,
            priority: record.priority,
            locked_by_us: true,
        };
        self.answer(&lock, Answer::Updated(Ok(update)));
    }

    pub(crate) fn lock_fails(&mut self, n: u32, error: QueueError) {
        let lock = self.take_lock(n);
        self.answer(&lock, Answer::Updated(Err(error)));
    }

    fn take_lock(&mut self, n: u32) -> Command {
        self.take(
            "lock",
            |a| matches!(a, Action::Queue(QueueAction::Lock { id: of }) if *of == id(n)),
        )
    }

    fn take_start(&mut self, name: &str, n: u32) -> Command {
        self.take("start", |a| {
            matches!(a, Action::Vm { instance, action: VmAction::Start { container, .. }, .. }
                if instance.as_str() == name && *container == id(n))
        })
    }

    pub(crate) fn start_succeeds(&mut self, name: &str, n: u32) {
        let start = self.take_start(name, n);
        self.answer(&start, Answer::Started(Ok(())));
    }

    pub(crate) fn start_fails(&mut self, name: &str, n: u32, error: VmError) {
        let start = self.take_start(name, n);
        self.answer(&start, Answer::Started(Err(error)));
    }

    fn take_signal(&mut self, name: &str, n: u32) -> (Command, Signal) {
        self.wait_secs(0);
        let command = self.take("signal", |a| {
            matches!(a, Action::Vm { instance, action: VmAction::Signal { container, .. }, .. }
                if instance.as_str() == name && *container == id(n))
        });
        let Action::Vm {
            action: VmAction::Signal { signal, .. },
            ..
        } = command.action
        else {
            unreachable!()
        };
        (command, signal)
    }

    pub(crate) fn signal_ends(&mut self, name: &str, n: u32, expected: Signal) {
        let (command, signal) = self.take_signal(name, n);
        assert_eq!(signal, expected);
        self.answer(&command, Answer::Signalled(Ok(SignalReport::Gone)));
    }

    pub(crate) fn signal_survived(&mut self, name: &str, n: u32) -> Signal {
        let (command, signal) = self.take_signal(name, n);
        self.answer(&command, Answer::Signalled(Ok(SignalReport::Alive)));
        signal
    }

    pub(crate) fn destroy_succeeds(&mut self, name: &str) {
        let destroy = self.take("destroy", |a| {
            matches!(a, Action::Cloud { action: CloudAction::Destroy { instance }, .. }
                if instance.as_str() == name)
        });
        self.answer(&destroy, Answer::CloudDone(Ok(())));
        self.wait_secs(1);
    }

    pub(crate) fn expect_queue(&mut self, wanted: impl Fn(&QueueAction) -> bool) -> QueueAction {
        let command = self.take(
            "such queue action",
            |a| matches!(a, Action::Queue(action) if wanted(action)),
        );
        match command.action {
            Action::Queue(action) => action,
            other => unreachable!("{other:?}"),
        }
    }

    pub(crate) fn expect_cloud(&mut self, wanted: impl Fn(&CloudAction) -> bool) {
        self.take(
            "such cloud action",
            |a| matches!(a, Action::Cloud { action, .. } if wanted(action)),
        );
    }

    pub(crate) fn expect_vm(&mut self, name: &str, wanted: impl Fn(&VmAction) -> bool) {
        self.take("such VM action", |a| {
            matches!(a, Action::Vm { instance, action, .. }
                if instance.as_str() == name && wanted(action))
        });
    }
}

fn record(name: &str, behavior: IdleBehavior, intent: Option<IntentId>) -> InstanceRecord {
    InstanceRecord {
        id: InstanceId::from(name),
        address: Some("10.0.0.1:22".into()),
        terminated: false,
        preempted: false,
        tags: InstanceTags {
            instance_type: Some(TypeName::from("two")),
            idle_behavior: Some(behavior),
            intent,
            image: None,
        },
    }
}
