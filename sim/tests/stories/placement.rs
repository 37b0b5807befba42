//! Placement of containers on instances.

use longshore_core::ids::{ImageId, TypeName};
use longshore_core::resources::Demand;
use longshore_core::{CreateBlocked, WaitReason};
use longshore_sim::story::{Story, cores, minutes, seconds};

/// Removes all other types from the configuration.
fn only(names: &[&str], config: &mut longshore_core::config::Config) {
    config
        .types
        .retain(|name, _| names.contains(&name.as_str()));
}

#[test]
fn containers_share_instance_by_remaining_room() {
    let mut story = Story::with(|config| only(&["large"], config));
    let all: Vec<_> = (0..4).map(|_| story.submit(cores(1))).collect();
    story.run_for(minutes(4));
    for container in &all {
        assert_eq!(story.runs_on(*container), Some(0));
    }
    assert_eq!(story.vms_made(), 1);
}

#[test]
fn zero_core_containers_share_instance() {
    let mut story = Story::with(|config| only(&["medium"], config));
    let all: Vec<_> = (0..4).map(|_| story.submit(cores(0))).collect();
    let one = story.submit(cores(1));
    story.run_for(minutes(4));
    for container in all.iter().chain([&one]) {
        assert_eq!(story.runs_on(*container), Some(0));
    }
}

#[test]
fn packing_disabled_separate_instances() {
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
fn ready_instance_preferred_to_create() {
    let mut story = Story::begin();
    let (first, vm) = story.running(cores(1), seconds(5));
    story.run_until("the runner ends", minutes(2), |s| !s.has_runner(first));
    story.run_for(seconds(12));
    let second = story.submit(cores(1));
    story.run_for(seconds(20));
    assert_eq!(story.runs_on(second), Some(vm));
    assert_eq!(story.vms_made(), 1);
}

#[test]
fn booting_instances_count_as_room() {
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
fn blocked_container_lower_priority_runs() {
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
    assert!(
        story.is_gone(vm),
        "the idle instance is replaced by a larger one"
    );
}

#[test]
fn instance_limit_idle_instance_replaced() {
    let mut story = Story::with(|config| {
        config.limits.instances = Some(1);
        config.timeouts.idle = minutes(60);
    });
    let (small, _) = story.running(cores(1), seconds(5));
    story.run_until("the runner ends", minutes(1), |s| !s.has_runner(small));
    let large = story.submit(cores(8));
    story.run_for(minutes(5));
    assert!(story.is_gone(0));
    assert_eq!(story.runs_on(large), Some(1));
}

#[test]
fn higher_priority_gets_instance() {
    let mut story = Story::with(|config| {
        only(&["small"], config);
        config.limits.instances = Some(1);
    });
    let low = story.submit_as(cores(1), 1, minutes(2));
    let high = story.submit_as(cores(1), 900, minutes(2));
    story.run_until("the container of higher priority runs", minutes(5), |s| {
        s.runs_on(high).is_some()
    });
    assert_eq!(story.runs_on(low), None);
    story.run_for(minutes(10));
    story.assert_complete(low);
}

#[test]
fn custom_image_gets_own_instance() {
    let mut story = Story::with(|config| only(&["large"], config));
    let default = story.submit(cores(1));
    let custom = story.submit(Demand {
        vm_image: Some(ImageId::from("image-2")),
        ..cores(1)
    });
    story.run_for(minutes(4));
    assert_ne!(story.runs_on(default), story.runs_on(custom));
    assert_eq!(story.vms_made(), 2);
}

#[test]
fn removed_type_instance_drained() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), minutes(10));
    story.reconfigure(|config| {
        config.types.remove(&TypeName::from("small"));
    });
    story.run_for(minutes(1));
    let other = story.submit_as(cores(1), 500, seconds(10));
    story.run_for(minutes(5));
    story.assert_complete(other);
    assert_eq!(
        story.runs_on(container),
        Some(vm),
        "the running container stays"
    );
    story.run_for(minutes(10));
    story.assert_complete(container);
    assert!(story.is_gone(vm));
}
