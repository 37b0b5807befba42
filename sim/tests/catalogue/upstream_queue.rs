//! Scenarios of the peer's run queue: a single scheduling pass.
//!
//! The peer locks a container as soon as an instance is being created, and unlocks after a failed
//! create; here a container is locked once a ready instance is reserved. Statements of the peer's
//! scenarios about locks and unlocks are checked here as starts and creates.

use longshore_core::ids::TypeName;
use longshore_core::resources::{Demand, MIB};
use longshore_core::{CreateBlocked, WaitReason};
use longshore_sim::Fault;
use longshore_sim::story::{Story, bare, minutes, number_types, seconds};

/// Upstream run_queue: UseIdleWorkers.
#[test]
fn highest_priority_takes_idle_instance() {
    let mut story = Story::with(|config| number_types(config, &[1, 2]));
    let idle = story.idle_vms(&["type1", "type2"]);
    let all: Vec<_> = (1..=4)
        .map(|priority| story.submit_as(bare(1), priority, minutes(20)))
        .collect();
    story.run_for(minutes(3));
    assert_eq!(story.runs_on(all[3]), Some(idle[0]));
    assert_eq!(
        story.creates_of("type1"),
        3,
        "an idle type2 is too expensive"
    );
    assert_eq!(story.creates_of("type2"), 0);
    assert_eq!(story.how_many_run(&all), 4);
}

/// Upstream run_queue: Pack_NewInstance.
#[test]
fn small_containers_packed_on_new_instances() {
    let mut story = Story::with(|config| number_types(config, &[2, 4]));
    let all: Vec<_> = (0..4).map(|_| story.submit(bare(1))).collect();
    story.run_for(minutes(3));
    assert_eq!((story.creates_of("type2"), story.creates()), (2, 2));
    assert_eq!(story.how_many_run(&all), 4);
}

/// Upstream run_queue: Pack_IdleInstance.
#[test]
fn larger_idle_instance_filled_before_create() {
    let mut story = Story::with(|config| number_types(config, &[2, 3]));
    let idle = story.idle_vms(&["type3"]);
    let all: Vec<_> = (0..4)
        .map(|n| story.submit_as(bare(1), 10 - n, minutes(20)))
        .collect();
    story.run_for(minutes(3));
    for container in &all[..3] {
        assert_eq!(story.runs_on(*container), Some(idle[0]));
    }
    assert_eq!((story.creates_of("type2"), story.creates()), (1, 1));
    assert_eq!(story.how_many_run(&all), 4);
}

/// Upstream run_queue: Pack_IdleInstance, too big.
#[test]
fn overpriced_idle_instance_not_used() {
    let mut story = Story::with(|config| number_types(config, &[2, 4]));
    let idle = story.idle_vms(&["type4"]);
    let all: Vec<_> = (0..4).map(|_| story.submit(bare(1))).collect();
    story.run_for(minutes(3));
    assert_eq!(story.creates_of("type2"), 2);
    assert!(all.iter().all(|id| story.runs_on(*id) != Some(idle[0])));
}

/// Upstream run_queue: Pack_SpareResources.
#[test]
fn busy_instance_spare_room_used_first() {
    let mut story = Story::with(|config| number_types(config, &[2, 3]));
    let used = story.idle_vms(&["type3"])[0];
    let (_, vm) = story.running(bare(1), minutes(30));
    assert_eq!(vm, used);
    let all: Vec<_> = (0..3)
        .map(|n| story.submit_as(bare(1), 10 - n, minutes(20)))
        .collect();
    story.run_for(minutes(3));
    assert_eq!(story.runs_on(all[0]), Some(used));
    assert_eq!(story.runs_on(all[1]), Some(used));
    assert_eq!(story.creates(), 1);
    assert!(story.runs_on(all[2]).is_some_and(|vm| vm != used));
}

/// Upstream run_queue: Pack_IdleBehaviorHold.
#[test]
fn held_instance_not_packed() {
    let mut story = Story::with(|config| number_types(config, &[2, 3]));
    let held = story.idle_vms(&["type3"])[0];
    story.hold(held);
    let all: Vec<_> = (0..4).map(|_| story.submit(bare(1))).collect();
    story.run_for(minutes(3));
    assert_eq!(story.creates_of("type2"), 2);
    assert_eq!(story.how_many_run(&all), 4);
    assert!(all.iter().all(|id| story.runs_on(*id) != Some(held)));
}

/// Upstream run_queue: Pack_DisabledInConfig.
#[test]
fn packing_disabled_one_container_per_instance() {
    let mut story = Story::with(|config| {
        number_types(config, &[2, 3]);
        config.limits.containers_per_instance = Some(1);
    });
    let idle = story.idle_vms(&["type3"])[0];
    let all: Vec<_> = (0..4)
        .map(|n| story.submit_as(bare(1), 10 - n, minutes(20)))
        .collect();
    story.run_for(minutes(3));
    assert_eq!(story.runs_on(all[0]), Some(idle));
    assert_eq!((story.creates_of("type2"), story.creates()), (3, 3));
}

/// Upstream run_queue: Pack_LimitedInConfig.
#[test]
fn packing_limit_two_per_instance() {
    let mut story = Story::with(|config| {
        number_types(config, &[8]);
        config.limits.containers_per_instance = Some(2);
    });
    let all: Vec<_> = (0..4).map(|_| story.submit(bare(1))).collect();
    story.run_for(minutes(3));
    assert_eq!(story.creates_of("type8"), 2);
    assert_eq!(story.how_many_run(&all), 4);
}

/// Upstream run_queue: Pack_InstanceStateUnknown. A found instance counts as room until its first
/// failed probe; in the peer, for as long as the instance may boot.
#[test]
fn unprobed_instance_counts_as_room() {
    let mut story = Story::with(|config| number_types(config, &[2]));
    let found = story.leave_vm("type2");
    story.run_until("the instance is found", minutes(2), |story| {
        story.shown_vm(found).is_some()
    });
    // Each command to the instance hangs until its deadline.
    story.vm(found).freeze();
    let all: Vec<_> = (0..4)
        .map(|n| story.submit_as(bare(1), 10 - n, minutes(20)))
        .collect();
    story.run_until("a create is sent", minutes(1), |story| story.creates() == 1);
    story.run_for(seconds(2));
    assert_eq!(
        story.creates(),
        1,
        "the found instance has room for two containers"
    );
    for container in &all[..2] {
        assert_eq!(
            story.until_running(*container),
            1,
            "the new instance is ready first"
        );
    }
    story.run_for(minutes(5));
    assert_eq!(
        story.how_many_run(&all),
        4,
        "no container waits for a silent instance"
    );
}

/// Upstream run_queue: Pack_Resources.
#[test]
fn packing_respects_cores_memory_disk() {
    let mut story = Story::with(|config| number_types(config, &[1, 2, 4, 8, 16]));
    let needs = |vcpus: u32, gib: u64, disk: u64| Demand {
        vcpus,
        ram: gib * 1024 * MIB,
        tmp: disk << 30,
        ..Demand::default()
    };
    let nothing: Vec<_> = (0..4).map(|_| story.submit(bare(0))).collect();
    let large = story.submit(bare(16));
    // Each of the three needs a type8 for a different resource; together they fit on a single
    // type8.
    let three = [needs(5, 1, 1), needs(1, 6, 1), needs(2, 0, 5)];
    let three: Vec<_> = three.into_iter().map(|need| story.submit(need)).collect();
    story.run_for(minutes(4));
    for (name, count) in [("type1", 1), ("type2", 0), ("type8", 1), ("type16", 1)] {
        assert_eq!(story.creates_of(name), count, "{name}");
    }
    for group in [&nothing, &three] {
        let vm = story.runs_on(group[0]);
        assert!(vm.is_some());
        assert!(group.iter().all(|id| story.runs_on(*id) == vm));
    }
    assert!(story.runs_on(large).is_some());
}

/// Upstream run_queue: Pack_0VCPUs.
#[test]
fn full_instance_rejects_zero_core_container() {
    let mut story = Story::with(|config| number_types(config, &[2]));
    let full = story.submit_as(bare(2), 900, minutes(20));
    story.until_running(full);
    let none = story.submit(bare(0));
    story.until_running(none);
    assert_ne!(story.runs_on(full), story.runs_on(none));
}

/// Upstream run_queue: ShutdownAtQuota, quota 2. The peer shuts both idle instances down and starts
/// nothing; here an idle instance is replaced for the first container, and the second container
/// starts on the other instance immediately.
#[test]
fn instance_limit_one_idle_instance_replaced() {
    let mut story = Story::with(|config| {
        number_types(config, &[2, 3]);
        config.sizing.max_price_factor_ppm = 1_000_000;
        config.limits.instances = Some(2);
    });
    let idle = story.idle_vms(&["type2", "type2"]);
    let first = story.submit_as(bare(3), 900, minutes(20));
    let second = story.submit_as(bare(2), 800, minutes(20));
    story.run_for(minutes(4));
    assert!(story.runs_on(second).is_some_and(|vm| idle.contains(&vm)));
    assert_eq!(story.creates_of("type3"), 1);
    assert!(story.runs_on(first).is_some());
    assert_eq!(story.vms(), 2);
    assert_eq!(story.unlocks(), 0);
}

/// Upstream run_queue: ShutdownAtQuota, quota 3.
#[test]
fn below_limit_idle_instances_kept() {
    let mut story = Story::with(|config| {
        number_types(config, &[2, 3]);
        config.sizing.max_price_factor_ppm = 1_000_000;
        config.limits.instances = Some(3);
    });
    let idle = story.idle_vms(&["type2", "type2"]);
    let first = story.submit_as(bare(3), 900, minutes(20));
    let second = story.submit_as(bare(2), 800, minutes(20));
    story.run_for(seconds(20));
    assert!(story.runs_on(second).is_some_and(|vm| idle.contains(&vm)));
    story.until_running(first);
    assert_eq!((story.creates(), story.destroys()), (1, 0));
}

/// Upstream run_queue: InstanceCapacity.
#[test]
fn type_at_capacity_lower_priority_runs() {
    let mut story = Story::with(|config| {
        number_types(config, &[1, 4]);
        config.limits.containers_per_instance = Some(1);
    });
    story.set_capacity("type4", 1);
    let top = story.submit_as(bare(4), 900, minutes(60));
    story.until_running(top);
    let waiting: Vec<_> = (0..2)
        .map(|_| story.submit_as(bare(4), 800, minutes(5)))
        .collect();
    story.run_for(minutes(1));
    let low = story.submit_as(bare(1), 1, minutes(20));
    story.run_for(minutes(3));
    assert!(story.runs_on(low).is_some());
    assert_eq!(story.creates_of("type1"), 1);
    for container in waiting {
        let why = story.shown(container).and_then(|shown| shown.waiting);
        let backed_off = |(name, why): &(TypeName, CreateBlocked)| {
            name.as_str() == "type4"
                && matches!(why, CreateBlocked::BackedOff { .. } | CreateBlocked::Canary)
        };
        assert!(
            matches!(&why, Some(WaitReason::CreateBlocked(all)) if all.iter().all(backed_off)),
            "{why:?}"
        );
        assert_eq!(
            story.lock_count(container),
            0,
            "the container was never locked"
        );
    }
}

/// Upstream run_queue: EqualPriority.
#[test]
fn equal_priority_locked_once_never_unlocked() {
    let mut story = Story::with(|config| {
        number_types(config, &[2]);
        config.limits.instances = Some(2);
        config.limits.containers_per_instance = Some(1);
    });
    let all: Vec<_> = (0..8)
        .map(|_| story.submit_as(bare(2), 5, minutes(3)))
        .collect();
    story.run_for(minutes(30));
    for container in all {
        story.assert_complete(container);
        assert_eq!(story.lock_count(container), 1);
    }
    assert_eq!(story.unlocks(), 0);
}

/// Upstream run_queue: StartWhileCreating.
#[test]
fn idle_used_booting_reserved_rest_created() {
    let mut story = Story::with(|config| {
        number_types(config, &[1, 2]);
        config.sizing.max_price_factor_ppm = 1_000_000;
        config.limits.containers_per_instance = Some(1);
    });
    story.boots_take((300, 300));
    for vcpus in [1, 2] {
        let cancelled = story.submit(bare(vcpus));
        story.run_for(seconds(5));
        story.set_priority(cancelled, 0);
    }
    story.boots_take((1, 2));
    let idle = story.idle_vms(&["type1", "type2"]);
    assert_eq!(story.creates(), 2, "one instance of each type is booting");
    story.boots_take((300, 300));
    let of = |story: &mut Story, vcpus| -> Vec<_> {
        (0..3)
            .map(|n| story.submit_as(bare(vcpus), 10 - n, minutes(60)))
            .collect()
    };
    let small = of(&mut story, 1);
    let large = of(&mut story, 2);
    story.run_for(seconds(20));
    assert_eq!(story.runs_on(small[0]), Some(idle[0]));
    assert_eq!(story.runs_on(large[0]), Some(idle[1]));
    assert_eq!(story.how_many_run(&small) + story.how_many_run(&large), 2);
    assert_eq!(story.creates_of("type1"), 2);
    assert_eq!(story.creates_of("type2"), 2);
}

/// Upstream run_queue: ContainersMetrics.
#[test]
fn waiting_containers_counted_by_cause() {
    let mut story = Story::with(|config| {
        number_types(config, &[1]);
        config.limits.instances = Some(1);
    });
    let first = story.submit_as(bare(1), 900, minutes(20));
    let begun = story.elapsed();
    story.run_for(seconds(10));
    let totals = story.totals();
    assert_eq!((totals.allocated_not_started, totals.not_allocated), (1, 0));
    let oldest = totals.oldest_waiting.expect("a waiting container");
    assert_eq!(story.since_begin(oldest), begun);
    let _second = story.submit(bare(1));
    story.run_for(seconds(1));
    let totals = story.totals();
    assert_eq!((totals.allocated_not_started, totals.not_allocated), (1, 1));
    story.until_running(first);
    story.run_for(seconds(5));
    let totals = story.totals();
    assert_eq!((totals.allocated_not_started, totals.not_allocated), (0, 1));
    assert_eq!(totals.runners, 1);
}

/// Upstream queue: an unsatisfiable or malformed container is cancelled and never waits for an
/// instance.
#[test]
fn unrunnable_containers_cancelled_once() {
    let mut story = Story::begin();
    story.strike(Fault::QueueAnswerLate, 2);
    let unsatisfiable = story.submit(bare(64));
    let malformed = story.submit_malformed();
    story.run_for(minutes(10));
    story.assert_cancelled(
        unsatisfiable,
        "constraints not satisfiable by any configured instance type",
    );
    story.assert_cancelled(malformed, "expected an object");
    assert_eq!(story.creates(), 0);
    for container in [unsatisfiable, malformed] {
        assert_eq!(story.cancels_of(container), 1);
        assert_eq!(
            story.lock_count(container),
            1,
            "locked once to write the reason"
        );
    }
}

/// Upstream queue: unlock of a Queued, lock of a locked and any change of a cancelled container are
/// refused. The core knows the state and never sends such a request.
#[test]
fn queue_refuses_no_request() {
    let mut story = Story::begin();
    let all: Vec<_> = (0..5)
        .map(|n| story.submit_as(bare(1), n + 1, minutes(1)))
        .collect();
    story.run_for(seconds(90));
    story.set_priority(all[0], 0);
    story.run_for(minutes(20));
    let refused = story.count_events(|event| {
        matches!(event, longshore_core::event::Event::UpdateFailed { error, .. }
            if error.contains("refused"))
    });
    assert_eq!(refused, 0);
}
