//! Starts with failures, lost answers or late effects.

use longshore_core::event::Event;
use longshore_core::input::ContainerState;
use longshore_sim::Fault;
use longshore_sim::story::{Story, cores, minutes, seconds};

#[test]
fn lost_start_answer_found_by_probe() {
    let mut story = Story::begin();
    story.strike(Fault::StartAnswerLost, 1);
    let container = story.submit(cores(1));
    story.run_for(minutes(10));
    story.assert_complete(container);
    assert_eq!(story.starts_of(container), 1);
    assert_eq!(story.lock_count(container), 1);
    assert_eq!(
        story.count_events(|e| matches!(e, Event::StartUnsure { .. })),
        1
    );
}

#[test]
fn refused_start_retried() {
    let mut story = Story::begin();
    story.strike(Fault::StartRefused, 1);
    let container = story.submit(cores(1));
    story.run_for(minutes(15));
    story.assert_complete(container);
    assert!(story.lock_count(container) <= 2);
}

#[test]
fn late_start_no_double_run() {
    for times in 1..4 {
        let mut story = Story::begin();
        story.strike(Fault::DetachLate, times);
        let container = story.submit(cores(1));
        story.run_for(minutes(30));
        let state = story.state(container);
        assert!(state.is_some_and(ContainerState::is_final), "{state:?}");
        assert_eq!(story.vms(), 0);
    }
}

#[test]
fn late_runner_survives_failed_second_start() {
    let mut story = Story::with(|config| config.timeouts.vm_answer = minutes(5));
    story.strike(Fault::DetachLate, 1);
    let container = story.submit_as(cores(1), 500, minutes(30));
    story.run_until("the container is locked again", minutes(10), |s| {
        s.lock_count(container) == 2
    });
    story.strike(Fault::HangsBeforeAuth, 1);
    let vm = story.until_running(container);
    let answered = minutes(5) * 9 / 10 + seconds(60);
    story.run_for(answered - story.elapsed().min(answered));
    story.vm(vm).be_silent_for(minutes(3));
    story.run_for(minutes(10));
    assert_eq!(story.starts_of(container), 2);
    let exits = |event: &Event| matches!(event, Event::RunnerExited { .. });
    assert_eq!(
        story.count_events(exits),
        1,
        "only the runner of the first start exits"
    );
    assert_eq!(story.strikes_of(Fault::HangsBeforeAuth), 1);
    assert_eq!(story.runs_on(container), Some(vm));
    story.run_for(minutes(60));
    story.assert_complete(container);
}

#[test]
fn refusing_instance_spares_attempts() {
    let mut story = Story::begin();
    story.strike(Fault::RefusesStarts, 1);
    let container = story.submit(cores(1));
    story.run_for(minutes(30));
    story.assert_complete(container);
    assert!(
        story.lock_count(container) <= 4,
        "{}",
        story.lock_count(container)
    );
}

#[test]
fn refusing_instance_delays_no_container() {
    let mut story = Story::begin();
    let (_, vm) = story.running(cores(1), seconds(5));
    story.vm(vm).refuse_starts();
    let all: Vec<_> = (0..3)
        .map(|_| story.submit_as(cores(1), 500, seconds(30)))
        .collect();
    story.run_for(minutes(20));
    for container in all {
        story.assert_complete(container);
    }
}

#[test]
fn crashing_runners_exhaust_attempts() {
    let mut story = Story::begin();
    story.strike(Fault::CrashBeforeRunning, 100);
    let container = story.submit(cores(1));
    story.run_for(minutes(60));
    story.assert_cancelled(container, "MaxDispatchAttempts");
    assert_eq!(story.lock_count(container), 5);
    assert_eq!(story.vms(), 0);
}

#[test]
fn lingering_runner_stopped() {
    let mut story = Story::begin();
    story.strike(Fault::LingersAfterComplete, 1);
    let (container, vm) = story.running(cores(1), seconds(30));
    story.run_for(minutes(3));
    story.assert_complete(container);
    story.run_for(minutes(10));
    assert!(story.is_gone(vm));
}

#[test]
fn unreachable_instance_at_start_retried() {
    let mut story = Story::with(|config| config.timeouts.idle = minutes(30));
    let (_, vm) = story.running(cores(1), seconds(5));
    story.run_for(seconds(30));
    story.vm(vm).be_silent_for(seconds(20));
    let container = story.submit(cores(1));
    story.run_for(minutes(15));
    story.assert_complete(container);
    assert!(
        story.lock_count(container) <= 4,
        "{}",
        story.lock_count(container)
    );
}
