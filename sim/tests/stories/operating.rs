//! What operators ask for is kept.

use longshore_core::event::Event;
use longshore_core::input::{ContainerState, IdleBehavior};
use longshore_core::{Phase, ShutdownReason};
use longshore_sim::Fault;
use longshore_sim::story::{Story, cores, minutes, seconds};

#[test]
fn a_held_vm_is_never_shut_down_and_takes_nothing() {
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
fn a_hold_survives_a_restart_by_its_tag() {
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
fn what_runs_on_a_vm_is_seen_though_it_is_used_again_while_it_is_first_asked() {
    let mut story = Story::begin();
    let (first, vm) = story.running(cores(1), minutes(30));
    story.hold(vm);
    story.run_for(minutes(1));
    story.lose_leadership(seconds(5));
    let phase = |story: &Story| story.shown_vm(vm).map(|view| view.phase);
    story.run_until("it is found, and asked", minutes(2), |story| {
        phase(story) == Some(Phase::Unknown)
    });
    let second = story.submit_as(cores(1), 500, minutes(5));
    story.set_behavior(vm, IdleBehavior::Run);
    story.run_until("it has answered", seconds(10), |story| {
        phase(story) == Some(Phase::Ready)
    });
    let shown = story.shown_vm(vm).map(|view| view.containers);
    assert_eq!(shown, Some(vec![first]));
    story.run_for(minutes(60));
    story.assert_complete(first);
    story.assert_complete(second);
    assert_eq!(story.vms_made(), 2, "there was no room for both on one");
}

#[test]
fn a_hold_is_written_again_when_its_tag_was_not() {
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
fn a_held_vm_that_hangs_is_kept_for_whoever_wants_to_look() {
    let mut story = Story::begin();
    let (_, vm) = story.running(cores(1), minutes(600));
    story.hold(vm);
    story.vm(vm).freeze();
    story.run_for(minutes(120));
    assert!(!story.is_gone(vm));
}

#[test]
fn a_held_vm_that_is_let_go_is_used_again() {
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
fn a_drained_vm_takes_nothing_and_goes_when_its_last_container_ends() {
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
fn draining_an_idle_vm_ends_it_at_once() {
    let mut story = Story::with(|config| config.timeouts.idle = minutes(600));
    let (_, vm) = story.running(cores(1), seconds(5));
    story.run_for(minutes(5));
    assert!(!story.is_gone(vm));
    story.drain(vm);
    story.run_for(minutes(1));
    assert!(story.is_gone(vm));
}

#[test]
fn an_operator_may_kill_a_vm_whatever_runs_on_it() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), minutes(60));
    story.kill_vm(vm);
    story.run_for(minutes(2));
    assert!(story.is_gone(vm));
    story.assert_cancelled(container, "killed by the operator: the story says so");
    assert_ne!(story.state(container), Some(ContainerState::Running));
}

#[test]
fn a_held_vm_goes_when_an_operator_kills_it() {
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
fn whoever_kills_a_vm_that_is_going_already_is_named_as_the_reason() {
    let mut story = Story::with(|config| config.timeouts.idle = minutes(1));
    let (container, vm) = story.running(cores(1), seconds(10));
    story.run_for(seconds(30));
    story.assert_complete(container);
    // It does not confirm that nothing runs on it, so it stays fenced.
    story.vm(vm).freeze();
    story.run_for(minutes(2));
    assert_eq!(
        story.shown_vm(vm).map(|view| view.phase),
        Some(Phase::Cordoned)
    );
    story.kill_vm(vm);
    story.run_for(minutes(2));
    assert!(story.is_gone(vm));
    let named = |event: &Event| {
        let Event::Terminating { reason, .. } = event else {
            return false;
        };
        matches!(reason, ShutdownReason::Operator(_))
    };
    assert_eq!(story.count_events(named), 1);
}
