//! Lifecycle of a container from Queued to Complete, and cancellation of unsatisfiable containers.

use longshore_core::input::ContainerState;
use longshore_core::resources::{Demand, MIB};
use longshore_sim::story::{Story, cores, minutes, seconds};

#[test]
fn container_lifecycle_start_to_shutdown() {
    let mut story = Story::begin();
    let container = story.submit(cores(1));
    story.until_running(container);
    assert_eq!(story.type_of(0), "small");
    story.run_for(minutes(6));
    story.assert_complete(container);
    story.run_for(minutes(4));
    assert_eq!((story.vms(), story.vms_made()), (0, 1));
    assert_eq!(story.starts_of(container), 1);
    assert_eq!(
        story.shown(container),
        None,
        "an ended container is forgotten"
    );
}

#[test]
fn unsatisfiable_container_names_nearest_type() {
    let mut story = Story::begin();
    let container = story.submit(cores(64));
    story.run_for(minutes(2));
    story.assert_cancelled(
        container,
        "constraints not satisfiable by any configured instance type",
    );
    story.assert_cancelled(container, "nearest is huge");
    story.assert_cancelled(container, "vcpus 64 needed, 8 offered");
    assert_eq!(story.vms_made(), 0);
}

#[test]
fn malformed_record_cancelled_with_error() {
    let mut story = Story::begin();
    let container = story.submit_malformed();
    story.run_for(minutes(2));
    story.assert_cancelled(container, "mounts: expected an object, found a list");
    assert_eq!(story.vms_made(), 0);
}

#[test]
fn unsatisfiable_container_blocks_no_other() {
    let mut story = Story::begin();
    let huge = Demand {
        ram: 1 << 60,
        ..cores(1)
    };
    let unsatisfiable = story.submit_as(huge, 1000, minutes(1));
    let container = story.submit_as(cores(1), 1, minutes(1));
    story.run_for(minutes(5));
    story.assert_state(unsatisfiable, ContainerState::Cancelled);
    story.assert_complete(container);
}

#[test]
fn queue_hint_polls_immediately() {
    let mut story = Story::with(|config| config.intervals.poll = minutes(10));
    story.run_for(minutes(1));
    let container = story.submit(cores(1));
    story.run_for(seconds(1));
    assert!(story.shown(container).is_some());
}

#[test]
fn long_queue_each_runs_once() {
    let mut story = Story::with(|config| config.limits.instances = Some(4));
    let all: Vec<_> = (0..60)
        .map(|n| story.submit_as(cores(1 + n % 4), u64::from(n % 7 + 1), seconds(30)))
        .collect();
    story.run_for(minutes(90));
    for container in all {
        story.assert_complete(container);
        assert_eq!(story.starts_of(container), 1);
    }
    assert_eq!(story.vms(), 0);
}

#[test]
fn preemptible_container_needs_preemptible_type() {
    let mut story = Story::begin();
    let spot = Demand {
        preemptible: true,
        ..cores(1)
    };
    let container = story.submit(spot);
    story.until_running(container);
    assert_eq!(story.type_of(0), "spot");
}

#[test]
fn memory_demand_selects_type() {
    let mut story = Story::begin();
    let container = story.submit(Demand {
        ram: 10_000 * MIB,
        ..cores(1)
    });
    story.until_running(container);
    assert_eq!(story.type_of(0), "large");
}
