//! Which container runs where.

use longshore_core::ids::{ImageId, TypeName};
use longshore_core::resources::Demand;
use longshore_core::{CreateBlocked, WaitReason};
use longshore_sim::story::{Story, cores, minutes, seconds};

/// The types but these are not configured.
fn only(names: &[&str], config: &mut longshore_core::config::Config) {
    config
        .types
        .retain(|name, _| names.contains(&name.as_str()));
}

#[test]
fn several_containers_share_a_vm_by_what_is_left_of_it() {
    let mut story = Story::with(|config| only(&["large"], config));
    let all: Vec<_> = (0..4).map(|_| story.submit(cores(1))).collect();
    story.run_for(minutes(4));
    for container in &all {
        assert_eq!(story.runs_on(*container), Some(0));
    }
    assert_eq!(story.vms_made(), 1);
}

#[test]
fn containers_without_cores_share_one() {
    let mut story = Story::with(|config| only(&["medium"], config));
    let all: Vec<_> = (0..4).map(|_| story.submit(cores(0))).collect();
    let one = story.submit(cores(1));
    story.run_for(minutes(4));
    for container in all.iter().chain([&one]) {
        assert_eq!(story.runs_on(*container), Some(0));
    }
}

#[test]
fn packing_can_be_turned_off() {
    let mut story = Story::with(|config| {
        only(&["large"], config);
        config.limits.containers_per_instance = Some(1);
    });
    let all: Vec<_> = (0..3).map(|_| story.submit(cores(1))).collect();
    story.run_for(minutes(4));
    assert_eq!(story.vms_made(), 3);
    assert!(all.iter().all(|id| story.runs_on(*id).is_some()));
}

#[test]
fn a_vm_that_is_ready_is_preferred_to_a_new_one() {
    let mut story = Story::begin();
    let (first, vm) = story.running(cores(1), seconds(5));
    story.run_until("it ends", minutes(2), |s| !s.has_runner(first));
    story.run_for(seconds(12));
    let second = story.submit(cores(1));
    story.run_for(seconds(20));
    assert_eq!(story.runs_on(second), Some(vm));
    assert_eq!(story.vms_made(), 1);
}

#[test]
fn booting_vms_count_as_room_already() {
    let mut story = Story::with(|config| only(&["medium"], config));
    let _first = story.submit(cores(1));
    story.run_for(seconds(12));
    let second = story.submit(cores(1));
    story.run_for(seconds(2));
    let waiting = story.shown(second).and_then(|view| view.waiting);
    assert!(
        matches!(waiting, Some(WaitReason::Booting { .. })),
        "{waiting:?}"
    );
    story.run_for(minutes(5));
    assert_eq!(story.vms_made(), 1);
}

#[test]
fn a_blocked_container_never_blocks_a_lower_one_that_can_run_now() {
    let mut story = Story::with(|config| config.limits.instances = Some(1));
    let (long, vm) = story.running(cores(2), minutes(60));
    let blocked = story.submit_as(cores(8), 1000, minutes(1));
    story.run_for(minutes(1));
    let waiting = story.shown(blocked).and_then(|view| view.waiting);
    let full =
        |w: &[(TypeName, CreateBlocked)]| w.iter().all(|(_, b)| *b == CreateBlocked::MaxInstances);
    assert!(
        matches!(&waiting, Some(WaitReason::CreateBlocked(why)) if full(why)),
        "{waiting:?}"
    );
    story.kill_container(long);
    story.run_for(seconds(20));
    let small = story.submit_as(cores(1), 1, seconds(10));
    story.run_for(minutes(10));
    story.assert_complete(blocked);
    story.assert_complete(small);
    assert!(story.is_gone(vm), "it made room for the larger one");
}

#[test]
fn at_the_limit_an_idle_vm_that_fits_nothing_makes_room() {
    let mut story = Story::with(|config| {
        config.limits.instances = Some(1);
        config.timeouts.idle = minutes(60);
    });
    let (small, _) = story.running(cores(1), seconds(5));
    story.run_until("it ends", minutes(1), |s| !s.has_runner(small));
    let large = story.submit(cores(8));
    story.run_for(minutes(5));
    assert!(story.is_gone(0));
    assert_eq!(story.runs_on(large), Some(1));
}

#[test]
fn the_higher_priority_gets_the_vm() {
    let mut story = Story::with(|config| {
        only(&["small"], config);
        config.limits.instances = Some(1);
    });
    let low = story.submit_as(cores(1), 1, minutes(2));
    let high = story.submit_as(cores(1), 900, minutes(2));
    story.run_until("one runs", minutes(5), |s| s.runs_on(high).is_some());
    assert_eq!(story.runs_on(low), None);
    story.run_for(minutes(10));
    story.assert_complete(low);
}

#[test]
fn a_container_with_its_own_image_gets_its_own_vm() {
    let mut story = Story::with(|config| only(&["large"], config));
    let usual = story.submit(cores(1));
    let special = story.submit(Demand {
        vm_image: Some(ImageId::from("image-2")),
        ..cores(1)
    });
    story.run_for(minutes(4));
    assert_ne!(story.runs_on(usual), story.runs_on(special));
    assert_eq!(story.vms_made(), 2);
}

#[test]
fn a_type_that_is_no_longer_configured_is_drained() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), minutes(10));
    story.reconfigure(|config| {
        config.types.remove(&TypeName::from("small"));
    });
    story.run_for(minutes(1));
    let other = story.submit_as(cores(1), 500, seconds(10));
    story.run_for(minutes(5));
    story.assert_complete(other);
    assert_eq!(story.runs_on(container), Some(vm), "it is left in peace");
    story.run_for(minutes(10));
    story.assert_complete(container);
    assert!(story.is_gone(vm));
}
