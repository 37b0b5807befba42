//! Stop escalation: TERM, then KILL, then termination of the instance.

use longshore_core::ShutdownReason;
use longshore_core::command::Signal;
use longshore_core::event::{Event, Level};
use longshore_core::input::ContainerState;
use longshore_sim::story::{Story, cores, minutes, seconds};

fn signals(story: &Story, wanted: Signal) -> usize {
    story.count_events(|e| matches!(e, Event::Signalling { signal, .. } if *signal == wanted))
}

#[test]
fn zero_priority_queued_forgotten() {
    let mut story = Story::with(|config| config.limits.instances = Some(0));
    let container = story.submit(cores(1));
    story.run_for(minutes(1));
    assert!(story.shown(container).is_some());
    story.set_priority(container, 0);
    story.run_for(minutes(1));
    assert_eq!(story.shown(container), None);
    story.assert_state(container, ContainerState::Queued);
}

#[test]
fn zero_priority_before_ready_never_starts() {
    let mut story = Story::begin();
    let container = story.submit(cores(1));
    story.run_for(seconds(10));
    story.set_priority(container, 0);
    story.run_for(minutes(5));
    assert_eq!(story.starts_of(container), 0);
    story.assert_state(container, ContainerState::Queued);
    assert_eq!(story.vms(), 0, "the unused instance is terminated");
}

#[test]
fn zero_priority_locked_unlocks() {
    let mut story = Story::begin();
    let container = story.submit(cores(1));
    story.run_until("the runner starts", minutes(5), |s| s.has_runner(container));
    story.assert_state(container, ContainerState::Locked);
    story.set_priority(container, 0);
    story.run_for(minutes(1));
    assert!(!story.has_runner(container));
    assert_ne!(story.state(container), Some(ContainerState::Locked));
    assert_ne!(story.state(container), Some(ContainerState::Running));
}

#[test]
fn zero_priority_running_cancels() {
    let mut story = Story::begin();
    let (container, _) = story.running(cores(1), minutes(60));
    story.set_priority(container, 0);
    story.run_for(seconds(30));
    story.assert_state(container, ContainerState::Cancelled);
    assert!(!story.has_runner(container));
    assert_eq!(signals(&story, Signal::Kill), 0);
}

#[test]
fn ignored_term_escalates_to_kill() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), minutes(60));
    story.vm(vm).ignore_term();
    story.set_priority(container, 0);
    story.run_for(seconds(100));
    assert!(story.has_runner(container));
    assert!(signals(&story, Signal::Term) > 10);
    story.run_for(seconds(40));
    assert!(!story.has_runner(container));
    assert!(signals(&story, Signal::Kill) > 0);
    story.run_for(minutes(1));
    story.assert_state(container, ContainerState::Cancelled);
}

#[test]
fn unkillable_container_terminates_instance() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), minutes(600));
    story.vm(vm).ignore_kill();
    story.set_priority(container, 0);
    story.run_for(minutes(5));
    assert!(story.is_gone(vm));
    let reported = |e: &Event| matches!(e, Event::Unkillable { held: false, .. });
    assert_eq!(story.count_events(reported), 1);
    let terminated = |e: &Event| matches!(e, Event::Terminating { reason, .. } if *reason == ShutdownReason::Unkillable);
    assert_eq!(story.count_events(terminated), 1);
    let warned = |e: &Event| {
        let line = e.to_string();
        e.level() == Level::Warn
            && line.contains("cannot be killed on i-00000001; the instance will be destroyed")
    };
    assert_eq!(story.count_events(warned), 1);
    story.assert_cancelled(
        container,
        "instance i-00000001 was shut down: a container on it could not be killed",
    );
}

#[test]
fn unkillable_neighbour_finishes_first() {
    let mut story = Story::with(|config| config.types.retain(|name, _| name.as_str() == "large"));
    let unkillable = story.submit_as(cores(1), 500, minutes(600));
    let neighbour = story.submit_as(cores(1), 500, minutes(20));
    let vm = story.until_running(unkillable);
    assert_eq!(story.until_running(neighbour), vm);
    story.vm(vm).ignore_kill();
    story.set_priority(unkillable, 0);
    story.run_for(minutes(10));
    assert!(!story.is_gone(vm));
    let newcomer = story.submit_as(cores(1), 500, seconds(5));
    story.run_for(minutes(5));
    story.assert_complete(newcomer);
    assert_eq!(
        story.vms_made(),
        2,
        "the instance with the unkillable container gets no start"
    );
    story.run_for(minutes(10));
    story.assert_complete(neighbour);
    assert!(story.is_gone(vm));
}

#[test]
fn unkillable_neighbour_time_limited() {
    let mut story = Story::with(|config| {
        config.types.retain(|name, _| name.as_str() == "large");
        config.timeouts.unkillable = minutes(10);
    });
    let unkillable = story.submit_as(cores(1), 500, minutes(600));
    let neighbour = story.submit_as(cores(1), 500, minutes(600));
    let vm = story.until_running(unkillable);
    story.until_running(neighbour);
    story.vm(vm).ignore_kill();
    story.set_priority(unkillable, 0);
    story.run_for(minutes(16));
    assert!(story.is_gone(vm));
    story.run_for(minutes(1));
    story.assert_cancelled(neighbour, "was shut down");
}

#[test]
fn unkillable_on_held_instance_reported() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), minutes(600));
    story.vm(vm).ignore_kill();
    story.hold(vm);
    story.set_priority(container, 0);
    story.run_for(minutes(120));
    assert!(!story.is_gone(vm));
    assert_eq!(
        story.count_events(|e| matches!(e, Event::Unkillable { held: true, .. })),
        1
    );
}

#[test]
fn partial_kill_replaces_instance() {
    let mut story = Story::with(|config| {
        config.kill_reaches_tree = false;
        config.timeouts.idle = minutes(60);
    });
    let (container, vm) = story.running(cores(1), minutes(600));
    story.vm(vm).ignore_term();
    story.set_priority(container, 0);
    story.run_for(minutes(5));
    assert!(!story.has_runner(container));
    assert!(story.is_gone(vm), "terminated before the idle timeout");
}

#[test]
fn operator_kills_container() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), minutes(60));
    story.kill_container(container);
    story.run_for(seconds(30));
    story.assert_state(container, ContainerState::Cancelled);
    assert!(!story.is_gone(vm));
}
