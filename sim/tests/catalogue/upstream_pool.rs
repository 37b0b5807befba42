//! Scenarios of the peer's worker pool, throttling and choice of types.

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
fn restart_restores_hold_drains_removed_types() {
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
    assert!(
        story.is_gone(vms[1]),
        "the removed type without containers is shut down"
    );
    assert_eq!(behavior(&story, vms[2]), Some(IdleBehavior::Run));
}

/// Upstream pool: Drain, start refused on hold and drain.
#[test]
fn held_or_draining_instance_gets_no_start() {
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
fn create_concurrency_limit_two() {
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
fn create_concurrency_unlimited() {
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
fn create_request_listed_until_drained() {
    let mut story = Story::with(|config| number_types(config, &[1]));
    story.strike(Fault::CreateSlow, 1);
    let container = story.submit_as(bare(1), 500, seconds(10));
    story.run_until("the create is sent", minutes(1), |story| {
        story.creates() == 1
    });
    let pending = story.totals().instances;
    assert_eq!(
        pending.values().sum::<u64>(),
        1,
        "a create request counts as booting"
    );
    story.run_for(minutes(8));
    story.assert_complete(container);
    story.hold(0);
    story.run_for(minutes(90));
    assert!(!story.is_gone(0), "a held instance stays past TimeoutIdle");
    story.drain(0);
    story.run_for(minutes(2));
    assert!(story.is_gone(0));
    assert!(story.totals().instances.is_empty());
}

/// Upstream pool: InstanceQuotaGroup, error for a group.
#[test]
fn quota_error_blocks_only_its_group() {
    let mut story = Story::with(|config| {
        number_types(config, &[1, 2, 4]);
        let group = |config: &mut longshore_core::config::Config, name: &str, group: &str| {
            let offer = config.types.get_mut(&TypeName::from(name));
            offer.expect("a configured type").quota_group = QuotaGroup::from(group);
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

/// Upstream pool: InstanceQuotaGroup, error for a type. Ticket 23196: spot and on-demand instances
/// of the same provider type shared a flag.
#[test]
fn spot_capacity_error_spares_on_demand() {
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

/// Upstream throttle: an error until its deadline, then cleared and reported.
#[test]
fn cloud_rate_limit_expires_without_poll() {
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
    assert_eq!(story.how_many_run(&all), 3, "no poll in between");
}

/// Upstream dispatcher: Instances.
#[test]
fn created_instance_shown_as_booting() {
    let mut story = Story::with(|config| number_types(config, &[1]));
    let _container = story.submit(bare(1));
    story.run_until("the instance is created", minutes(1), |story| {
        story.vms_made() == 1 && story.shown_vm(0).is_some()
    });
    let shown = story.shown_vm(0).expect("the instance is known");
    assert!(matches!(shown.phase, Phase::Creating | Phase::Booting));
    assert_eq!(shown.instance_type, TypeName::from("type1"));
    assert_eq!(shown.price.0, 123_000);
    assert_eq!(shown.idle_behavior, IdleBehavior::Run);
    assert!(
        shown.containers.is_empty(),
        "containers are reserved on ready instances only"
    );
}

/// Upstream dispatcher: Containers. The peer locks the first blocked container and stops there;
/// here the blocked container stays Queued, and containers of lower rank continue.
#[test]
fn waiting_containers_show_position_and_reason() {
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
    let shown = story.shown(blocked).expect("the container waits");
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
        let shown = story.shown(*container).expect("the container waits");
        assert_eq!(shown.position, Some(place));
        assert!(
            shown.status.contains("limits are reached"),
            "{}",
            shown.status
        );
    }
}

/// Upstream node_size: unsatisfiable by each resource in turn.
#[test]
fn excessive_demand_names_resource() {
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

/// Upstream node_size: a specific error without any configured type.
#[test]
fn no_types_container_cancelled() {
    let mut story = Story::with(|config| config.types.clear());
    let container = story.submit(bare(1));
    story.run_for(minutes(2));
    story.assert_cancelled(container, "no instance types are configured");
}

/// Upstream node_size: the type with more memory wins at an equal price.
#[test]
fn equal_price_larger_type_chosen() {
    let mut story = Story::with(|config| {
        number_types(config, &[1, 2]);
        let price = config.types[&TypeName::from("type1")].price;
        let larger = config.types.get_mut(&TypeName::from("type2"));
        larger.expect("a configured type").price = price;
    });
    let container = story.submit(bare(1));
    story.until_running(container);
    assert_eq!(story.type_of(0), "type2");
}

/// Upstream node_size: MaximumPriceFactor. The bound is inclusive; more expensive types are never
/// used.
#[test]
fn types_tried_up_to_price_bound() {
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
    assert_eq!(
        tried,
        ["type4", "type5", "type6"],
        "up to 1.5 × the cheapest price"
    );
    assert_eq!(story.creates_of("type7"), 0);
    story.set_capacity("type6", 1);
    story.run_for(minutes(10));
    story.assert_complete(container);
}

/// Upstream node_size: blob buffers raise the memory need to the next type.
#[test]
fn keepstore_buffers_count_as_memory() {
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
fn on_demand_container_avoids_spot_instance() {
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
fn gpu_container_gets_matching_type() {
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
                .expect("a configured type");
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

/// Upstream pool: the instance list becomes empty, and subscribers are notified.
#[test]
fn finished_queue_leaves_no_instance() {
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
