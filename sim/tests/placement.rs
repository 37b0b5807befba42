//! Placement, compared with what is obviously right, through the public face alone.

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

/// An instance as the dispatcher finds it.
#[derive(Clone, Debug)]
struct Found {
    /// Its type's number; one more than there are is not configured.
    type_number: usize,
    other_image: bool,
    behavior: IdleBehavior,
    /// What its probe says: nothing, not ready, or ready.
    answer: Option<bool>,
    /// What runs on it; one without a demand is not known to the queue.
    running: Vec<Option<Demand>>,
}

/// Everything that a pass depends on.
#[derive(Clone, Debug)]
struct Scene {
    types: Vec<(u32, u64)>,
    found: Vec<Found>,
    queued: Vec<(Demand, u64)>,
    room: u32,
    money: Option<u64>,
    creates: Option<u32>,
    packing: Option<u32>,
}

fn demands() -> impl Strategy<Value = Demand> {
    // Few values, so that there are equal shapes, ties and exact fits.
    let ram = prop_oneof![Just(0), Just(500), Just(1900), Just(3800)];
    (0u32..=4, ram, any::<bool>(), 0u32..4).prop_map(|(vcpus, ram, other, tmp)| Demand {
        vcpus,
        ram: ram * MIB,
        tmp: u64::from(tmp / 3) << 36,
        vm_image: other.then(|| ImageId::from("other")),
        ..Demand::default()
    })
}

fn instances() -> impl Strategy<Value = Found> {
    let behavior = prop_oneof![
        12 => Just(IdleBehavior::Run),
        1 => Just(IdleBehavior::Hold),
        1 => Just(IdleBehavior::Drain),
    ];
    let answer = prop_oneof![8 => Just(Some(true)), 1 => Just(Some(false)), 1 => Just(None)];
    let running = proptest::option::weighted(0.98, demands());
    let running = proptest::collection::vec(running, 0..3);
    (0usize..5, any::<bool>(), behavior, answer, running).prop_map(
        |(type_number, other_image, behavior, answer, running)| Found {
            type_number,
            other_image,
            behavior,
            answer,
            running,
        },
    )
}

fn scenes() -> impl Strategy<Value = Scene> {
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
        .prop_map(|(types, found, queued, limits)| Scene {
            types,
            found,
            queued,
            room: limits.0,
            money: limits.1,
            creates: limits.2,
            packing: limits.3,
        })
}

fn type_name(number: usize) -> TypeName {
    TypeName::from(format!("type{number}").as_str())
}

fn container_id(group: usize, number: usize) -> ContainerId {
    let text = format!("zzzzz-dz642-{group:06}{number:09}");
    text.parse().expect("well formed")
}

fn instance_id(number: usize) -> InstanceId {
    InstanceId::new(format!("i-{number:04}"))
}

impl Scene {
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
        config.limits.instances = u32::try_from(self.found.len()).ok().map(|n| n + self.room);
        config.limits.price_per_hour = self.money.map(MicroDollars);
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
        let record = |(number, found): (usize, &Found)| InstanceRecord {
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
        let sighting = |at: usize| RunnerStatus {
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
                runners: (0..found.running.len()).map(sighting).collect(),
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

/// A dispatcher that has heard what its instances say and has read a queue in which only the
/// running containers are; and the poll that is to show the others.
fn set_up(scene: &Scene) -> (Dispatcher, Timestamp, Command) {
    let mut now = Timestamp::from_nanos(1_000_000_000);
    let mut core = Dispatcher::new(scene.config(), [3; 32], now);
    core.handle_input(now, Input::Leadership { held: true });
    core.handle_timeout(now);
    for _ in 0..2 {
        for command in drain(&mut core) {
            let answer = match &command.action {
                Action::Queue(QueueAction::Poll { .. }) => {
                    Some(Answer::Containers(Ok(scene.running())))
                }
                Action::Cloud {
                    action: CloudAction::List,
                    ..
                } => Some(Answer::Instances(Ok(scene.instances()))),
                Action::Vm {
                    instance,
                    action: VmAction::Probe { .. },
                    ..
                } => scene.probed(instance).map(|told| Answer::Probed(Ok(told))),
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
    (core, now, poll.expect("the queue is read again"))
}

fn wanted(core: &Dispatcher, scene: &Scene) -> Vec<Wanted> {
    let queued = scene.queued.iter().enumerate();
    let all = queued.filter_map(|(number, (demand, priority))| {
        let shown = core.view().container(container_id(0, number))?;
        // What fits nowhere is cancelled; that is no matter of placement.
        (!shown.eligible.is_empty()).then(|| Wanted {
            id: shown.id,
            priority: *priority,
            need: shown.need.expect("it is well formed"),
            eligible: shown.eligible,
            image: demand.vm_image.clone().unwrap_or(ImageId::from("usual")),
        })
    });
    all.collect()
}

/// What the dispatcher decided for a container; wishes are numbered in the order in which they left.
fn decided(core: &Dispatcher, id: ContainerId, intents: &[String]) -> Choice {
    let shown = core.view().container(id).expect("it is known");
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

/// Counts of each kind of decision: to start, to await what is on its way, to create, to wait, and
/// to give something back.
type Kinds = [usize; 5];

/// Lets both decide; an error if they disagree.
fn compare(scene: &Scene) -> Result<Kinds, TestCaseError> {
    let (mut core, now, poll) = set_up(scene);
    let config = scene.config();
    let mut naive = ReferencePlacement::of(&core.view(), &config);
    let mut records = scene.running();
    records.extend(scene.queued());
    let (id, answer) = (poll.id, Answer::Containers(Ok(records)));
    core.handle_input(now, Input::Answer { id, answer });
    let wanted = wanted(&core, scene);
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
    let (intents, made): (Vec<_>, Vec<_>) = creates.unzip();
    for (id, choice) in &expected {
        prop_assert_eq!(&decided(&core, *id, &intents), choice, "{}", id);
    }
    prop_assert_eq!(&made, &naive.creates);
    let count = |kind: fn(&Choice) -> bool| expected.iter().filter(|(_, c)| kind(c)).count();
    let starting = count(|choice| matches!(choice, Choice::Starts(_)));
    let waiting = count(|choice| matches!(choice, Choice::Waits));
    let hopeless = scene.queued.len() - wanted.len();
    let is_lock = |c: &&Command| matches!(c.action, Action::Queue(QueueAction::Lock { .. }));
    let locks = commands.iter().filter(is_lock).count();
    prop_assert_eq!(locks, starting + hopeless);
    let given_back = naive.given_back.as_deref().map(InstanceId::from);
    if let Some(name) = &given_back {
        let shown = core.view().instance(name);
        prop_assert_eq!(shown.map(|vm| vm.phase), Some(Phase::Cordoned));
    }
    let awaiting = expected.len() - starting - waiting;
    let given_back = usize::from(given_back.is_some());
    Ok([starting, awaiting, made.len(), waiting, given_back])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn the_real_pass_decides_what_is_obviously_right(scene in scenes()) {
        compare(&scene)?;
    }
}

#[test]
fn the_scenes_call_for_every_kind_of_decision() {
    let mut runner = TestRunner::deterministic();
    let mut sum = [0; 5];
    for _ in 0..500 {
        let scene = scenes()
            .new_tree(&mut runner)
            .expect("no filters")
            .current();
        for (sum, count) in sum.iter_mut().zip(compare(&scene).expect("they agree")) {
            *sum += count;
        }
    }
    assert!(sum.iter().all(|count| *count > 25), "{sum:?}");
}
