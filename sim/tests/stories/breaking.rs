//! VMs that say that they are broken, or look so.

use longshore_core::event::Event;
use longshore_core::input::IdleBehavior;
use longshore_sim::story::{Story, cores, minutes, seconds};

#[test]
fn a_broken_vm_takes_nothing_new_and_goes_when_its_container_has_ended() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), minutes(20));
    story.vm(vm).break_down();
    story.run_for(minutes(1));
    let other = story.submit_as(cores(1), 500, minutes(1));
    story.run_for(minutes(8));
    story.assert_complete(other);
    assert_eq!(story.runs_on(container), Some(vm));
    story.run_for(minutes(15));
    story.assert_complete(container);
    assert!(story.is_gone(vm));
}

#[test]
fn a_broken_vm_that_is_held_stays() {
    let mut story = Story::begin();
    let (_, vm) = story.running(cores(1), seconds(5));
    story.hold(vm);
    story.vm(vm).break_down();
    story.run_for(minutes(60));
    assert!(!story.is_gone(vm));
    let shown = story.shown_vm(vm).expect("it stays");
    assert_eq!(shown.idle_behavior, IdleBehavior::Hold);
    assert_eq!(shown.broken.as_deref(), Some("it reports itself broken"));
    let told = |e: &Event| matches!(e, Event::Broken { held: true, .. });
    assert_eq!(story.count_events(told), 1, "told once");
    let text = story.told_vm(vm).expect("it is known").to_string();
    assert!(
        text.contains("it is broken: it reports itself broken"),
        "{text}"
    );
}

#[test]
fn a_lock_without_a_runner_is_told_of_a_held_vm_too_and_drains_it_when_it_may_run() {
    let mut story = Story::with(|config| config.timeouts.stale_run_lock = seconds(30));
    let (container, vm) = story.running(cores(1), seconds(5));
    story.run_until("it ends", minutes(1), |s| !s.has_runner(container));
    story.hold(vm);
    story.vm(vm).keep_stale_lock(container, minutes(90));
    story.run_for(minutes(60));
    assert!(!story.is_gone(vm));
    let told = |e: &Event| matches!(e, Event::Broken { held: true, .. });
    assert_eq!(story.count_events(told), 1);
    let broken = story.shown_vm(vm).and_then(|shown| shown.broken);
    assert!(broken.is_some_and(|why| why.contains("its runner is gone")));
    story.set_behavior(vm, IdleBehavior::Run);
    story.run_for(minutes(5));
    assert!(story.is_gone(vm));
}

#[test]
fn a_held_vm_that_is_no_longer_broken_is_shown_so() {
    let mut story = Story::with(|config| config.timeouts.stale_run_lock = seconds(30));
    let (container, vm) = story.running(cores(1), seconds(5));
    story.run_until("it ends", minutes(1), |s| !s.has_runner(container));
    story.hold(vm);
    story.vm(vm).keep_stale_lock(container, minutes(5));
    story.run_for(minutes(3));
    assert!(story.shown_vm(vm).unwrap().broken.is_some());
    story.run_for(minutes(4));
    assert_eq!(story.shown_vm(vm).unwrap().broken, None);
}

#[test]
fn a_broken_vm_takes_nothing_though_an_operator_wants_it_to_run() {
    let mut story = Story::begin();
    let (_, vm) = story.running(cores(1), seconds(5));
    story.hold(vm);
    story.run_for(minutes(1));
    story.vm(vm).break_down();
    let container = story.submit_as(cores(1), 500, minutes(1));
    story.run_for(minutes(1));
    story.set_behavior(vm, IdleBehavior::Run);
    story.run_for(minutes(10));
    story.assert_complete(container);
    assert!(story.is_gone(vm));
}

#[test]
fn a_lock_without_a_runner_drains_its_vm() {
    let mut story = Story::with(|config| config.timeouts.stale_run_lock = seconds(30));
    let (container, vm) = story.running(cores(1), seconds(5));
    story.run_until("it ends", minutes(1), |s| !s.has_runner(container));
    story.vm(vm).keep_stale_lock(container, minutes(60));
    let other = story.submit_as(cores(1), 500, minutes(1));
    story.run_for(minutes(10));
    story.assert_complete(other);
    assert!(story.is_gone(vm));
    assert_eq!(story.count_events(|e| matches!(e, Event::Broken { .. })), 1);
}

#[test]
fn a_lock_that_is_soon_let_go_does_no_harm() {
    let mut story = Story::with(|config| {
        config.timeouts.stale_run_lock = seconds(60);
        config.timeouts.idle = minutes(20);
    });
    let (container, vm) = story.running(cores(1), seconds(5));
    story.run_until("it ends", minutes(1), |s| !s.has_runner(container));
    story.vm(vm).keep_stale_lock(container, seconds(15));
    story.run_for(minutes(2));
    let other = story.submit(cores(1));
    story.run_for(seconds(20));
    assert_eq!(story.runs_on(other), Some(vm));
}
