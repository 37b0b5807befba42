//! Vanished instances, and instances only missing from lists.

use longshore_core::event::{Event, Level};
use longshore_core::input::ContainerState;
use longshore_sim::Fault;
use longshore_sim::story::{Story, cores, minutes, seconds};

#[test]
fn vanished_before_running_one_attempt() {
    let mut story = Story::begin();
    story.strike(Fault::SlowSetup, 1);
    let container = story.submit(cores(1));
    story.run_until("the runner starts", minutes(5), |s| s.has_runner(container));
    story.assert_state(container, ContainerState::Locked);
    story.vm(0).vanish();
    story.run_for(minutes(15));
    story.assert_complete(container);
    assert_eq!(story.lock_count(container), 2);
    assert_eq!(story.vms_made(), 2);
}

#[test]
fn vanished_while_running_container_cancelled() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), minutes(60));
    story.vm(vm).vanish();
    story.run_for(minutes(15));
    story.assert_cancelled(container, "i-00000001 disappeared while the container ran");
    assert_eq!(story.starts_of(container), 1);
    assert_eq!(
        story.count_events(|e| matches!(e, Event::Gone { expected: None, .. })),
        1
    );
    let warned = |e: &Event| {
        let line = e.to_string();
        e.level() == Level::Warn
            && line.contains("i-00000001 (small) disappeared while Ready, with 1 containers on it")
    };
    assert_eq!(story.count_events(warned), 1);
}

#[test]
fn runner_without_result_container_cancelled() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), minutes(60));
    story.vm(vm).crash_runners();
    story.run_for(minutes(2));
    story.assert_cancelled(container, "exited without reporting a result");
}

#[test]
fn missing_from_one_list_kept() {
    let mut story = Story::with(|config| config.intervals.sync = seconds(30));
    let (container, _) = story.running(cores(1), minutes(20));
    story.run_for(minutes(3));
    story.strike(Fault::ListPartial, 1);
    story.run_for(minutes(2));
    let gone = |e: &Event| matches!(e, Event::Gone { .. });
    assert_eq!(story.count_events(gone), 0);
    story.run_for(minutes(20));
    story.assert_complete(container);
}

#[test]
fn missing_from_lists_answering_kept() {
    let mut story = Story::with(|config| config.intervals.sync = seconds(5));
    let (container, _) = story.running(cores(1), minutes(20));
    story.run_for(minutes(3));
    story.strike(Fault::ListPartial, 100);
    story.run_for(minutes(30));
    story.assert_complete(container);
    assert_eq!(story.starts_of(container), 1);
}

#[test]
fn missing_from_first_list_kept() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), minutes(30));
    story.run_for(minutes(2));
    story.strike(Fault::ListPartial, 1);
    story.restart();
    story.run_for(minutes(5));
    assert_eq!(story.runs_on(container), Some(vm));
    story.run_for(minutes(30));
    story.assert_complete(container);
    assert_eq!(story.starts_of(container), 1);
}

#[test]
fn dead_but_listed_instance_detected() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), minutes(60));
    story.strike(Fault::ListShowsDead, 1);
    story.vm(vm).vanish();
    story.run_for(minutes(30));
    story.assert_state(container, ContainerState::Cancelled);
}

#[test]
fn changed_address_followed() {
    let mut story = Story::begin();
    story.strike(Fault::AddressChanges, 1);
    let container = story.submit_as(cores(1), 500, minutes(90));
    story.run_for(minutes(120));
    story.assert_complete(container);
    assert_eq!(story.starts_of(container), 1);
    assert_eq!(story.vms_made(), 1);
}

#[test]
fn rebooted_instance_reused() {
    let mut story = Story::with(|config| config.timeouts.idle = minutes(20));
    let (container, vm) = story.running(cores(1), minutes(60));
    story.vm(vm).reboot();
    story.run_for(minutes(4));
    story.assert_cancelled(
        container,
        "the runner on i-00000001 exited without reporting a result",
    );
    let other = story.submit(cores(1));
    story.run_for(minutes(1));
    assert_eq!(story.runs_on(other), Some(vm));
    assert_eq!(story.vms_made(), 1);
}
