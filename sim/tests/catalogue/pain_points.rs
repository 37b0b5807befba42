//! Scenarios of the fifteen pain points of the field.

use longshore_core::command::{Action, QueueAction};
use longshore_core::event::Event;
use longshore_core::input::ContainerState;
use longshore_core::resources::{Demand, MicroDollars};
use longshore_core::{CreateBlocked, Phase, WaitReason};
use longshore_sim::Fault;
use longshore_sim::story::{Story, bare, cores, minutes, number_types, seconds};

const HOUR: u64 = 60;

fn spot(vcpus: u32) -> Demand {
    Demand {
        preemptible: true,
        ..cores(vcpus)
    }
}

/// Pain 1: work starved of capacity hides other work.
#[test]
fn light_containers_behind_blocked_run() {
    let mut story = Story::with(|config| {
        number_types(config, &[1, 8]);
        config.limits.instances = Some(10);
    });
    story.set_capacity("type8", 0);
    let starved: Vec<_> = (0..100)
        .map(|n| story.submit_as(bare(8), 1000 - n, minutes(5)))
        .collect();
    let light: Vec<_> = (0..10)
        .map(|_| story.submit_as(bare(1), 1, minutes(5)))
        .collect();
    story.run_for(minutes(12));
    for container in light {
        story.assert_complete(container);
    }
    for (place, container) in (1..).zip(starved) {
        let shown = story.shown(container).expect("the container waits");
        assert_eq!(shown.position, Some(place));
        assert!(shown.status.contains("at capacity"), "{}", shown.status);
    }
}

/// Pain 2: the scheduler collapses on long queues. The number of polls, creates and record updates
/// is independent of the queue's length.
#[test]
fn long_queue_commands_bounded_by_starts() {
    let mut story = Story::with(|config| {
        number_types(config, &[1]);
        config.limits.instances = Some(8);
    });
    story.without_hints();
    for n in 0..2000_u32 {
        story.submit_as(bare(1), u64::from(n % 50) + 1, minutes(30));
    }
    story.run_for(minutes(10));
    let updates = story.count_commands(|action| match action {
        Action::Queue(QueueAction::Poll { .. } | QueueAction::Lookup { .. }) => false,
        Action::Queue(_) => true,
        _ => false,
    });
    assert_eq!(
        (story.creates(), updates),
        (8, 8),
        "one lock for each start"
    );
}

/// Pain 3: insufficient capacity loses or hangs jobs.
#[test]
fn all_types_sold_out_creates_back_off() {
    let mut story = Story::with(|config| number_types(config, &[1, 2, 4]));
    for name in ["type1", "type2", "type4"] {
        story.set_capacity(name, 0);
    }
    let all: Vec<_> = [1, 2, 4, 1, 2].map(|n| story.submit(bare(n))).into();
    story.run_for(minutes(5 * HOUR));
    let tried = story.creates();
    // Back-off of 1, 2, 4, … minutes up to half an hour: about fifteen creates of each type.
    assert!((10..=60).contains(&tried), "{tried} creates");
    for name in ["type1", "type2", "type4"] {
        story.set_capacity(name, 10);
    }
    story.run_for(minutes(50));
    for container in all {
        story.assert_complete(container);
        assert_eq!(story.lock_count(container), 1);
    }
}

/// Pain 4: unclassified errors block the way to another type.
#[test]
fn create_error_next_type_tried() {
    for fault in [Fault::CreateFails, Fault::CreateRefused] {
        let mut story = Story::with(|config| {
            number_types(config, &[2, 3]);
            config.intervals.poll = minutes(60);
        });
        story.strike(fault, 1);
        let container = story.submit(bare(2));
        story.run_for(seconds(10));
        assert_eq!(story.creates_of("type2"), 1, "{fault:?}");
        assert_eq!(story.creates_of("type3"), 1, "{fault:?}: immediately");
        story.run_for(minutes(10));
        story.assert_complete(container);
    }
}

/// Pain 5: a spot quota makes the scheduler loop for ever.
#[test]
fn zero_spot_quota_creates_back_off() {
    let mut story = Story::begin();
    story.set_quota("standard.spot", 0);
    let container = story.submit(spot(1));
    story.run_for(minutes(6 * HOUR));
    let tried = story.creates();
    assert!((6..=30).contains(&tried), "{tried} creates in six hours");
    assert_eq!(story.lock_count(container), 0);
    story.set_quota("standard.spot", 5);
    story.run_for(minutes(30));
    story.assert_complete(container);
}

/// Pain 6: a throttled API makes most instances unusable, without recovery.
#[test]
fn throttled_cloud_existing_instances_run_work() {
    let mut story = Story::with(|config| {
        number_types(config, &[1]);
        config.limits.containers_per_instance = Some(1);
        config.timeouts.idle = seconds(30);
    });
    let vms = story.idle_vms(&["type1"; 5]);
    let before = story.elapsed();
    story.strike(Fault::Throttled, 1_000_000);
    let all: Vec<_> = (0..50)
        .map(|_| story.submit_as(bare(1), 500, minutes(2)))
        .collect();
    story.run_until("all containers ended", minutes(40), |story| {
        story.open() == 0
    });
    let took = story.elapsed() - before;
    assert!(
        took < minutes(26),
        "50 containers of 2 minutes on {} instances: {took:?}",
        vms.len()
    );
    for container in all {
        story.assert_complete(container);
    }
    assert_eq!(story.vms_made(), 5);
    let calls =
        story.count_events(|event| matches!(event, Event::CloudCalled { error: Some(_), .. }));
    assert!(calls < 150, "{calls} calls to a throttling cloud");
    story.strike(Fault::Throttled, 0);
    story.run_for(minutes(15));
    assert_eq!(story.vms(), 0);
}

/// Pain 7: an image unable to boot rents instance after instance for ever.
#[test]
fn unbootable_image_instances_bounded() {
    let mut story = Story::with(|config| number_types(config, &[1]));
    story.never_boots("type1");
    let container = story.submit(bare(1));
    story.run_for(minutes(24 * HOUR));
    assert_eq!(story.starts_of(container), 0);
    let made = story.vms_made();
    assert!(made <= 60, "{made} unbootable instances in a day");
}

/// Pain 8: instance lists with a delay are read as failures.
#[test]
fn lagging_lists_lose_nothing() {
    let lag = [
        (Fault::ListLate, 1, 2),
        (Fault::ListPartial, 1, 3),
        (Fault::ListShowsDead, 1, 2),
        (Fault::TagLate, 1, 2),
    ];
    for seed in 1..=4 {
        let mut story = Story::with_faults(&lag, seed, |config| {
            config.intervals.sync = seconds(5);
            // Lists of this cloud lag by up to two minutes.
            config.timeouts.disappear_grace = minutes(3);
        });
        let all: Vec<_> = (0..12)
            .map(|n| story.submit_as(cores(1 + n % 4), 500, minutes(10)))
            .collect();
        story.run_for(minutes(60));
        for container in all {
            story.assert_complete(container);
            assert_eq!(story.starts_of(container), 1);
        }
        // A destroyed instance may reappear once in a list with dead instances.
        let lost = |event: &&Event| match event {
            Event::Gone {
                expected: None,
                phase,
                ..
            } => *phase != Phase::Unknown,
            Event::CreateWrittenOff { .. } => true,
            _ => false,
        };
        let unexpected: Vec<_> = story.events().into_iter().filter(lost).collect();
        assert!(unexpected.is_empty(), "seed {seed}: {unexpected:?}");
        assert_eq!(story.vms(), 0, "seed {seed}");
    }
}

/// Pain 11: orphan instances cost money for ever.
#[test]
fn orphan_instance_terminated() {
    let mut story = Story::begin();
    let forgotten: Vec<usize> = ["small", "large"].map(|name| story.leave_vm(name)).into();
    let dead = story.leave_vm("huge");
    story.run_for(seconds(5));
    story.vm(dead).freeze();
    story.run_for(minutes(20));
    for vm in forgotten.into_iter().chain([dead]) {
        assert!(story.is_gone(vm));
    }
    assert_eq!(story.creates(), 0);
}

/// Pain 13: unsatisfiable containers hang for ever, and satisfiable containers are cancelled on the
/// first transient error.
#[test]
fn transient_errors_cancel_only_unsatisfiable() {
    let mut story = Story::begin();
    let unsatisfiable = story.submit(cores(64));
    let all: Vec<_> = [1, 2, 4, 8].map(|n| story.submit(cores(n))).into();
    story.strike(Fault::QueueStorm, 3);
    story.strike(Fault::CreateFails, 10);
    story.run_for(minutes(HOUR));
    story.strike(Fault::CreateFails, 0);
    story.run_for(minutes(40));
    story.assert_state(unsatisfiable, ContainerState::Cancelled);
    for container in all {
        story.assert_complete(container);
    }
}

/// Pain 15: no limit on spending.
#[test]
fn price_limit_long_queue_holds() {
    let mut story = Story::with(|config| {
        number_types(config, &[1, 2, 4]);
        config.limits.price_per_hour = Some(MicroDollars(1_000_000));
    });
    let all: Vec<_> = (0..30)
        .map(|n| story.submit_as(bare(1 + n % 4), 1 + u64::from(n), minutes(2)))
        .collect();
    for _ in 0..120 {
        story.run_for(seconds(30));
        let price: u64 = story.totals().price.values().map(|price| price.0).sum();
        assert!(price <= 1_000_000, "{price} micro-dollars an hour");
    }
    for container in all {
        story.assert_complete(container);
    }
}

/// Pain 10: races exceed the limits. Answers of creates are lost, duplicated and late, and the
/// limit holds; the simulator checks the limit at each create.
#[test]
fn instance_limit_lost_create_answers_holds() {
    for seed in 1..=4 {
        let faults = [
            (Fault::CreateAnswerLost, 1, 4),
            (Fault::CreateMadeButFailed, 1, 6),
            (Fault::CreateSlow, 1, 4),
            (Fault::ListLate, 1, 2),
        ];
        let mut story = Story::with_faults(&faults, seed, |config| {
            number_types(config, &[1]);
            config.limits.instances = Some(5);
            config.timeouts.idle = seconds(30);
        });
        let all: Vec<_> = (0..30)
            .map(|_| story.submit_as(bare(1), 500, minutes(1)))
            .collect();
        let mut most = 0;
        for _ in 0..1200 {
            story.run_for(seconds(5));
            most = most.max(story.vms());
        }
        for container in all {
            story.assert_complete(container);
        }
        // An instance created despite an error answer is known only from a later list.
        assert!((2..=7).contains(&most), "seed {seed}: {most} instances");
    }
}

/// Pain 13: a container waiting for ever shows its reason at each moment.
#[test]
fn waiting_container_names_blocking_limit() {
    let mut story = Story::with(|config| config.limits.instances = Some(0));
    let container = story.submit(cores(1));
    story.run_for(minutes(14 * HOUR));
    let shown = story.shown(container).expect("the container waits");
    let full = matches!(&shown.waiting, Some(WaitReason::CreateBlocked(why))
        if why.iter().all(|(_, why)| *why == CreateBlocked::MaxInstances));
    assert!(full, "{:?}", shown.waiting);
    assert!(shown.status.contains("at its capacity"), "{}", shown.status);
}
