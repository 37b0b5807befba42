//! What may be spent, and what happens when it is.

use longshore_core::config::{Budget, Config};
use longshore_core::resources::MicroDollars;
use longshore_core::time::Timestamp;
use longshore_core::{CreateBlocked, WaitReason};
use longshore_sim::story::{Story, cores, minutes, seconds};

/// Ten cents an hour for each core, and so many cents over so long a span.
fn small_for(cents: u64, window: std::time::Duration) -> impl FnOnce(&mut Config) {
    move |config| {
        let few = ["small", "medium"];
        config.types.retain(|name, _| few.contains(&name.as_str()));
        config.limits.budgets = vec![Budget {
            window,
            limit: MicroDollars(cents * 10_000),
        }];
    }
}

/// When room is expected, if all that a container waits for is a budget.
fn room_at(story: &Story, id: longshore_core::ids::ContainerId) -> Option<Option<Timestamp>> {
    match story.shown(id)?.waiting? {
        WaitReason::CreateBlocked(why) => match why.as_slice() {
            [(_, CreateBlocked::Budget { until, .. })] => Some(*until),
            _ => None,
        },
        _ => None,
    }
}

#[test]
fn at_a_budget_nothing_is_killed_nothing_is_created_and_the_reason_says_until_when() {
    let mut story = Story::with(small_for(5, minutes(60)));
    let long: Vec<_> = (0..3)
        .map(|_| story.submit_as(cores(1), 500, minutes(30)))
        .collect();
    story.run_for(minutes(15));
    let next = story.submit(cores(2));
    story.run_for(minutes(5));
    assert!(long.iter().all(|id| story.runs_on(*id).is_some()));
    assert_eq!(room_at(&story, next), Some(None), "never, if they stay");
    let status = story.shown(next).map(|view| view.status);
    let status = status.unwrap_or_default();
    assert!(status.contains("budget of $0.050000 in 1h"), "{status}");
    story.run_for(minutes(20));
    for container in long {
        story.assert_complete(container);
    }
    assert_eq!((story.vms_made(), story.vms()), (3, 0));
    let at = room_at(&story, next).flatten().expect("a time is known");
    let ahead = at.since(story.now());
    assert!(ahead > minutes(30) && ahead < minutes(55), "in {ahead:?}");
    assert_eq!(story.budgets()[0].left, MicroDollars(0));
    story.run_for(ahead - seconds(30));
    assert_eq!(story.creates(), 3, "not before there is room");
    story.run_for(minutes(2));
    assert_eq!(story.creates(), 4, "at once when there is");
    story.run_for(minutes(15));
    story.assert_complete(next);
}

#[test]
fn a_restart_does_not_forget_what_the_instances_that_exist_have_cost() {
    let mut story = Story::with(small_for(5, minutes(120)));
    let (first, _) = story.running(cores(1), minutes(80));
    story.run_for(minutes(40));
    story.restart();
    let second = story.submit(cores(1));
    story.run_for(minutes(5));
    assert!(story.runs_on(first).is_some());
    assert!(
        room_at(&story, second).is_some(),
        "{:?}",
        story.shown(second)
    );
    assert_eq!(story.vms_made(), 1);
}

#[test]
fn nothing_is_counted_twice_when_leadership_comes_back() {
    let mut story = Story::with(small_for(100, minutes(120)));
    let (_, _) = story.running(cores(1), minutes(100));
    story.run_for(minutes(20));
    story.lose_leadership(minutes(20));
    story.run_for(minutes(30));
    let spent = story.budgets()[0].spent.0;
    let minutes_paid = spent * 60 / 100_000;
    assert!((48..=56).contains(&minutes_paid), "{minutes_paid} minutes");
}

#[test]
fn the_tightest_budget_counts_and_a_larger_one_makes_room_at_once() {
    let mut story = Story::with(small_for(5, minutes(60)));
    story.reconfigure(|config| {
        config.limits.budgets.push(Budget {
            window: minutes(600),
            limit: MicroDollars(10_000_000),
        });
    });
    let (_, _) = story.running(cores(1), minutes(120));
    story.run_for(minutes(40));
    let next = story.submit(cores(1));
    story.run_for(minutes(2));
    assert!(room_at(&story, next).is_some(), "{:?}", story.shown(next));
    story.reconfigure(|config| config.limits.budgets[0].limit.0 *= 100);
    story.until_running(next);
}
