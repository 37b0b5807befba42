//! A queue that refuses, forgets, and shows only half.

use longshore_core::StopReason;
use longshore_core::command::{Action, QueueAction};
use longshore_core::event::{Event, Level};
use longshore_core::ids::ContainerId;
use longshore_core::input::ContainerState;
use longshore_sim::Fault;
use longshore_sim::story::{Story, cores, minutes, seconds};

#[test]
fn a_runner_whose_container_nobody_knows_is_killed() {
    let mut story = Story::with(|config| config.timeouts.idle = minutes(30));
    let (_, vm) = story.running(cores(1), seconds(5));
    story.run_for(minutes(1));
    let stranger = story.vm(vm).run_stranger();
    story.run_for(minutes(1));
    assert!(!story.has_runner(stranger));
    assert_eq!(story.starts_of(stranger), 0);
    let warned = |e: &Event| {
        let line = e.to_string();
        e.level() == Level::Warn && line.contains(stranger.as_str()) && line.contains("i-00000001")
    };
    assert_eq!(story.count_events(warned), 1, "with the instance named");
}

#[test]
fn a_runner_is_found_though_places_beside_it_come_and_go_faster_than_a_probe_takes() {
    let mut story = Story::with(|config| config.limits.instances = Some(1));
    let vm = story.idle_vms(&["small"])[0];
    // Each lock is refused, and the place goes to the next one at once.
    story.strike(Fault::LockConflict, 100_000);
    for _ in 0..400 {
        story.submit(cores(1));
    }
    let places = |story: &Story| story.count_events(|e| matches!(e, Event::Assigned { .. }));
    story.run_until("places come and go", minutes(1), |story| places(story) > 10);
    let stranger = story.vm(vm).run_stranger();
    story.run_until("it is found", seconds(15), |story| {
        let found =
            |e: &Event| matches!(e, Event::RunnerFound { container, .. } if *container == stranger);
        story.count_events(found) == 1
    });
    assert!(places(&story) > 50, "{} places", places(&story));
}

#[test]
fn a_record_deleted_while_it_waits_is_dropped() {
    let mut story = Story::with(|config| config.limits.instances = Some(0));
    let container = story.submit(cores(1));
    story.run_for(minutes(1));
    assert!(story.shown(container).is_some());
    story.delete(container);
    story.run_for(minutes(1));
    assert_eq!(story.shown(container), None);
}

#[test]
fn a_record_deleted_while_it_runs_is_dropped_and_its_runner_killed() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), minutes(600));
    story.delete(container);
    story.run_for(minutes(2));
    assert_eq!(story.shown(container), None);
    assert!(!story.has_runner(container));
    let stopped = |e: &Event| {
        matches!(e, Event::Stopping { instance, reason: StopReason::UnknownContainer, .. }
            if instance.as_str() == "i-00000001")
    };
    assert_eq!(story.count_events(stopped), 1, "with the instance named");
    let dropped = |e: &Event| matches!(e, Event::ContainerDropped { deleted: true, .. });
    assert_eq!(story.count_events(dropped), 1);
    story.run_for(minutes(5));
    assert!(story.is_gone(vm));
}

/// Many wait, the queue is read every ten seconds, and a reading shows only ten of them.
fn deep_queue() -> (Story, Vec<ContainerId>) {
    let mut story = Story::with(|config| config.limits.instances = Some(0));
    story.without_hints();
    let all = (0..3500).map(|n| story.submit_as(cores(1), 1 + n, minutes(5)));
    let all = all.collect();
    story.run_for(minutes(1));
    story.reconfigure(|config| config.limits.queued_per_poll = 10);
    (story, all)
}

fn polls_and_lookups(story: &Story) -> (usize, usize) {
    let polls = |a: &Action| matches!(a, Action::Queue(QueueAction::Poll { .. }));
    let lookups = |a: &Action| matches!(a, Action::Queue(QueueAction::Lookup { .. }));
    (story.count_commands(polls), story.count_commands(lookups))
}

#[test]
fn what_ranks_below_a_full_reading_is_asked_for_in_turns() {
    let (mut story, all) = deep_queue();
    let before = polls_and_lookups(&story);
    story.run_for(minutes(3));
    let after = polls_and_lookups(&story);
    assert!(after.0 - before.0 >= 17, "it is read all along");
    assert!(
        after.1 - before.1 <= after.0 - before.0,
        "a lookup for each"
    );
    // The highest that no reading shows, and the lowest.
    story.delete(all[0]);
    story.set_priority(all[3489], 0);
    story.run_for(seconds(55));
    assert_eq!(story.shown(all[0]), None, "four turns and a poll later");
    assert_eq!(story.shown(all[3489]), None);
    assert!(story.shown(all[1]).is_some());
    assert!(story.shown(all[3499]).is_some());
}

#[test]
fn what_a_reading_should_have_shown_is_asked_for_at_once() {
    let (mut story, all) = deep_queue();
    // All ten that readings have shown: the next reading shows ten others.
    for id in &all[3490..] {
        story.delete(*id);
    }
    story.run_for(seconds(12));
    assert!(all[3490..].iter().all(|id| story.shown(*id).is_none()));
    // All at once: no reading is full any more.
    for id in &all[5..3490] {
        story.set_priority(*id, 0);
    }
    story.run_for(seconds(55));
    assert!(all[5..].iter().all(|id| story.shown(*id).is_none()));
    assert!(all[..5].iter().all(|id| story.shown(*id).is_some()));
}

#[test]
fn an_incomplete_reading_makes_nothing_disappear() {
    let mut story = Story::begin();
    let (container, _) = story.running(cores(1), minutes(20));
    let waiting = story.submit_as(cores(2), 500, minutes(5));
    story.strike(Fault::ShortPoll, 50);
    story.run_for(minutes(40));
    story.assert_complete(container);
    story.assert_complete(waiting);
    assert_eq!(story.starts_of(container), 1);
    let deleted = |e: &Event| matches!(e, Event::ContainerDropped { deleted: true, .. });
    assert_eq!(story.count_events(deleted), 0);
}

#[test]
fn a_storm_of_503_delays_and_loses_nothing() {
    let mut story = Story::begin();
    let (container, _) = story.running(cores(1), minutes(10));
    let waiting = story.submit(cores(2));
    story.strike(Fault::QueueStorm, 2);
    story.run_for(minutes(60));
    story.assert_complete(container);
    story.assert_complete(waiting);
}

#[test]
fn a_lock_whose_answer_is_lost_is_noticed() {
    let mut story = Story::begin();
    story.strike(Fault::UpdateAnswerLost, 1);
    let container = story.submit(cores(1));
    story.run_for(minutes(15));
    story.assert_complete(container);
    assert!(story.lock_count(container) <= 2);
}

#[test]
fn a_lock_that_was_not_taken_is_tried_again() {
    let mut story = Story::begin();
    story.strike(Fault::UpdateLost, 1);
    let container = story.submit(cores(1));
    story.run_for(minutes(15));
    story.assert_complete(container);
    assert_eq!(story.lock_count(container), 1);
}

#[test]
fn a_priority_that_flaps_ends_in_one_run_at_most() {
    let mut story = Story::begin();
    let container = story.submit_as(cores(1), 500, minutes(2));
    for round in 0..20 {
        story.set_priority(container, if round % 2 == 0 { 0 } else { 500 });
        story.run_for(seconds(7));
    }
    story.set_priority(container, 500);
    story.run_for(minutes(30));
    let state = story.state(container);
    assert!(state.is_some_and(ContainerState::is_final), "{state:?}");
    assert_eq!(story.vms(), 0);
}

#[test]
fn a_short_reading_limit_still_serves_everybody() {
    let mut story = Story::with(|config| config.limits.queued_per_poll = 2);
    let all: Vec<_> = (0..10)
        .map(|n| story.submit_as(cores(1), 1 + n, seconds(20)))
        .collect();
    story.run_for(minutes(60));
    for container in all {
        story.assert_complete(container);
    }
}
