//! The peer's scenarios of its pool of VMs, of throttling and of choosing types.

use longshore_core::command::{Action, VmAction};
use longshore_core::event::Event;
use longshore_core::ids::{QuotaGroup, TypeName};
use longshore_core::input::{ContainerState, IdleBehavior};
use longshore_core::resources::{Demand, GpuDemand, GpuStack, Gpus, MIB, Version};
use longshore_core::{CreateBlocked, Phase, WaitReason};
use longshore_sim::Fault;
use longshore_sim::story::{Story, bare, cores, minutes, number_types, seconds};

fn blocked(story: &Story, id: longshore_core::ids::ContainerId) -> Vec<(TypeName, CreateBlocked)> {
    match story.shown(id).and_then(|shown| shown.waiting) {
        Some(WaitReason::CreateBlocked(why)) => why,
        _ => Vec::new(),
    }
}

/// Upstream pool: ResumeAfterRestart.
#[test]
fn after_a_restart_held_vms_are_held_removed_types_drain_and_others_run() {
    let mut story = Story::with(|config| number_types(config, &[1, 2, 3]));
    let vms = story.idle_vms(&["type1", "type2", "type3"]);
    story.hold(vms[0]);
    story.run_for(minutes(1));
    story.restart_with(|config| {
        config.types.remove(&TypeName::from("type2"));
    });
    story.run_for(minutes(2));
    let behavior = |story: &Story, vm| story.shown_vm(vm).map(|shown| shown.idle_behavior);
    assert_eq!(behavior(&story, vms[0]), Some(IdleBehavior::Hold));
    assert!(story.is_gone(vms[1]), "nothing ran on it");
    assert_eq!(behavior(&story, vms[2]), Some(IdleBehavior::Run));
}

/// Upstream pool: Drain, start refused on hold and drain.
#[test]
fn nothing_starts_where_an_operator_says_hold_or_drain() {
    let mut story = Story::with(|config| number_types(config, &[2]));
    let (busy, draining) = story.running(bare(1), minutes(30));
    story.drain(draining);
    let held = story.idle_vms(&["type2"])[0];
    story.hold(held);
    let fresh = story.submit_as(bare(1), 500, minutes(20));
    story.until_running(fresh);
    let vm = story.runs_on(fresh);
    assert!(vm != Some(draining) && vm != Some(held));
    assert_eq!(story.runs_on(busy), Some(draining));
}

/// Upstream pool: NodeCreateThrottle, limit 2.
#[test]
fn two_creates_in_flight_are_two_and_not_three() {
    let mut story = Story::with(|config| {
        number_types(config, &[1]);
        config.limits.creates_in_flight = Some(2);
    });
    story.strike(Fault::CreateSlow, 5);
    for _ in 0..5 {
        story.submit(bare(1));
    }
    story.run_for(seconds(25));
    assert_eq!(story.creates(), 2);
}

/// Upstream pool: NodeCreateThrottle, no limit.
#[test]
fn without_a_limit_all_creates_leave_at_once() {
    let mut story = Story::with(|config| {
        number_types(config, &[1]);
        config.limits.creates_in_flight = None;
    });
    story.strike(Fault::CreateSlow, 8);
    for _ in 0..8 {
        story.submit(bare(1));
    }
    story.run_for(seconds(5));
    assert_eq!(story.creates(), 8);
}

/// Upstream pool: CreateUnallocShutdown.
#[test]
fn what_is_asked_for_shows_at_once_and_ends_by_drain_but_not_while_held() {
    let mut story = Story::with(|config| number_types(config, &[1]));
    story.strike(Fault::CreateSlow, 1);
    let container = story.submit_as(bare(1), 500, seconds(10));
    story.run_until("it is asked for", minutes(1), |story| story.creates() == 1);
    let wished = story.totals().instances;
    assert_eq!(wished.values().sum::<u64>(), 1, "a wish counts as booting");
    story.run_for(minutes(8));
    story.assert_complete(container);
    story.hold(0);
    story.run_for(minutes(90));
    assert!(!story.is_gone(0), "held, long after TimeoutIdle");
    story.drain(0);
    story.run_for(minutes(2));
    assert!(story.is_gone(0));
    assert!(story.totals().instances.is_empty());
}

/// Upstream pool: InstanceQuotaGroup, an error for a group.
#[test]
fn a_quota_that_is_met_stops_its_group_and_nothing_else() {
    let mut story = Story::with(|config| {
        number_types(config, &[1, 2, 4]);
        let group = |config: &mut longshore_core::config::Config, name: &str, group: &str| {
            let offer = config.types.get_mut(&TypeName::from(name));
            offer.expect("it is configured").quota_group = QuotaGroup::from(group);
        };
        for name in ["type1", "type2"] {
            group(config, name, "a");
        }
        group(config, "type4", "b");
        config.sizing.max_price_factor_ppm = 1_000_000;
        config.limits.containers_per_instance = Some(1);
    });
    story.set_quota("a", 1);
    let first = story.submit_as(bare(1), 900, minutes(60));
    story.until_running(first);
    let (one, two) = (story.submit(bare(1)), story.submit(bare(2)));
    story.run_for(minutes(1));
    let other = story.submit(bare(4));
    story.run_for(minutes(3));
    for container in [one, two] {
        let why = blocked(&story, container);
        assert!(
            matches!(&why[..], [(_, CreateBlocked::Quota { .. })]),
            "{why:?}"
        );
    }
    assert!(story.runs_on(other).is_some());
}

/// Upstream pool: InstanceQuotaGroup, an error for a type. Ticket 23196: spot and on-demand of one
/// kind of machine shared one flag.
#[test]
fn capacity_that_is_missing_for_spot_is_not_missing_for_on_demand() {
    let mut story = Story::begin();
    story.set_capacity("spot", 0);
    let spot = story.submit(Demand {
        preemptible: true,
        ..cores(4)
    });
    story.run_for(minutes(1));
    let plain = story.submit(cores(4));
    story.run_for(minutes(3));
    assert!(story.runs_on(plain).is_some());
    let why = blocked(&story, spot);
    assert!(
        matches!(&why[..], [(name, CreateBlocked::BackedOff { .. })] if name.as_str() == "spot"),
        "{why:?}"
    );
}

/// Upstream throttle: an error until its deadline, then cleared and told.
#[test]
fn a_rate_limit_holds_until_its_time_and_then_ends_by_itself() {
    let mut story = Story::with(|config| {
        number_types(config, &[1]);
        config.intervals.poll = minutes(30);
        config.limits.containers_per_instance = Some(1);
    });
    story.throttle_creates(seconds(40), 1);
    let all: Vec<_> = (0..3)
        .map(|_| story.submit_as(bare(1), 500, minutes(20)))
        .collect();
    story.run_for(seconds(15));
    let limited = all.iter().filter(|id| {
        matches!(
            &blocked(&story, **id)[..],
            [(_, CreateBlocked::CloudRateLimited { .. })]
        )
    });
    assert_eq!(limited.count(), 2);
    story.run_for(minutes(4));
    assert_eq!(story.how_many_run(&all), 3, "no poll came in between");
}

/// Upstream dispatcher: Instances.
#[test]
fn a_vm_that_was_asked_for_shows_as_booting_with_its_type_and_price() {
    let mut story = Story::with(|config| number_types(config, &[1]));
    let _container = story.submit(bare(1));
    story.run_until("it is made", minutes(1), |story| {
        story.vms_made() == 1 && story.shown_vm(0).is_some()
    });
    let shown = story.shown_vm(0).expect("just seen");
    assert!(matches!(shown.phase, Phase::Creating | Phase::Booting));
    assert_eq!(shown.instance_type, TypeName::from("type1"));
    assert_eq!(shown.price.0, 123_000);
    assert_eq!(shown.idle_behavior, IdleBehavior::Run);
    assert!(
        shown.containers.is_empty(),
        "a place is kept when it is ready"
    );
}

/// Upstream dispatcher: Containers. The peer stops at the one that is blocked and locks it; here it
/// stays Queued, and what ranks lower goes on.
#[test]
fn each_that_waits_shows_its_position_and_what_it_waits_for() {
    let mut story = Story::with(|config| {
        number_types(config, &[1, 4, 6]);
        config.limits.containers_per_instance = Some(1);
    });
    story.set_quota("standard", 4);
    story.set_capacity("type4", 0);
    story.set_capacity("type6", 0);
    let mut submit = |vcpus, priority| story.submit_as(bare(vcpus), priority, minutes(60));
    let first: Vec<_> = (0..3).map(|n| submit(1, 1000 - n)).collect();
    story.run_for(minutes(3));
    let mut submit = |vcpus, priority| story.submit_as(bare(vcpus), priority, minutes(60));
    let blocked = submit(4, 900);
    story.run_for(seconds(30));
    let shown = story.shown(blocked).expect("it waits");
    assert_eq!(
        (shown.state, shown.position),
        (ContainerState::Queued, Some(1))
    );
    let words = "all eligible instance types (type4, type6) are at capacity";
    assert!(shown.status.contains(words), "{}", shown.status);
    let mut submit = |vcpus, priority| story.submit_as(bare(vcpus), priority, minutes(60));
    let rest: Vec<_> = (0..16).map(|n| submit(1, 800 - n)).collect();
    story.run_for(minutes(3));
    for container in first.iter().chain([&rest[0]]) {
        assert!(story.runs_on(*container).is_some());
        assert_eq!(story.status(*container), "");
    }
    for (place, container) in (2..).zip(&rest[1..]) {
        let shown = story.shown(*container).expect("it waits");
        assert_eq!(shown.position, Some(place));
        assert!(
            shown.status.contains("limits are reached"),
            "{}",
            shown.status
        );
    }
}

/// Upstream node_size: each resource can be what nothing has.
#[test]
fn whatever_resource_is_asked_too_much_of_is_named() {
    let mut story = Story::begin();
    let cases = [
        (
            "ram",
            Demand {
                ram: 1 << 50,
                ..cores(1)
            },
        ),
        ("vcpus", cores(64)),
        (
            "ram",
            Demand {
                keep_cache_ram: 1 << 50,
                ..cores(1)
            },
        ),
        (
            "scratch",
            Demand {
                tmp: 1 << 60,
                ..cores(1)
            },
        ),
    ];
    for (resource, demand) in cases {
        let container = story.submit(demand);
        story.run_for(minutes(2));
        story.assert_cancelled(container, "not satisfiable by any configured instance type");
        story.assert_cancelled(container, resource);
    }
    assert_eq!(story.creates(), 0);
}

/// Upstream node_size: without any type there is a specific error.
#[test]
fn without_any_type_everything_is_cancelled_with_the_reason() {
    let mut story = Story::with(|config| config.types.clear());
    let container = story.submit(bare(1));
    story.run_for(minutes(2));
    story.assert_cancelled(container, "no instance types are configured");
}

/// Upstream node_size: at an equal price the one with more memory is taken.
#[test]
fn of_two_types_at_one_price_the_roomier_is_rented() {
    let mut story = Story::with(|config| {
        number_types(config, &[1, 2]);
        let price = config.types[&TypeName::from("type1")].price;
        let larger = config.types.get_mut(&TypeName::from("type2"));
        larger.expect("it is configured").price = price;
    });
    let container = story.submit(bare(1));
    story.until_running(container);
    assert_eq!(story.type_of(0), "type2");
}

/// Upstream node_size: MaximumPriceFactor. The bound is inclusive; what is dearer is never taken.
#[test]
fn types_are_tried_from_the_cheapest_up_to_the_price_bound() {
    let mut story = Story::with(|config| number_types(config, &[4, 5, 6, 7]));
    for name in ["type4", "type5", "type6"] {
        story.set_capacity(name, 0);
    }
    let container = story.submit(bare(4));
    story.run_for(minutes(1));
    let tried: Vec<String> = blocked(&story, container)
        .into_iter()
        .map(|(name, _)| name.to_string())
        .collect();
    assert_eq!(tried, ["type4", "type5", "type6"], "1.5 × the cheapest");
    assert_eq!(story.creates_of("type7"), 0);
    story.set_capacity("type6", 1);
    story.run_for(minutes(10));
    story.assert_complete(container);
}

/// Upstream node_size: buffers of blobs push a container up a size.
#[test]
fn the_buffers_of_its_own_keepstore_count_as_memory() {
    let types = |buffers: u32| {
        let mut story = Story::with(|config| {
            number_types(config, &[1, 2]);
            config.sizing.keep_buffers_per_vcpu = buffers;
        });
        let container = story.submit(Demand {
            ram: 900 * MIB,
            ..bare(1)
        });
        story.until_running(container);
        story.type_of(0)
    };
    assert_eq!((types(0).as_str(), types(4).as_str()), ("type1", "type2"));
}

/// Upstream node_size: preemptible must match exactly.
#[test]
fn on_demand_work_never_runs_on_a_spot_vm_however_cheap_it_is() {
    let mut story = Story::begin();
    let spot = story.submit_as(
        Demand {
            preemptible: true,
            ..cores(1)
        },
        500,
        minutes(30),
    );
    let vm = story.until_running(spot);
    let plain = story.submit(cores(4));
    story.until_running(plain);
    assert_ne!(story.runs_on(plain), Some(vm));
    assert_ne!(story.type_of(1), "spot");
}

/// Upstream node_size: graphics processors.
#[test]
fn a_container_gets_graphics_processors_of_the_kind_it_can_use() {
    let version = |major| Version { major, minor: 0 };
    let gpus = |target: &str, vram: u64| Gpus {
        stack: GpuStack::Cuda,
        driver: version(12),
        target: target.to_owned(),
        count: 1,
        vram: vram << 30,
    };
    let mut story = Story::with(|config| {
        number_types(config, &[1, 2, 3, 4]);
        for (name, kind) in [
            ("type2", gpus("8.0", 80)),
            ("type3", gpus("9.0", 8)),
            ("type4", gpus("9.0", 80)),
        ] {
            let offer = config
                .types
                .get_mut(&TypeName::from(name))
                .expect("configured");
            offer.resources.gpus = kind.count;
            offer.gpus = Some(kind);
        }
    });
    let demand = |target: &str, vram: u64| Demand {
        gpu: Some(GpuDemand {
            stack: GpuStack::Cuda,
            driver: version(11),
            targets: vec![target.to_owned()],
            count: 1,
            vram: vram << 30,
        }),
        ..bare(1)
    };
    let cases = [
        ("8.0", 4, "type2"),
        ("9.0", 4, "type3"),
        ("9.0", 40, "type4"),
    ];
    for (number, (target, vram, wanted)) in cases.into_iter().enumerate() {
        let container = story.submit_as(demand(target, vram), 500, minutes(60));
        story.until_running(container);
        assert_eq!(story.type_of(number), wanted);
    }
    let none = story.submit(demand("10.0", 4));
    story.run_for(minutes(1));
    story.assert_cancelled(none, "its GPU does not suit");
}

/// Upstream pool: the list of VMs empties and those who look are told.
#[test]
fn when_all_is_done_no_vm_is_left_and_each_ends_with_an_event() {
    let mut story = Story::begin();
    for vcpus in [1, 2, 4] {
        story.submit_as(cores(vcpus), 500, seconds(20));
    }
    story.run_for(minutes(15));
    let gone = |event: &Event| {
        matches!(
            event,
            Event::Gone {
                expected: Some(_),
                ..
            }
        )
    };
    assert_eq!(story.count_events(gone), story.vms_made());
    assert_eq!((story.vms(), story.open()), (0, 0));
    let starts = story.count_commands(|action| {
        matches!(
            action,
            Action::Vm {
                action: VmAction::Start { .. },
                ..
            }
        )
    });
    assert_eq!(starts, 3);
}
