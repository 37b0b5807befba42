//! Quotas, capacity and rate limits of the cloud, and configured limits.

use std::time::Duration;

use longshore_core::command::{Action, CloudAction};
use longshore_core::config::Rate;
use longshore_core::resources::{Demand, MicroDollars};
use longshore_core::{CreateBlocked, WaitReason};
use longshore_sim::Fault;
use longshore_sim::story::{Story, cores, minutes, seconds};

fn only(names: &[&str], config: &mut longshore_core::config::Config) {
    config
        .types
        .retain(|name, _| names.contains(&name.as_str()));
}

#[test]
fn account_quota_containers_wait_and_resume() {
    let mut story = Story::with(|config| only(&["small"], config));
    story.set_quota("standard", 2);
    let all: Vec<_> = (0..4).map(|_| story.submit(cores(1))).collect();
    story.run_for(minutes(4));
    let running = all.iter().filter(|id| story.runs_on(**id).is_some());
    assert_eq!(running.count(), 2);
    let status = story
        .shown(all[3])
        .map(|view| view.status)
        .unwrap_or_default();
    assert!(status.contains("limits are reached"), "{status}");
    assert!(story.creates() < 10, "{} creates", story.creates());
    story.run_for(minutes(30));
    for container in all {
        story.assert_complete(container);
        assert!(story.lock_count(container) <= 2);
    }
}

#[test]
fn raised_quota_detected_without_shutdown() {
    let mut story = Story::with(|config| only(&["small"], config));
    story.set_quota("standard", 1);
    let _long = story.submit_as(cores(1), 900, minutes(300));
    story.run_for(minutes(3));
    let waiting = story.submit(cores(1));
    story.run_for(minutes(2));
    story.set_quota("standard", 10);
    story.run_for(minutes(40));
    story.assert_complete(waiting);
}

#[test]
fn quota_error_other_group_unaffected() {
    let mut story = Story::begin();
    story.set_quota("standard.spot", 0);
    let spot = story.submit(Demand {
        preemptible: true,
        ..cores(1)
    });
    story.run_for(minutes(1));
    let plain = story.submit(cores(1));
    story.run_for(minutes(10));
    story.assert_complete(plain);
    assert_eq!(story.runs_on(spot), None);
}

#[test]
fn missing_capacity_other_types_unaffected() {
    let mut story = Story::with(|config| only(&["small", "huge"], config));
    story.set_capacity("huge", 0);
    let blocked = story.submit_as(cores(8), 1000, minutes(5));
    let other = story.submit(cores(1));
    story.run_for(minutes(10));
    story.assert_complete(other);
    let status = story
        .shown(blocked)
        .map(|view| view.status)
        .unwrap_or_default();
    assert!(
        status.contains("huge") && status.contains("at capacity"),
        "{status}"
    );
    story.set_capacity("huge", 1);
    story.run_for(minutes(60));
    story.assert_complete(blocked);
}

#[test]
fn sold_out_type_next_eligible_used() {
    let mut story = Story::with(|config| {
        only(&["small", "medium"], config);
        config.sizing.max_price_factor_ppm = 2_000_000;
    });
    story.set_capacity("small", 0);
    let container = story.submit(cores(1));
    story.run_for(minutes(10));
    story.assert_complete(container);
    assert_eq!(story.vms_made(), 1);
}

#[test]
fn cloud_rate_limit_respected() {
    let mut story = Story::with(|config| only(&["small"], config));
    story.throttle_creates(seconds(30), 1);
    let all: Vec<_> = (0..5)
        .map(|_| story.submit_as(cores(1), 500, minutes(1)))
        .collect();
    story.run_for(minutes(30));
    for container in all {
        story.assert_complete(container);
    }
    assert!(story.creates() < 30, "{} creates", story.creates());
}

#[test]
fn configured_create_rate_holds() {
    let mut story = Story::with(|config| {
        only(&["small"], config);
        config.limits.creates = Some(Rate {
            interval: seconds(20),
            burst: 2,
        });
    });
    for _ in 0..20 {
        story.submit_as(cores(1), 500, minutes(60));
    }
    story.run_for(minutes(2));
    assert!((2..=8).contains(&story.creates()), "{}", story.creates());
}

#[test]
fn cloud_outage_running_work_unaffected() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), minutes(20));
    story.strike(Fault::CloudDown, 1);
    story.run_for(minutes(90));
    story.assert_complete(container);
    story.run_for(minutes(30));
    assert!(story.is_gone(vm));
}

#[test]
fn price_limit_reported_as_reason() {
    let mut story = Story::with(|config| {
        only(&["small"], config);
        config.limits.price_per_hour = Some(MicroDollars(250_000));
    });
    let all: Vec<_> = (0..4).map(|_| story.submit(cores(1))).collect();
    story.run_for(minutes(4));
    assert_eq!(
        story.vms_made(),
        2,
        "two instances at ten cents, limit 25 cents"
    );
    let waiting = story.shown(all[3]).and_then(|view| view.waiting);
    let reason = matches!(&waiting, Some(WaitReason::CreateBlocked(why))
        if why.iter().all(|(_, b)| *b == CreateBlocked::MaxPricePerHour));
    assert!(reason, "{waiting:?}");
    story.run_for(minutes(30));
    for container in all {
        story.assert_complete(container);
    }
}

#[test]
fn max_instances_counts_pending_creates() {
    let mut story = Story::with(|config| {
        only(&["small"], config);
        config.limits.instances = Some(3);
    });
    story.strike(Fault::CreateSlow, 3);
    for _ in 0..10 {
        story.submit(cores(1));
    }
    story.run_for(minutes(2));
    assert_eq!(story.creates(), 3);
}

#[test]
fn creates_in_flight_limited() {
    let mut story = Story::with(|config| {
        only(&["small"], config);
        config.limits.creates_in_flight = Some(1);
    });
    story.strike(Fault::CreateSlow, 1);
    for _ in 0..3 {
        story.submit(cores(1));
    }
    story.run_for(seconds(25));
    assert_eq!(story.creates(), 1);
    story.run_for(minutes(20));
    assert_eq!(story.vms_made(), 3);
}

#[test]
fn low_priority_create_leaves_quota() {
    let mut story = Story::with(|config| only(&["small", "huge"], config));
    story.set_quota("standard", 1);
    let first = story.submit_as(cores(1), 900, minutes(2));
    story.until_running(first);
    let high = story.submit_as(cores(8), 800, minutes(2));
    let low = story.submit_as(cores(1), 1, minutes(600));
    story.run_for(minutes(60));
    story.assert_complete(high);
    assert!(story.runs_on(low).is_some());
}

#[test]
fn quota_error_other_group_creates_parallel() {
    let mut story = Story::begin();
    story.set_quota("standard.spot", 0);
    let spot = story.submit(Demand {
        preemptible: true,
        ..cores(1)
    });
    story.run_for(minutes(1));
    story.strike(Fault::CreateSlow, 1000);
    for _ in 0..12 {
        story.submit(cores(8));
    }
    story.run_for(seconds(5));
    assert_eq!(
        story.creates_of("huge"),
        12,
        "all creates in flight at once"
    );
    story.run_for(minutes(60));
    assert_eq!(story.runs_on(spot), None);
}

#[test]
fn old_quota_error_expires() {
    let mut story = Story::with(|config| only(&["huge"], config));
    story.set_quota("standard", 0);
    let container = story.submit(cores(8));
    story.run_for(minutes(1));
    assert!(story.totals().at_quota);
    story.set_priority(container, 0);
    story.set_quota("standard", 100);
    story.run_for(minutes(30));
    assert!(!story.totals().at_quota, "no recent refusal");
}

#[test]
fn sold_out_type_exponential_canary_backoff() {
    let create = |action: &Action| {
        let create = |action: &CloudAction| matches!(action, CloudAction::Create { .. });
        matches!(action, Action::Cloud { action, .. } if create(action))
    };
    let gaps = |times: &[Duration]| -> Vec<u64> {
        let pairs = times.windows(2);
        pairs.map(|pair| (pair[1] - pair[0]).as_secs()).collect()
    };
    let assert_gaps = |gaps: &[u64], expected: &[u64]| {
        assert!(gaps.len() >= expected.len(), "{gaps:?}");
        for (gap, least) in gaps.iter().zip(expected) {
            assert!((*least..=*least * 9 / 8 + 5).contains(gap), "{gaps:?}");
        }
    };
    let mut story = Story::with(|config| only(&["small"], config));
    story.set_capacity("small", 0);
    let all: Vec<_> = (0..4)
        .map(|_| story.submit_as(cores(1), 500, minutes(600)))
        .collect();
    story.run_for(seconds(30));
    let (at_first, begin) = (story.creates(), story.elapsed());
    assert!(at_first <= 4, "{at_first} creates");
    story.run_for(minutes(4 * 60));
    let all_times = story.times_of(create);
    let tries = &all_times[at_first - 1..];
    // Four containers wait, and a single create decides for all at each retry.
    assert_gaps(&gaps(tries), &[60, 120, 240, 480, 960, 1800, 1800]);
    assert!(tries[1] > begin, "{tries:?}");
    // After a successful create the others follow; after a failure the back-off starts again.
    story.set_capacity("small", 2);
    story.run_for(minutes(45));
    assert_eq!(story.how_many_run(&all), 2);
    let later = gaps(&story.times_of(create)[all_times.len()..]);
    let apart: Vec<u64> = later.into_iter().filter(|gap| *gap > 30).collect();
    assert_gaps(&apart, &[60, 120, 240]);
}

#[test]
fn sold_out_group_shares_one_canary() {
    let mut story = Story::with(|config| {
        only(&["small", "medium", "large", "huge"], config);
        config.sizing.max_price_factor_ppm = 100_000_000;
    });
    story.sell_out("standard", minutes(3));
    let all: Vec<_> = [1, 2, 4, 8].map(|n| story.submit(cores(n))).into();
    story.run_for(seconds(30));
    let before = story.creates();
    story.strike(Fault::CreateSlow, 1000);
    story.run_until("a canary is sent", minutes(5), |s| s.creates() > before);
    story.run_for(seconds(2));
    assert_eq!(
        story.creates(),
        before + 1,
        "the other types wait for the canary"
    );
    story.run_for(minutes(90));
    for container in all {
        story.assert_complete(container);
    }
}

/// Time since the first failing create of a type, as in the metric.
fn failing(story: &Story, name: &str) -> Option<std::time::Duration> {
    let since = story.totals().failing.get(&name.into()).copied()?;
    Some(story.now().since(since))
}

#[test]
fn throttled_creates_reported_as_failing() {
    let mut story = Story::with(|config| only(&["huge"], config));
    story.throttle_creates(minutes(60), 1);
    let _first = story.running(cores(8), minutes(600));
    let container = story.submit(cores(8));
    story.run_for(minutes(10));
    let span = failing(&story, "huge").expect("a failing type");
    assert!(span > minutes(9), "{span:?}");
    story.run_for(minutes(70));
    story.assert_complete(container);

    story.set_capacity("huge", 0);
    let other = story.submit(cores(8));
    story.run_for(minutes(1));
    assert!(failing(&story, "huge").is_some());
    story.set_priority(other, 0);
    story.run_for(minutes(60));
    story.set_capacity("huge", 9);
    let last = story.submit_as(cores(8), 500, minutes(1));
    story.run_for(seconds(1));
    assert_eq!(
        failing(&story, "huge"),
        None,
        "the last error is an hour old"
    );
    story.run_for(minutes(10));
    story.assert_complete(last);
}
