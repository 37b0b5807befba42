//! Regressions found by seeds: reused instance IDs, lost tags, stalled hosts.

use longshore_core::event::Event;
use longshore_core::input::IdleBehavior;
use longshore_sim::story::{Story, cores, minutes, seconds};
use longshore_sim::{Fault, read_workload};

#[test]
fn failed_lookup_retried() {
    let mut story = Story::with(|config| config.timeouts.idle = minutes(30));
    let (_, vm) = story.running(cores(1), seconds(5));
    story.run_for(minutes(1));
    let unknown = story.vm(vm).run_stranger();
    // The next look-up fails, and no other change follows.
    story.strike(Fault::QueueBusy, 2);
    story.run_for(minutes(3));
    assert!(!story.has_runner(unknown));
}

#[test]
fn lost_tag_rewritten() {
    let mut story = Story::with(|config| config.timeouts.idle = minutes(30));
    let (_, vm) = story.running(cores(1), seconds(5));
    story.strike(Fault::TagLost, 1);
    story.hold(vm);
    story.run_for(minutes(8));
    // Tags are the only memory: a new process without other knowledge must keep the instance.
    story.restart();
    story.run_for(minutes(1));
    let shown = story.shown_vm(vm).expect("a known instance");
    assert_eq!(shown.idle_behavior, IdleBehavior::Hold);
}

#[test]
fn hold_before_destroy_keeps_instance() {
    let mut story = Story::with(|config| config.timeouts.idle = seconds(30));
    let (_, vm) = story.running(cores(1), seconds(5));
    story.strike(Fault::ThrottledUntil, 2);
    let terminating = |story: &Story| {
        let shown = story.shown_vm(vm);
        shown.is_some_and(|vm| vm.terminating.is_some())
    };
    story.run_until("the instance is terminating", minutes(3), terminating);
    if story.destroys() == 0 {
        story.hold(vm);
    }
    story.run_for(minutes(20));
    assert!(story.destroys() > 0 || !story.is_gone(vm));
}

#[test]
fn reused_instance_id_is_new_instance() {
    let mut story = Story::with(|config| config.timeouts.idle = minutes(2));
    let (first, vm) = story.running(cores(1), seconds(30));
    story.run_until("the first instance is gone", minutes(10), |story| {
        story.is_gone(vm)
    });
    story.run_for(minutes(11));
    story.assert_complete(first);
    story.strike(Fault::IdReused, 1);
    let (second, _) = story.running(cores(1), minutes(5));
    story.run_for(minutes(20));
    story.assert_complete(second);
    assert_eq!(story.vms(), 0);
    assert_eq!(story.vms_made(), 2);
    let gone = |e: &Event| matches!(e, Event::Gone { .. });
    assert_eq!(story.count_events(gone), 2);
}

#[test]
fn stalled_host_polls_after_wake() {
    let mut story = Story::begin();
    story.run_for(minutes(1));
    story.stand_still(minutes(10));
    let container = story.submit(cores(1));
    story.run_for(minutes(18));
    story.assert_complete(container);
}

#[test]
fn supervisor_ends_after_children() {
    let trace = r#"
        {"at": 0, "uuid": "zzzzz-dz642-00000000000000a", "vcpus": 1, "ram": 100000000, "duration": 1, "supervisor": true}
        {"at": 60, "uuid": "zzzzz-dz642-00000000000000b", "vcpus": 1, "ram": 100000000, "duration": 300, "parent": "zzzzz-dz642-00000000000000a"}"#;
    let arrivals = read_workload(trace).expect("a valid workload");
    let mut story = Story::begin();
    let ids = story.submit_recorded(&arrivals);
    story.run_for(minutes(5));
    assert!(
        story.runs_on(ids[0]).is_some(),
        "the supervisor runs while the child runs"
    );
    story.run_for(minutes(7));
    story.assert_complete(ids[0]);
    story.assert_complete(ids[1]);
}

#[test]
fn late_start_effect_left_running() {
    let mut story = Story::with(|config| config.timeouts.idle = minutes(30));
    story.strike(Fault::DetachLate, 1);
    let container = story.submit(cores(1));
    let started = |story: &Story| story.starts_of(container) == 1;
    story.run_until("the start is sent", minutes(5), started);
    // The container stays locked, so the late runner is accepted; only the queue shows the state
    // Running.
    story.strike(Fault::UpdateLost, 60);
    story.run_for(minutes(30));
    story.assert_complete(container);
    assert_eq!(story.lock_count(container), 1);
}
