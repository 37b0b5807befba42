//! VMs that vanish, and VMs that only seem to.

use longshore_core::event::{Event, Level};
use longshore_core::input::ContainerState;
use longshore_sim::Fault;
use longshore_sim::story::{Story, cores, minutes, seconds};

#[test]
fn a_vm_that_vanishes_before_its_container_runs_costs_one_attempt() {
    let mut story = Story::begin();
    story.strike(Fault::SlowSetup, 1);
    let container = story.submit(cores(1));
    story.run_until("its runner begins", minutes(5), |s| s.has_runner(container));
    story.assert_state(container, ContainerState::Locked);
    story.vm(0).vanish();
    story.run_for(minutes(15));
    story.assert_complete(container);
    assert_eq!(story.lock_count(container), 2);
    assert_eq!(story.vms_made(), 2);
}

#[test]
fn a_vm_that_vanishes_under_a_running_container_ends_it_with_the_reason() {
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
fn a_runner_that_leaves_no_result_ends_its_container_with_the_reason() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), minutes(60));
    story.vm(vm).crash_runners();
    story.run_for(minutes(2));
    story.assert_cancelled(container, "exited without reporting a result");
}

#[test]
fn missing_from_one_list_is_not_dead() {
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
fn missing_from_many_lists_is_not_dead_while_it_answers() {
    let mut story = Story::with(|config| config.intervals.sync = seconds(5));
    let (container, _) = story.running(cores(1), minutes(20));
    story.run_for(minutes(3));
    story.strike(Fault::ListPartial, 100);
    story.run_for(minutes(30));
    story.assert_complete(container);
    assert_eq!(story.starts_of(container), 1);
}

#[test]
fn missing_from_the_first_list_after_a_restart_is_not_dead() {
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
fn a_dead_vm_that_lists_still_show_is_found_out() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), minutes(60));
    story.strike(Fault::ListShowsDead, 1);
    story.vm(vm).vanish();
    story.run_for(minutes(30));
    story.assert_state(container, ContainerState::Cancelled);
}

#[test]
fn an_address_that_changes_is_followed() {
    let mut story = Story::begin();
    story.strike(Fault::AddressChanges, 1);
    let container = story.submit_as(cores(1), 500, minutes(90));
    story.run_for(minutes(120));
    story.assert_complete(container);
    assert_eq!(story.starts_of(container), 1);
    assert_eq!(story.vms_made(), 1);
}

#[test]
fn a_vm_that_restarts_ends_what_ran_on_it_and_is_used_again() {
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
