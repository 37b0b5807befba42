//! Starts that fail, and starts of which nobody knows.

use longshore_core::event::Event;
use longshore_core::input::ContainerState;
use longshore_sim::Fault;
use longshore_sim::story::{Story, cores, minutes, seconds};

#[test]
fn a_start_whose_answer_is_lost_is_found_by_a_probe() {
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
fn a_start_that_is_refused_is_tried_again() {
    let mut story = Story::begin();
    story.strike(Fault::StartRefused, 1);
    let container = story.submit(cores(1));
    story.run_for(minutes(15));
    story.assert_complete(container);
    assert!(story.lock_count(container) <= 2);
}

#[test]
fn a_start_that_comes_after_it_was_given_up_runs_nothing_twice() {
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
fn what_an_earlier_start_began_late_runs_on_though_the_next_start_does_not_get_through() {
    let mut story = Story::with(|config| config.timeouts.vm_answer = minutes(5));
    story.strike(Fault::DetachLate, 1);
    let container = story.submit_as(cores(1), 500, minutes(30));
    story.run_until("it is locked again", minutes(10), |s| {
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
    assert_eq!(story.count_events(exits), 1, "that of the first start");
    assert_eq!(story.strikes_of(Fault::HangsBeforeAuth), 1);
    assert_eq!(story.runs_on(container), Some(vm));
    story.run_for(minutes(60));
    story.assert_complete(container);
}

#[test]
fn one_bad_vm_does_not_burn_all_attempts() {
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
fn one_bad_vm_does_not_hold_up_its_betters() {
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
fn runners_that_die_at_once_use_up_the_attempts() {
    let mut story = Story::begin();
    story.strike(Fault::CrashBeforeRunning, 100);
    let container = story.submit(cores(1));
    story.run_for(minutes(60));
    story.assert_cancelled(container, "MaxDispatchAttempts");
    assert_eq!(story.lock_count(container), 5);
    assert_eq!(story.vms(), 0);
}

#[test]
fn a_runner_that_lingers_after_its_result_is_sent_away() {
    let mut story = Story::begin();
    story.strike(Fault::LingersAfterComplete, 1);
    let (container, vm) = story.running(cores(1), seconds(30));
    story.run_for(minutes(3));
    story.assert_complete(container);
    story.run_for(minutes(10));
    assert!(story.is_gone(vm));
}

#[test]
fn an_unreachable_vm_at_the_start_costs_no_container() {
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
