//! Property test: placement of the core equals the reference placement, through the public API
//! alone.

use std::time::Duration;

use longshore_core::command::{Action, CloudAction, Command, QueueAction, VmAction};
use longshore_core::config::{Config, InstanceType};
use longshore_core::ids::{CloudId, ContainerId, ImageId, InstanceId, QuotaGroup, TypeName};
use longshore_core::input::{
    Answer, ContainerRecord, ContainerState, IdleBehavior, Input, InstanceRecord, InstanceTags,
    ProbeReport, RunnerList, RunnerStatus,
};
use longshore_core::resources::{Demand, MIB, MicroDollars, Resources};
use longshore_core::time::Timestamp;
use longshore_core::{Dispatcher, Phase, WaitReason};
use longshore_sim::reference_placement::{Choice, ReferencePlacement, Wanted};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

/// Instance found by the dispatcher.
#[derive(Clone, Debug)]
struct FoundInstance {
    /// Number of the type; the highest possible number is not configured.
    type_number: usize,
    other_image: bool,
    behavior: IdleBehavior,
    /// Probe result: no answer, not ready, or ready.
    answer: Option<bool>,
    /// Running containers; an entry without a demand is unknown to the queue.
    running: Vec<Option<Demand>>,
}

/// Input of a scheduling pass.
#[derive(Clone, Debug)]
struct Case {
    types: Vec<(u32, u64)>,
    found: Vec<FoundInstance>,
    queued: Vec<(Demand, u64)>,
    spare_instances: u32,
    price_limit: Option<u64>,
    creates: Option<u32>,
    packing: Option<u32>,
}

fn demands() -> impl Strategy<Value = Demand> {
    // Few values, to get equal container classes, ties and exact fits.
    let ram = prop_oneof![Just(0), Just(500), Just(1900), Just(3800)];
    (0u32..=4, ram, any::<bool>(), 0u32..4).prop_map(|(vcpus, ram, other, tmp)| Demand {
        vcpus,
        ram: ram * MIB,
        tmp: u64::from(tmp / 3) << 36,
        vm_image: other.then(|| ImageId::from("other")),
        ..Demand::default()
    })
}

fn instances() -> impl Strategy<Value = FoundInstance> {
    let behavior = prop_oneof![
        12 => Just(IdleBehavior::Run),
        1 => Just(IdleBehavior::Hold),
        1 => Just(IdleBehavior::Drain),
    ];
    let answer = prop_oneof![8 => Just(Some(true)), 1 => Just(Some(false)), 1 => Just(None)];
    let running = proptest::option::weighted(0.98, demands());
    let running = proptest::collection::vec(running, 0..3);
    (0usize..5, any::<bool>(), behavior, answer, running).prop_map(
        |(type_number, other_image, behavior, answer, running)| FoundInstance {
            type_number,
            other_image,
            behavior,
            answer,
            running,
        },
    )
}

fn cases() -> impl Strategy<Value = Case> {
    let limits = (
        0u32..6,
        proptest::option::weighted(0.3, 0u64..40),
        proptest::option::weighted(0.3, 1u32..3),
        proptest::option::weighted(0.5, 1u32..4),
    );
    (
        proptest::collection::vec((0u32..4, 1u64..6), 1..5),
        proptest::collection::vec(instances(), 0..10),
        proptest::collection::vec((demands(), 1u64..4), 0..24),
        limits,
    )
        .prop_map(|(types, found, queued, limits)| Case {
            types,
            found,
            queued,
            spare_instances: limits.0,
            price_limit: limits.1,
            creates: limits.2,
            packing: limits.3,
        })
}

fn type_name(number: usize) -> TypeName {
    TypeName::from(format!("type{number}").as_str())
}

fn container_id(group: usize, number: usize) -> ContainerId {
    let text = format!("zzzzz-dz642-{group:06}{number:09}");
    text.parse().expect("a valid ID")
}

fn instance_id(number: usize) -> InstanceId {
    InstanceId::new(format!("i-{number:04}"))
}

impl Case {
    fn config(&self) -> Config {
        let offer = |(log_vcpus, price): &(u32, u64)| {
            let vcpus = 1 << log_vcpus;
            InstanceType {
                cloud: CloudId(0),
                provider_type: String::new(),
                resources: Resources {
                    vcpus,
                    ram: u64::from(vcpus) * 4000 * MIB,
                    scratch: u64::from(vcpus) << 36,
                    gpus: 0,
                },
                added_scratch: 0,
                gpus: None,
                price: MicroDollars(*price),
                preemptible: false,
                quota_group: QuotaGroup::from("all"),
            }
        };
        let types = self.types.iter().enumerate();
        let mut config = Config {
            types: types.map(|(n, kind)| (type_name(n), offer(kind))).collect(),
            image: ImageId::from("usual"),
            ..Config::default()
        };
        config.sizing.reserve_extra_ram = 0;
        config.sizing.keep_buffers_per_vcpu = 0;
        config.limits.instances = u32::try_from(self.found.len())
            .ok()
            .map(|n| n + self.spare_instances);
        config.limits.price_per_hour = self.price_limit.map(MicroDollars);
        config.limits.creates_in_flight = self.creates;
        config.limits.containers_per_instance = self.packing;
        config.limits.cloud_ops = None;
        config.timeouts.idle = Duration::from_secs(1 << 30);
        config
    }

    fn running(&self) -> Vec<ContainerRecord> {
        let mut records = Vec::new();
        for (group, found) in self.found.iter().enumerate() {
            for (number, demand) in found.running.iter().enumerate() {
                if let Some(demand) = demand {
                    let id = container_id(group + 1, number);
                    records.push(record(id, ContainerState::Running, 1, demand));
                }
            }
        }
        records
    }

    fn queued(&self) -> Vec<ContainerRecord> {
        let queued = self.queued.iter().enumerate();
        let record = |(number, (demand, priority)): (usize, &(Demand, u64))| {
            let id = container_id(0, number);
            record(id, ContainerState::Queued, *priority, demand)
        };
        queued.map(record).collect()
    }

    fn instances(&self) -> Vec<InstanceRecord> {
        let found = self.found.iter().enumerate();
        let record = |(number, found): (usize, &FoundInstance)| InstanceRecord {
            id: instance_id(number),
            address: Some(format!("10.0.0.{number}:22").into()),
            terminated: false,
            preempted: false,
            tags: InstanceTags {
                instance_type: Some(type_name(found.type_number)),
                idle_behavior: Some(found.behavior),
                image: Some(ImageId::from(if found.other_image {
                    "other"
                } else {
                    "usual"
                })),
                ..InstanceTags::default()
            },
        };
        found.map(record).collect()
    }

    fn probed(&self, instance: &InstanceId) -> Option<ProbeReport> {
        let number = (0..self.found.len()).find(|number| instance_id(*number) == *instance)?;
        let found = &self.found[number];
        let ready = found.answer?;
        let status = |at: usize| RunnerStatus {
            container: container_id(number + 1, at),
            stale: false,
        };
        Some(ProbeReport {
            ready: if ready {
                Ok(())
            } else {
                Err("not yet".to_owned())
            },
            runners: Some(RunnerList {
                broken: false,
                preempted_at: None,
                runners: (0..found.running.len()).map(status).collect(),
            }),
        })
    }
}

fn record(
    id: ContainerId,
    state: ContainerState,
    priority: u64,
    demand: &Demand,
) -> ContainerRecord {
    ContainerRecord {
        id,
        state,
        priority,
        locked_by_us: state == ContainerState::Running,
        lock_count: 0,
        created_at: Timestamp::EPOCH,
        demand: Ok(demand.clone()),
    }
}

fn drain(core: &mut Dispatcher) -> Vec<Command> {
    let commands = std::iter::from_fn(|| core.poll_command()).collect();
    while core.poll_event().is_some() {}
    commands
}

/// Returns a dispatcher after all instances are probed and after a poll with only the running
/// containers, and the pending poll for the other containers.
fn dispatcher_before_poll(case: &Case) -> (Dispatcher, Timestamp, Command) {
    let mut now = Timestamp::from_nanos(1_000_000_000);
    let mut core = Dispatcher::new(case.config(), [3; 32], now);
    core.handle_input(now, Input::Leadership { held: true });
    core.handle_timeout(now);
    for _ in 0..2 {
        for command in drain(&mut core) {
            let answer = match &command.action {
                Action::Queue(QueueAction::Poll { .. }) => {
                    Some(Answer::Containers(Ok(case.running())))
                }
                Action::Cloud {
                    action: CloudAction::List,
                    ..
                } => Some(Answer::Instances(Ok(case.instances()))),
                Action::Vm {
                    instance,
                    action: VmAction::Probe { .. },
                    ..
                } => case
                    .probed(instance)
                    .map(|report| Answer::Probed(Ok(report))),
                _ => None,
            };
            if let Some(answer) = answer {
                let id = command.id;
                core.handle_input(now, Input::Answer { id, answer });
            }
        }
        now = now + Duration::from_millis(10);
        core.handle_timeout(now);
    }
    drain(&mut core);
    core.handle_input(now, Input::QueueChanged);
    now = now + Duration::from_millis(200);
    core.handle_timeout(now);
    let is_poll = |c: &Command| matches!(c.action, Action::Queue(QueueAction::Poll { .. }));
    let poll = drain(&mut core).into_iter().find(is_poll);
    (core, now, poll.expect("a second poll"))
}

fn wanted(core: &Dispatcher, case: &Case) -> Vec<Wanted> {
    let queued = case.queued.iter().enumerate();
    let all = queued.filter_map(|(number, (demand, priority))| {
        let shown = core.view().container(container_id(0, number))?;
        // Unsatisfiable containers are cancelled and are not subject to placement.
        (!shown.eligible.is_empty()).then(|| Wanted {
            id: shown.id,
            priority: *priority,
            need: shown.need.expect("the needs of a valid record"),
            eligible: shown.eligible,
            image: demand.vm_image.clone().unwrap_or(ImageId::from("usual")),
        })
    });
    all.collect()
}

/// Decision of the dispatcher for a container; create requests are numbered in the order of
/// sending.
fn decided(core: &Dispatcher, id: ContainerId, intents: &[String]) -> Choice {
    let shown = core.view().container(id).expect("a known container");
    match shown.waiting {
        Some(WaitReason::Starting { instance }) => Choice::Starts(instance.to_string()),
        Some(WaitReason::Booting { instance, .. }) => {
            let number = intents
                .iter()
                .position(|intent| intent == instance.as_str());
            Choice::Awaits(number.map_or(instance.to_string(), |number| format!("new {number}")))
        }
        Some(WaitReason::CreateBlocked(_)) => Choice::Waits,
        other => panic!("{id} waits for {other:?}"),
    }
}

/// Number of decisions by kind: start, await a pending instance, create, wait, and give an instance
/// back.
type Kinds = [usize; 5];

/// Runs the core and the reference on a case; an error if their decisions differ.
fn compare(case: &Case) -> Result<Kinds, TestCaseError> {
    let (mut core, now, poll) = dispatcher_before_poll(case);
    let config = case.config();
    let mut naive = ReferencePlacement::of(&core.view(), &config);
    let mut records = case.running();
    records.extend(case.queued());
    let (id, answer) = (poll.id, Answer::Containers(Ok(records)));
    core.handle_input(now, Input::Answer { id, answer });
    let wanted = wanted(&core, case);
    let expected = naive.place(&wanted);

    let commands = drain(&mut core);
    let creates = commands.iter().filter_map(|command| match &command.action {
        Action::Cloud {
            action:
                CloudAction::Create {
                    intent,
                    instance_type,
                    image,
                },
            ..
        } => Some((
            format!("intent {intent}"),
            (instance_type.clone(), image.clone()),
        )),
        _ => None,
    });
    let (intents, created): (Vec<_>, Vec<_>) = creates.unzip();
    for (id, choice) in &expected {
        prop_assert_eq!(&decided(&core, *id, &intents), choice, "{}", id);
    }
    prop_assert_eq!(&created, &naive.creates);
    let count = |kind: fn(&Choice) -> bool| expected.iter().filter(|(_, c)| kind(c)).count();
    let starting = count(|choice| matches!(choice, Choice::Starts(_)));
    let waiting = count(|choice| matches!(choice, Choice::Waits));
    let unsatisfiable = case.queued.len() - wanted.len();
    let is_lock = |c: &&Command| matches!(c.action, Action::Queue(QueueAction::Lock { .. }));
    let locks = commands.iter().filter(is_lock).count();
    prop_assert_eq!(locks, starting + unsatisfiable);
    let given_back = naive.given_back.as_deref().map(InstanceId::from);
    if let Some(name) = &given_back {
        let shown = core.view().instance(name);
        prop_assert_eq!(shown.map(|vm| vm.phase), Some(Phase::Cordoned));
    }
    let awaiting = expected.len() - starting - waiting;
    let given_back = usize::from(given_back.is_some());
    Ok([starting, awaiting, created.len(), waiting, given_back])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn placement_matches_reference(case in cases()) {
        compare(&case)?;
    }
}

#[test]
fn cases_cover_every_decision() {
    let mut runner = TestRunner::deterministic();
    let mut sum = [0; 5];
    for _ in 0..500 {
        let case = cases()
            .new_tree(&mut runner)
            .expect("a strategy without filters")
            .current();
        for (sum, count) in sum.iter_mut().zip(compare(&case).expect("equal decisions")) {
            *sum += count;
        }
    }
    assert!(sum.iter().all(|count| *count > 25), "{sum:?}");
}
