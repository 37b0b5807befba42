//! Budgets: limits on spending within a time window.

use longshore_core::config::{Budget, Config};
use longshore_core::resources::MicroDollars;
use longshore_core::time::Timestamp;
use longshore_core::{CreateBlocked, WaitReason};
use longshore_sim::story::{Story, cores, minutes, seconds};

/// Configures types at ten cents an hour for each core, and a budget of `cents` in `window`.
fn budget_config(cents: u64, window: std::time::Duration) -> impl FnOnce(&mut Config) {
    move |config| {
        let few = ["small", "medium"];
        config.types.retain(|name, _| few.contains(&name.as_str()));
        config.limits.budgets = vec![Budget {
            window,
            limit: MicroDollars(cents * 10_000),
        }];
    }
}

/// Expected time of free budget, if a budget is the only obstacle of a container.
fn budget_free_at(
    story: &Story,
    id: longshore_core::ids::ContainerId,
) -> Option<Option<Timestamp>> {
    match story.shown(id)?.waiting? {
        WaitReason::CreateBlocked(why) => match why.as_slice() {
            [(_, CreateBlocked::Budget { until, .. })] => Some(*until),
            _ => None,
        },
        _ => None,
    }
}

#[test]
fn exhausted_budget_blocks_only_creates() {
    let mut story = Story::with(budget_config(5, minutes(60)));
    let long: Vec<_> = (0..3)
        .map(|_| story.submit_as(cores(1), 500, minutes(30)))
        .collect();
    story.run_for(minutes(15));
    let next = story.submit(cores(2));
    story.run_for(minutes(5));
    assert!(long.iter().all(|id| story.runs_on(*id).is_some()));
    assert_eq!(
        budget_free_at(&story, next),
        Some(None),
        "no time is known while all instances stay"
    );
    let status = story.shown(next).map(|view| view.status);
    let status = status.unwrap_or_default();
    assert!(status.contains("budget of $0.050000 in 1h"), "{status}");
    story.run_for(minutes(20));
    for container in long {
        story.assert_complete(container);
    }
    assert_eq!((story.vms_made(), story.vms()), (3, 0));
    let at = budget_free_at(&story, next)
        .flatten()
        .expect("a known time");
    let ahead = at.since(story.now());
    assert!(ahead > minutes(30) && ahead < minutes(55), "in {ahead:?}");
    assert_eq!(story.budgets()[0].left, MicroDollars(0));
    story.run_for(ahead - seconds(30));
    assert_eq!(story.creates(), 3, "no create before the budget is free");
    story.run_for(minutes(2));
    assert_eq!(story.creates(), 4, "a create as soon as the budget is free");
    story.run_for(minutes(15));
    story.assert_complete(next);
}

#[test]
fn restart_keeps_instance_costs() {
    let mut story = Story::with(budget_config(5, minutes(120)));
    let (first, _) = story.running(cores(1), minutes(80));
    story.run_for(minutes(40));
    story.restart();
    let second = story.submit(cores(1));
    story.run_for(minutes(5));
    assert!(story.runs_on(first).is_some());
    assert!(
        budget_free_at(&story, second).is_some(),
        "{:?}",
        story.shown(second)
    );
    assert_eq!(story.vms_made(), 1);
}

#[test]
fn leadership_return_counts_cost_once() {
    let mut story = Story::with(budget_config(100, minutes(120)));
    let (_, _) = story.running(cores(1), minutes(100));
    story.run_for(minutes(20));
    story.lose_leadership(minutes(20));
    story.run_for(minutes(30));
    let spent = story.budgets()[0].spent.0;
    let minutes_paid = spent * 60 / 100_000;
    assert!((48..=56).contains(&minutes_paid), "{minutes_paid} minutes");
}

#[test]
fn tightest_budget_applies() {
    let mut story = Story::with(budget_config(5, minutes(60)));
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
    assert!(
        budget_free_at(&story, next).is_some(),
        "{:?}",
        story.shown(next)
    );
    story.reconfigure(|config| config.limits.budgets[0].limit.0 *= 100);
    story.until_running(next);
}
