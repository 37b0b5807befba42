//! Broken instances: reported as broken, or with a stale lock.

use longshore_core::event::Event;
use longshore_core::input::IdleBehavior;
use longshore_sim::story::{Story, cores, minutes, seconds};

#[test]
fn broken_instance_drains_after_container() {
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
fn held_broken_instance_stays() {
    let mut story = Story::begin();
    let (_, vm) = story.running(cores(1), seconds(5));
    story.hold(vm);
    story.vm(vm).break_down();
    story.run_for(minutes(60));
    assert!(!story.is_gone(vm));
    let shown = story.shown_vm(vm).expect("the instance stays");
    assert_eq!(shown.idle_behavior, IdleBehavior::Hold);
    assert_eq!(shown.broken.as_deref(), Some("it reports itself broken"));
    let reported = |e: &Event| matches!(e, Event::Broken { held: true, .. });
    assert_eq!(story.count_events(reported), 1, "reported once");
    let text = story.told_vm(vm).expect("a known instance").to_string();
    assert!(
        text.contains("broken: it reports itself broken"),
        "{text}"
    );
}

#[test]
fn held_stale_lock_reported_then_drained() {
    let mut story = Story::with(|config| config.timeouts.stale_run_lock = seconds(30));
    let (container, vm) = story.running(cores(1), seconds(5));
    story.run_until("the runner ends", minutes(1), |s| !s.has_runner(container));
    story.hold(vm);
    story.vm(vm).keep_stale_lock(container, minutes(90));
    story.run_for(minutes(60));
    assert!(!story.is_gone(vm));
    let reported = |e: &Event| matches!(e, Event::Broken { held: true, .. });
    assert_eq!(story.count_events(reported), 1);
    let broken = story.shown_vm(vm).and_then(|shown| shown.broken);
    assert!(broken.is_some_and(|why| why.contains("its runner is gone")));
    story.set_behavior(vm, IdleBehavior::Run);
    story.run_for(minutes(5));
    assert!(story.is_gone(vm));
}

#[test]
fn held_instance_recovery_clears_broken() {
    let mut story = Story::with(|config| config.timeouts.stale_run_lock = seconds(30));
    let (container, vm) = story.running(cores(1), seconds(5));
    story.run_until("the runner ends", minutes(1), |s| !s.has_runner(container));
    story.hold(vm);
    story.vm(vm).keep_stale_lock(container, minutes(5));
    story.run_for(minutes(3));
    assert!(story.shown_vm(vm).unwrap().broken.is_some());
    story.run_for(minutes(4));
    assert_eq!(story.shown_vm(vm).unwrap().broken, None);
}

#[test]
fn broken_instance_set_to_run_drains() {
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
fn stale_lock_drains_instance() {
    let mut story = Story::with(|config| config.timeouts.stale_run_lock = seconds(30));
    let (container, vm) = story.running(cores(1), seconds(5));
    story.run_until("the runner ends", minutes(1), |s| !s.has_runner(container));
    story.vm(vm).keep_stale_lock(container, minutes(60));
    let other = story.submit_as(cores(1), 500, minutes(1));
    story.run_for(minutes(10));
    story.assert_complete(other);
    assert!(story.is_gone(vm));
    assert_eq!(story.count_events(|e| matches!(e, Event::Broken { .. })), 1);
}

#[test]
fn short_stale_lock_ignored() {
    let mut story = Story::with(|config| {
        config.timeouts.stale_run_lock = seconds(60);
        config.timeouts.idle = minutes(20);
    });
    let (container, vm) = story.running(cores(1), seconds(5));
    story.run_until("the runner ends", minutes(1), |s| !s.has_runner(container));
    story.vm(vm).keep_stale_lock(container, seconds(15));
    story.run_for(minutes(2));
    let other = story.submit(cores(1));
    story.run_for(seconds(20));
    assert_eq!(story.runs_on(other), Some(vm));
}
