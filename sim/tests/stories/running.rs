//! A container's way from Queued to Complete, and those that can never go it.

use longshore_core::input::ContainerState;
use longshore_core::resources::{Demand, MIB};
use longshore_sim::story::{Story, cores, minutes, seconds};

#[test]
fn a_container_gets_a_vm_runs_and_completes_and_the_vm_is_given_back() {
    let mut story = Story::begin();
    let container = story.submit(cores(1));
    story.until_running(container);
    assert_eq!(story.type_of(0), "small");
    story.run_for(minutes(6));
    story.assert_complete(container);
    story.run_for(minutes(4));
    assert_eq!((story.vms(), story.vms_made()), (0, 1));
    assert_eq!(story.starts_of(container), 1);
    assert_eq!(story.shown(container), None, "what is over is forgotten");
}

#[test]
fn what_fits_no_type_is_cancelled_with_the_resource_and_the_nearest_type() {
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
fn a_malformed_record_is_cancelled_with_what_is_wrong() {
    let mut story = Story::begin();
    let container = story.submit_malformed();
    story.run_for(minutes(2));
    story.assert_cancelled(container, "mounts: expected an object, found a list");
    assert_eq!(story.vms_made(), 0);
}

#[test]
fn one_that_waits_for_the_impossible_does_not_hold_up_others() {
    let mut story = Story::begin();
    let huge = Demand {
        ram: 1 << 60,
        ..cores(1)
    };
    let hopeless = story.submit_as(huge, 1000, minutes(1));
    let container = story.submit_as(cores(1), 1, minutes(1));
    story.run_for(minutes(5));
    story.assert_state(hopeless, ContainerState::Cancelled);
    story.assert_complete(container);
}

#[test]
fn a_hint_of_the_queue_is_heard_at_once() {
    let mut story = Story::with(|config| config.intervals.poll = minutes(10));
    story.run_for(minutes(1));
    let container = story.submit(cores(1));
    story.run_for(seconds(1));
    assert!(story.shown(container).is_some());
}

#[test]
fn every_container_of_a_long_queue_runs_once() {
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
fn a_preemptible_container_runs_on_preemptible_instances_only() {
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
fn memory_decides_as_well_as_cores() {
    let mut story = Story::begin();
    let container = story.submit(Demand {
        ram: 10_000 * MIB,
        ..cores(1)
    });
    story.until_running(container);
    assert_eq!(story.type_of(0), "large");
}
