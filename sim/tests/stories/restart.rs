//! Restart: a new process adopts existing instances and containers without disturbing running
//! containers.

use longshore_core::command::Signal;
use longshore_core::event::Event;
use longshore_core::ids::ImageId;
use longshore_core::input::ContainerState;
use longshore_sim::Fault;
use longshore_sim::story::{Story, cores, minutes, seconds};

#[test]
fn restart_leaves_running_containers_alone() {
    let mut story = Story::with(|config| config.types.retain(|name, _| name.as_str() == "large"));
    let all: Vec<_> = (0..6)
        .map(|_| story.submit_as(cores(1), 500, minutes(30)))
        .collect();
    for container in &all {
        story.until_running(*container);
    }
    for _ in 0..4 {
        story.restart();
        story.run_for(minutes(2));
    }
    let signals = story.count_events(|e| matches!(e, Event::Signalling { .. }));
    assert_eq!(signals, 0);
    story.run_for(minutes(60));
    for container in all {
        story.assert_complete(container);
        assert_eq!(story.starts_of(container), 1);
    }
    assert_eq!(story.vms_made(), 2);
    assert_eq!(story.vms(), 0);
}

#[test]
fn restart_silent_instance_new_starts_continue() {
    let mut story = Story::begin();
    let (old, vm) = story.running(cores(1), minutes(60));
    story.vm(vm).be_silent_for(minutes(6));
    let fresh = story.submit(cores(1));
    story.restart();
    story.run_for(minutes(4));
    assert!(story.runs_on(fresh).is_some(), "{:?}", story.shown(fresh));
    assert_eq!(story.runs_on(old), Some(vm));
    story.run_for(minutes(60));
    story.assert_complete(old);
}

#[test]
fn unprobed_instance_running_not_cancelled() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), minutes(30));
    story.vm(vm).be_silent_for(minutes(9));
    story.restart();
    story.run_for(minutes(7));
    story.assert_state(container, ContainerState::Running);
    story.run_for(minutes(40));
    story.assert_complete(container);
}

#[test]
fn unowned_lock_released_after_restart() {
    let mut story = Story::begin();
    story.strike(Fault::CrashBeforeRunning, 1);
    let container = story.submit(cores(1));
    story.run_until("the start is sent", minutes(5), |s| {
        s.starts_of(container) == 1
    });
    story.restart();
    story.run_for(minutes(15));
    story.assert_complete(container);
    assert_eq!(story.lock_count(container), 2);
}

#[test]
fn result_during_downtime_kept() {
    let mut story = Story::begin();
    let (container, _) = story.running(cores(1), seconds(40));
    story.strike(Fault::RestartSlow, 1);
    story.restart();
    story.run_for(minutes(40));
    story.assert_complete(container);
    assert_eq!(story.starts_of(container), 1);
    assert_eq!(story.vms(), 0);
}

#[test]
fn vanished_during_downtime_detected() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), minutes(60));
    story.strike(Fault::RestartSlow, 1);
    story.restart();
    story.vm(vm).vanish();
    story.run_for(minutes(40));
    story.assert_cancelled(container, "runs on no instance");
}

#[test]
fn found_runner_occupies_room() {
    let mut story = Story::with(|config| {
        config.types.retain(|name, _| name.as_str() == "large");
        config.limits.instances = Some(1);
    });
    let (running, vm) = story.running(cores(4), minutes(30));
    let waiting = story.submit(cores(2));
    story.restart();
    story.run_for(minutes(10));
    assert_eq!(story.runs_on(running), Some(vm));
    assert_eq!(story.starts_of(waiting), 0);
}

#[test]
fn restart_continues_stop_escalation() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), minutes(600));
    story.vm(vm).ignore_kill();
    story.set_priority(container, 0);
    story.run_for(minutes(1));
    story.restart();
    story.run_for(minutes(6));
    let kill = |e: &Event| {
        matches!(
            e,
            Event::Signalling {
                signal: Signal::Kill,
                ..
            }
        )
    };
    assert!(story.count_events(kill) > 0);
    assert!(story.is_gone(vm));
}

#[test]
fn create_at_crash_adopted() {
    let mut story = Story::begin();
    let container = story.submit(cores(1));
    story.run_until("a create is sent", minutes(1), |s| s.creates() == 1);
    story.run_for(seconds(1));
    story.restart();
    story.run_for(minutes(10));
    story.assert_complete(container);
    assert_eq!(story.vms(), 0);
}

#[test]
fn restart_instance_image_from_tag() {
    let mut story = Story::with(|config| {
        config.types.retain(|name, _| name.as_str() == "small");
        config.timeouts.idle = minutes(600);
    });
    let custom = longshore_core::resources::Demand {
        vm_image: Some(ImageId::from("image-2")),
        ..cores(1)
    };
    let (_, default_vm) = story.running(cores(1), seconds(5));
    let (_, custom_vm) = story.running(custom.clone(), seconds(5));
    assert_ne!(default_vm, custom_vm);
    story.run_for(minutes(1));
    story.reconfigure(|config| config.image = ImageId::from("image-3"));
    story.restart();
    story.run_for(minutes(2));
    let again = story.submit(custom);
    assert_eq!(story.until_running(again), custom_vm);
    let plain = story.submit(cores(1));
    assert_eq!(
        story.until_running(plain),
        2,
        "no earlier instance has booted from image-3"
    );
}
