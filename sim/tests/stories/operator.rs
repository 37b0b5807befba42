//! Requests of operators: hold, drain, run and kill.

use longshore_core::event::Event;
use longshore_core::input::{ContainerState, IdleBehavior};
use longshore_core::{Phase, ShutdownReason};
use longshore_sim::Fault;
use longshore_sim::story::{Story, cores, minutes, seconds};

#[test]
fn held_instance_never_shut_down() {
    let mut story = Story::begin();
    let (first, vm) = story.running(cores(1), seconds(10));
    story.hold(vm);
    story.run_for(minutes(2));
    story.assert_complete(first);
    let second = story.submit_as(cores(1), 500, minutes(5));
    story.run_for(minutes(20));
    story.assert_complete(second);
    assert_eq!(story.vms_made(), 2);
    story.run_for(minutes(120));
    assert!(!story.is_gone(vm));
    assert_eq!(story.vms(), 1);
}

#[test]
fn hold_survives_restart() {
    let mut story = Story::begin();
    let (_, vm) = story.running(cores(1), seconds(10));
    story.hold(vm);
    story.run_for(minutes(2));
    story.restart();
    story.run_for(minutes(60));
    assert!(!story.is_gone(vm));
    let shown = story.shown_vm(vm).map(|view| view.idle_behavior);
    assert_eq!(shown, Some(IdleBehavior::Hold));
}

#[test]
fn run_during_first_probe_finds_runner() {
    let mut story = Story::begin();
    let (first, vm) = story.running(cores(1), minutes(30));
    story.hold(vm);
    story.run_for(minutes(1));
    story.lose_leadership(seconds(5));
    let phase = |story: &Story| story.shown_vm(vm).map(|view| view.phase);
    story.run_until(
        "the instance is found, its first probe in flight",
        minutes(2),
        |story| phase(story) == Some(Phase::Unknown),
    );
    let second = story.submit_as(cores(1), 500, minutes(5));
    story.set_behavior(vm, IdleBehavior::Run);
    story.run_until("the probe is answered", seconds(10), |story| {
        phase(story) == Some(Phase::Ready)
    });
    let shown = story.shown_vm(vm).map(|view| view.containers);
    assert_eq!(shown, Some(vec![first]));
    story.run_for(minutes(60));
    story.assert_complete(first);
    story.assert_complete(second);
    assert_eq!(
        story.vms_made(),
        2,
        "no room for both containers on one instance"
    );
}

#[test]
fn failed_hold_tag_retried() {
    let mut story = Story::begin();
    let (_, vm) = story.running(cores(1), seconds(10));
    story.strike(Fault::TagFails, 3);
    story.hold(vm);
    story.run_for(minutes(2));
    story.restart();
    story.run_for(minutes(30));
    assert!(!story.is_gone(vm));
}

#[test]
fn held_silent_instance_kept() {
    let mut story = Story::begin();
    let (_, vm) = story.running(cores(1), minutes(600));
    story.hold(vm);
    story.vm(vm).freeze();
    story.run_for(minutes(120));
    assert!(!story.is_gone(vm));
}

#[test]
fn released_instance_reused() {
    let mut story = Story::begin();
    let (first, vm) = story.running(cores(1), seconds(10));
    story.hold(vm);
    story.run_for(minutes(10));
    story.assert_complete(first);
    story.set_behavior(vm, IdleBehavior::Run);
    let second = story.submit(cores(1));
    story.run_for(seconds(20));
    assert_eq!(story.runs_on(second), Some(vm));
}

#[test]
fn drained_instance_terminates_after_container() {
    let mut story = Story::begin();
    let (first, vm) = story.running(cores(1), minutes(20));
    story.drain(vm);
    let second = story.submit(cores(1));
    story.run_for(minutes(10));
    assert_eq!(story.runs_on(first), Some(vm));
    assert!(!story.is_gone(vm));
    story.run_for(minutes(13));
    story.assert_complete(first);
    story.assert_complete(second);
    assert!(story.is_gone(vm));
}

#[test]
fn drained_idle_instance_terminates_immediately() {
    let mut story = Story::with(|config| config.timeouts.idle = minutes(600));
    let (_, vm) = story.running(cores(1), seconds(5));
    story.run_for(minutes(5));
    assert!(!story.is_gone(vm));
    story.drain(vm);
    story.run_for(minutes(1));
    assert!(story.is_gone(vm));
}

#[test]
fn operator_kill_busy_instance_terminates() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), minutes(60));
    story.kill_vm(vm);
    story.run_for(minutes(2));
    assert!(story.is_gone(vm));
    story.assert_cancelled(container, "killed by the operator: the story says so");
    assert_ne!(story.state(container), Some(ContainerState::Running));
}

#[test]
fn operator_kill_held_instance_terminates() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), minutes(60));
    story.hold(vm);
    story.run_for(minutes(1));
    story.kill_vm(vm);
    story.run_for(minutes(2));
    assert!(story.is_gone(vm));
    story.assert_cancelled(
        container,
        "instance i-00000001 was shut down: killed by the operator",
    );
}

#[test]
fn operator_kill_cordoned_instance_names_operator() {
    let mut story = Story::with(|config| config.timeouts.idle = minutes(1));
    let (container, vm) = story.running(cores(1), seconds(10));
    story.run_for(seconds(30));
    story.assert_complete(container);
    // A frozen instance cannot confirm that no container runs, so the instance stays cordoned.
    story.vm(vm).freeze();
    story.run_for(minutes(2));
    assert_eq!(
        story.shown_vm(vm).map(|view| view.phase),
        Some(Phase::Cordoned)
    );
    story.kill_vm(vm);
    story.run_for(minutes(2));
    assert!(story.is_gone(vm));
    let by_operator = |event: &Event| {
        let Event::Terminating { reason, .. } = event else {
            return false;
        };
        matches!(reason, ShutdownReason::Operator(_))
    };
    assert_eq!(story.count_events(by_operator), 1);
}
