//! Queue with refusals, deleted records and incomplete polls.

use longshore_core::StopReason;
use longshore_core::command::{Action, QueueAction};
use longshore_core::event::{Event, Level};
use longshore_core::ids::ContainerId;
use longshore_core::input::ContainerState;
use longshore_sim::Fault;
use longshore_sim::story::{Story, cores, minutes, seconds};

#[test]
fn unknown_runner_killed() {
    let mut story = Story::with(|config| config.timeouts.idle = minutes(30));
    let (_, vm) = story.running(cores(1), seconds(5));
    story.run_for(minutes(1));
    let unknown = story.vm(vm).run_stranger();
    story.run_for(minutes(1));
    assert!(!story.has_runner(unknown));
    assert_eq!(story.starts_of(unknown), 0);
    let warned = |e: &Event| {
        let line = e.to_string();
        e.level() == Level::Warn && line.contains(unknown.as_str()) && line.contains("i-00000001")
    };
    assert_eq!(
        story.count_events(warned),
        1,
        "one event with the name of the instance"
    );
}

#[test]
fn runner_found_despite_assignment_churn() {
    let mut story = Story::with(|config| config.limits.instances = Some(1));
    let vm = story.idle_vms(&["small"])[0];
    // Each lock is refused, and the room is assigned to the next container immediately.
    story.strike(Fault::LockConflict, 100_000);
    for _ in 0..400 {
        story.submit(cores(1));
    }
    let assignments = |story: &Story| story.count_events(|e| matches!(e, Event::Assigned { .. }));
    story.run_until("assignments come and go", minutes(1), |story| {
        assignments(story) > 10
    });
    let unknown = story.vm(vm).run_stranger();
    story.run_until("the runner is found", seconds(15), |story| {
        let found =
            |e: &Event| matches!(e, Event::RunnerFound { container, .. } if *container == unknown);
        story.count_events(found) == 1
    });
    assert!(
        assignments(&story) > 50,
        "{} assignments",
        assignments(&story)
    );
}

#[test]
fn deleted_waiting_container_dropped() {
    let mut story = Story::with(|config| config.limits.instances = Some(0));
    let container = story.submit(cores(1));
    story.run_for(minutes(1));
    assert!(story.shown(container).is_some());
    story.delete(container);
    story.run_for(minutes(1));
    assert_eq!(story.shown(container), None);
}

#[test]
fn deleted_running_container_killed() {
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
    assert_eq!(
        story.count_events(stopped),
        1,
        "one event with the name of the instance"
    );
    let dropped = |e: &Event| matches!(e, Event::ContainerDropped { deleted: true, .. });
    assert_eq!(story.count_events(dropped), 1);
    story.run_for(minutes(5));
    assert!(story.is_gone(vm));
}

/// Returns a story with many waiting containers, a poll every ten seconds and only ten containers
/// in each poll.
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
fn unlisted_containers_looked_up_in_turns() {
    let (mut story, all) = deep_queue();
    let before = polls_and_lookups(&story);
    story.run_for(minutes(3));
    let after = polls_and_lookups(&story);
    assert!(after.0 - before.0 >= 17, "polls continue");
    assert!(
        after.1 - before.1 <= after.0 - before.0,
        "at most one look-up for each poll"
    );
    // Highest and lowest container outside of all polls.
    story.delete(all[0]);
    story.set_priority(all[3489], 0);
    story.run_for(seconds(55));
    assert_eq!(
        story.shown(all[0]),
        None,
        "looked up within four turns and a poll"
    );
    assert_eq!(story.shown(all[3489]), None);
    assert!(story.shown(all[1]).is_some());
    assert!(story.shown(all[3499]).is_some());
}

#[test]
fn missing_containers_looked_up_immediately() {
    let (mut story, all) = deep_queue();
    // All ten containers of earlier polls: the next poll contains ten others.
    for id in &all[3490..] {
        story.delete(*id);
    }
    story.run_for(seconds(12));
    assert!(all[3490..].iter().all(|id| story.shown(*id).is_none()));
    // All at once: polls are no longer full.
    for id in &all[5..3490] {
        story.set_priority(*id, 0);
    }
    story.run_for(seconds(55));
    assert!(all[5..].iter().all(|id| story.shown(*id).is_none()));
    assert!(all[..5].iter().all(|id| story.shown(*id).is_some()));
}

#[test]
fn incomplete_poll_drops_nothing() {
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
fn queue_503_storm_loses_nothing() {
    let mut story = Story::begin();
    let (container, _) = story.running(cores(1), minutes(10));
    let waiting = story.submit(cores(2));
    story.strike(Fault::QueueStorm, 2);
    story.run_for(minutes(60));
    story.assert_complete(container);
    story.assert_complete(waiting);
}

#[test]
fn lost_lock_answer_resolved() {
    let mut story = Story::begin();
    story.strike(Fault::UpdateAnswerLost, 1);
    let container = story.submit(cores(1));
    story.run_for(minutes(15));
    story.assert_complete(container);
    assert!(story.lock_count(container) <= 2);
}

#[test]
fn lost_lock_request_retried() {
    let mut story = Story::begin();
    story.strike(Fault::UpdateLost, 1);
    let container = story.submit(cores(1));
    story.run_for(minutes(15));
    story.assert_complete(container);
    assert_eq!(story.lock_count(container), 1);
}

#[test]
fn flapping_priority_runs_once() {
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
fn small_poll_limit_serves_all() {
    let mut story = Story::with(|config| config.limits.queued_per_poll = 2);
    let all: Vec<_> = (0..10)
        .map(|n| story.submit_as(cores(1), 1 + n, seconds(20)))
        .collect();
    story.run_for(minutes(60));
    for container in all {
        story.assert_complete(container);
    }
}
