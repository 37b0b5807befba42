//! What drawn worlds found: names given again, tags lost on the way, hosts that stand still.

use longshore_core::event::Event;
use longshore_core::input::IdleBehavior;
use longshore_sim::story::{Story, cores, minutes, seconds};
use longshore_sim::{Fault, read_workload};

#[test]
fn a_runner_is_asked_about_again_when_the_queue_did_not_answer() {
    let mut story = Story::with(|config| config.timeouts.idle = minutes(30));
    let (_, vm) = story.running(cores(1), seconds(5));
    story.run_for(minutes(1));
    let stranger = story.vm(vm).run_stranger();
    // The very next look-up fails, and nothing else changes afterwards.
    story.strike(Fault::QueueBusy, 2);
    story.run_for(minutes(3));
    assert!(!story.has_runner(stranger));
}

#[test]
fn a_tag_that_was_lost_is_written_again() {
    let mut story = Story::with(|config| config.timeouts.idle = minutes(30));
    let (_, vm) = story.running(cores(1), seconds(5));
    story.strike(Fault::TagLost, 1);
    story.hold(vm);
    story.run_for(minutes(8));
    // Tags are the only memory: a process that knows nothing else must keep the VM.
    story.restart();
    story.run_for(minutes(1));
    let shown = story.shown_vm(vm).expect("it is there");
    assert_eq!(shown.idle_behavior, IdleBehavior::Hold);
}

#[test]
fn a_hold_that_comes_before_the_destroy_has_left_keeps_the_vm() {
    let mut story = Story::with(|config| config.timeouts.idle = seconds(30));
    let (_, vm) = story.running(cores(1), seconds(5));
    story.strike(Fault::ThrottledUntil, 2);
    let leaving = |story: &Story| {
        let shown = story.shown_vm(vm);
        shown.is_some_and(|vm| vm.terminating.is_some())
    };
    story.run_until("it is being given back", minutes(3), leaving);
    if story.destroys() == 0 {
        story.hold(vm);
    }
    story.run_for(minutes(20));
    assert!(story.destroys() > 0 || !story.is_gone(vm));
}

#[test]
fn a_name_that_is_given_again_is_another_vm() {
    let mut story = Story::with(|config| config.timeouts.idle = minutes(2));
    let (first, vm) = story.running(cores(1), seconds(30));
    story.run_until("the first is gone", minutes(10), |story| story.is_gone(vm));
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
fn a_host_that_stood_still_reads_the_queue_at_once_when_it_wakes() {
    let mut story = Story::begin();
    story.run_for(minutes(1));
    story.stand_still(minutes(10));
    let container = story.submit(cores(1));
    story.run_for(minutes(18));
    story.assert_complete(container);
}

#[test]
fn a_supervisor_ends_only_after_its_children() {
    let trace = r#"
        {"at": 0, "uuid": "zzzzz-dz642-00000000000000a", "vcpus": 1, "ram": 100000000, "duration": 1, "supervisor": true}
        {"at": 60, "uuid": "zzzzz-dz642-00000000000000b", "vcpus": 1, "ram": 100000000, "duration": 300, "parent": "zzzzz-dz642-00000000000000a"}"#;
    let arrivals = read_workload(trace).expect("it is right");
    let mut story = Story::begin();
    let ids = story.submit_recorded(&arrivals);
    story.run_for(minutes(5));
    assert!(story.runs_on(ids[0]).is_some(), "its child still runs");
    story.run_for(minutes(7));
    story.assert_complete(ids[0]);
    story.assert_complete(ids[1]);
}

#[test]
fn a_start_that_takes_effect_after_it_was_given_up_is_left_alone() {
    let mut story = Story::with(|config| config.timeouts.idle = minutes(30));
    story.strike(Fault::DetachLate, 1);
    let container = story.submit(cores(1));
    let started = |story: &Story| story.starts_of(container) == 1;
    story.run_until("it was started", minutes(5), started);
    // The container stays locked, so the late runner is let in; only the queue tells.
    story.strike(Fault::UpdateLost, 60);
    story.run_for(minutes(30));
    story.assert_complete(container);
    assert_eq!(story.lock_count(container), 1);
}
