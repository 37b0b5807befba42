//! Limits: progress of other containers during a wait, reservations, rates and timeouts.

use longshore_core::command::{Action, CloudAction};
use longshore_core::config::Rate;
use longshore_core::ids::ContainerId;
use longshore_core::input::{ContainerState, IdleBehavior};
use longshore_core::resources::Demand;
use longshore_core::{CreateBlocked, WaitReason};
use longshore_sim::Fault;
use longshore_sim::story::{Story, cores, minutes, seconds};

fn only(names: &[&str], config: &mut longshore_core::config::Config) {
    config
        .types
        .retain(|name, _| names.contains(&name.as_str()));
}

#[test]
fn backfill_keeps_last_instance() {
    let mut story = Story::with(|config| {
        only(&["large"], config);
        config.limits.instances = Some(1);
    });
    let low: Vec<_> = (1..=12)
        .map(|n| story.submit_as(cores(1), 1, seconds(60 + 20 * (n % 4))))
        .collect();
    story.run_until("the instance is full", minutes(5), |s| {
        low.iter().filter(|id| s.runs_on(**id).is_some()).count() == 4
    });
    let high = story.submit_as(cores(4), 900, minutes(2));
    story.run_until("the blocked container runs next", minutes(3), |s| {
        s.runs_on(high).is_some()
    });
    let left = low.iter().filter(|id| !story.has_ended(**id)).count();
    assert_eq!(left, 8, "no container of lower priority ran first");
    story.run_for(minutes(20));
    for container in low {
        story.assert_complete(container);
    }
    assert_eq!(story.vms_made(), 1);
}

#[test]
fn backfill_uses_unreserved_instance() {
    let mut story = Story::with(|config| {
        only(&["large"], config);
        config.limits.instances = Some(2);
    });
    let long: Vec<_> = (0..2)
        .map(|_| story.submit_as(cores(3), 800, minutes(60)))
        .collect();
    story.run_until("both instances are busy", minutes(5), |s| {
        long.iter().all(|id| s.runs_on(*id).is_some())
    });
    let high = story.submit_as(cores(4), 900, minutes(2));
    story.run_for(seconds(20));
    let low: Vec<_> = (0..2)
        .map(|_| story.submit_as(cores(1), 1, minutes(1)))
        .collect();
    story.run_for(seconds(20));
    let running = |s: &Story| low.iter().filter(|id| s.runs_on(**id).is_some()).count();
    assert_eq!(running(&story), 1, "only one instance is reserved");
    story.run_for(minutes(3));
    for container in low {
        story.assert_complete(container);
    }
    assert_eq!(story.runs_on(high), None);
}

fn blocked_by(story: &Story, id: ContainerId, test: fn(&CreateBlocked) -> bool) -> bool {
    let waiting = story.shown(id).and_then(|view| view.waiting);
    matches!(waiting, Some(WaitReason::CreateBlocked(why)) if why.iter().all(|(_, why)| test(why)))
}

fn running(story: &Story, of: &[ContainerId]) -> usize {
    of.iter().filter(|id| story.runs_on(**id).is_some()).count()
}

#[test]
fn overload_quiet_minute_uses_idle_instances() {
    let mut story = Story::with(|config| {
        only(&["medium"], config);
        config.limits.instances = Some(2);
    });
    let first: Vec<_> = (0..4)
        .map(|_| story.submit_as(cores(1), 900, minutes(60)))
        .collect();
    story.run_until("all containers run", minutes(5), |s| {
        running(s, &first) == 4
    });
    let next: Vec<_> = (0..4)
        .map(|_| story.submit_as(cores(1), 500, minutes(5)))
        .collect();
    story.run_for(seconds(15));
    let (creates, unlocks) = (story.creates(), story.unlocks());
    story.strike(Fault::QueueBusy, 1);
    story.run_until("the overload is detected", seconds(30), |s| {
        s.containers_max() == Some(3)
    });
    for container in &first[..2] {
        story.kill_container(*container);
    }
    story.run_for(seconds(45));
    assert_eq!(running(&story, &first), 2, "running containers continue");
    assert_eq!(running(&story, &next), 1, "a limit of three containers");
    assert!(blocked_by(&story, next[3], |why| matches!(
        why,
        CreateBlocked::Containers {
            max: 3,
            until: Some(_)
        }
    )));
    assert_eq!(
        (story.creates(), story.unlocks(), story.destroys()),
        (creates, unlocks, 0)
    );
    story.run_for(minutes(2));
    assert_eq!(
        running(&story, &next),
        2,
        "the limit rises after a quiet minute"
    );
    story.run_for(minutes(20));
    for container in next {
        story.assert_complete(container);
    }
}

#[test]
fn initial_quota_estimate_limits_creates() {
    let mut story = Story::with(|config| {
        only(&["small"], config);
        config.limits.initial_quota = Some(2);
    });
    let all: Vec<_> = (0..8).map(|_| story.submit(cores(1))).collect();
    story.run_for(seconds(50));
    assert_eq!(story.creates(), 2);
    story.run_for(minutes(3));
    assert!((4..=6).contains(&story.creates()), "{}", story.creates());
    story.run_for(minutes(20));
    for container in all {
        story.assert_complete(container);
    }
}

fn supervisor() -> Demand {
    Demand {
        supervisor: true,
        ..cores(1)
    }
}

#[test]
fn excess_supervisors_never_locked() {
    let mut story = Story::with(|config| {
        only(&["small"], config);
        config.limits.instances = Some(8);
    });
    let supervisors: Vec<_> = (0..6)
        .map(|_| story.submit_as(supervisor(), 900, minutes(60)))
        .collect();
    story.run_until("four supervisors run", minutes(5), |s| {
        running(s, &supervisors) == 4
    });
    let others: Vec<_> = (0..3).map(|_| story.submit(cores(1))).collect();
    story.run_for(minutes(3));
    assert_eq!(running(&story, &supervisors), 4, "half of eight instances");
    assert_eq!(
        running(&story, &others),
        3,
        "containers of lower priority run"
    );
    let locks: u32 = supervisors.iter().map(|id| story.lock_count(*id)).sum();
    assert_eq!((locks, story.unlocks(), story.destroys()), (4, 0, 0));
    let status = story.shown(supervisors[5]).map(|view| view.status);
    let status = status.unwrap_or_default();
    assert!(status.contains("workflow queue at position 2"), "{status}");
}

#[test]
fn lowered_supervisor_fraction_stops_nothing() {
    let mut story = Story::with(|config| {
        only(&["small"], config);
        config.limits.instances = Some(8);
    });
    let supervisors: Vec<_> = (0..4)
        .map(|_| story.submit_as(supervisor(), 900, minutes(20)))
        .collect();
    story.run_until("four supervisors run", minutes(5), |s| {
        running(s, &supervisors) == 4
    });
    story.reconfigure(|config| config.limits.supervisor_fraction_ppm = Some(250_000));
    let fifth = story.submit_as(supervisor(), 900, minutes(5));
    story.run_for(minutes(5));
    assert_eq!(running(&story, &supervisors), 4);
    assert!(blocked_by(&story, fifth, |why| matches!(
        why,
        CreateBlocked::Supervisors { max: 2 }
    )));
    assert_eq!(story.destroys(), 0);
    story.run_for(minutes(30));
    story.assert_complete(fifth);
}

#[test]
fn supervisor_fraction_allows_at_least_one() {
    let mut story = Story::with(|config| {
        only(&["large"], config);
        config.limits.instances = Some(1);
    });
    let two = [(); 2].map(|()| story.submit_as(supervisor(), 900, minutes(60)));
    story.run_for(minutes(5));
    assert_eq!(running(&story, &two), 1);
    story.reconfigure(|config| config.limits.supervisor_fraction_ppm = None);
    story.run_for(minutes(1));
    assert_eq!(running(&story, &two), 2);
}

/// Returns a story without capacity for type `huge` and with a scheduling timeout of half an hour.
fn huge_sold_out() -> Story {
    let mut story = Story::with(|config| {
        only(&["huge"], config);
        config.timeouts.scheduling = Some(minutes(30));
    });
    story.set_capacity("huge", 0);
    story
}

#[test]
fn scheduling_timeout_cancels_with_reason() {
    let mut story = huge_sold_out();
    let container = story.submit(cores(8));
    story.run_for(minutes(28));
    story.assert_state(container, ContainerState::Queued);
    story.run_for(minutes(5));
    story.assert_cancelled(container, "MaxSchedulingTime");
    story.assert_cancelled(container, "huge");
    assert_eq!(
        story.lock_count(container),
        1,
        "locked once to write the reason"
    );
}

#[test]
fn scheduling_timeout_excludes_own_limits() {
    let mut story = Story::with(|config| {
        only(&["small"], config);
        config.limits.instances = Some(1);
        config.timeouts.scheduling = Some(minutes(10));
    });
    let _long = story.running(cores(1), minutes(90));
    let next = story.submit(cores(1));
    story.run_for(minutes(60));
    story.assert_state(next, ContainerState::Queued);
    story.run_for(minutes(60));
    story.assert_complete(next);
}

#[test]
fn scheduling_timeout_excludes_held_instance() {
    let mut story = Story::with(|config| {
        only(&["huge"], config);
        config.timeouts.scheduling = Some(minutes(10));
    });
    let (first, vm) = story.running(cores(8), minutes(1));
    story.hold(vm);
    story.set_capacity("huge", 1);
    story.run_until("the container ends", minutes(5), |s| s.has_ended(first));
    let next = story.submit(cores(8));
    story.run_for(minutes(60));
    story.assert_state(next, ContainerState::Queued);
    story.set_behavior(vm, IdleBehavior::Run);
    story.run_for(minutes(10));
    story.assert_complete(next);
}

#[test]
fn scheduling_timeout_includes_cloud_throttling() {
    let mut story = Story::with(|config| {
        only(&["huge"], config);
        config.timeouts.scheduling = Some(minutes(10));
    });
    story.throttle_creates(minutes(60), 1);
    let first = story.submit_as(cores(8), 500, minutes(120));
    story.until_running(first);
    let next = story.submit(cores(8));
    story.run_for(minutes(20));
    story.assert_cancelled(next, "MaxSchedulingTime");
    story.assert_cancelled(next, "rate limited by the cloud");
}

#[test]
fn scheduling_timeout_includes_quota_turn() {
    let mut story = Story::with(|config| {
        only(&["small", "huge"], config);
        config.timeouts.scheduling = Some(minutes(10));
    });
    story.set_quota("standard", 1);
    let _first = story.running(cores(1), minutes(120));
    let next = story.submit(cores(8));
    story.run_for(minutes(1));
    story.strike(Fault::CreateSlow, 1000);
    story.run_for(minutes(20));
    story.assert_cancelled(next, "MaxSchedulingTime");
}

#[test]
fn scheduling_timeout_excludes_own_rate() {
    let mut story = Story::with(|config| {
        only(&["huge"], config);
        config.timeouts.scheduling = Some(minutes(10));
        config.limits.creates = Some(Rate {
            interval: minutes(30),
            burst: 1,
        });
    });
    let first = story.submit_as(cores(8), 500, minutes(120));
    story.until_running(first);
    let next = story.submit(cores(8));
    story.run_for(minutes(25));
    story.assert_state(next, ContainerState::Queued);
    story.run_for(minutes(20));
    story.assert_complete(next);
}

#[test]
fn scheduling_timeout_excludes_lost_leadership() {
    let mut story = huge_sold_out();
    let container = story.submit(cores(8));
    story.run_for(minutes(20));
    story.lose_leadership(minutes(60));
    story.run_for(minutes(75));
    story.assert_state(container, ContainerState::Queued);
    story.run_for(minutes(20));
    story.assert_cancelled(container, "MaxSchedulingTime");
}

#[test]
fn scheduling_timeout_spares_started_container() {
    let mut story = Story::with(|config| config.timeouts.scheduling = Some(minutes(10)));
    let container = story.submit_as(cores(1), 500, minutes(60));
    story.run_for(minutes(70));
    story.assert_complete(container);
}

/// Rate of one call each 20 seconds.
const EVERY_20_S: Rate = Rate {
    interval: seconds(20),
    burst: 1,
};

#[test]
fn destroy_rate_holds() {
    let mut story = Story::with(|config| {
        only(&["small"], config);
        config.limits.destroys = Some(EVERY_20_S);
    });
    for _ in 0..6 {
        story.submit_as(cores(1), 500, seconds(20));
    }
    story.run_until("the first destroy is sent", minutes(10), |s| {
        s.destroys() == 1
    });
    story.run_for(minutes(1));
    assert!((2..=4).contains(&story.destroys()), "{}", story.destroys());
    story.run_for(minutes(20));
    assert_eq!(story.vms(), 0);
}

#[test]
fn list_rate_holds_while_awaiting() {
    let mut story = Story::with(|config| config.limits.lists = Some(EVERY_20_S));
    story.strike(Fault::AddressLate, 1);
    let container = story.submit(cores(1));
    let lists = |s: &Story| {
        s.count_commands(|action| {
            let list = CloudAction::List;
            matches!(action, Action::Cloud { action, .. } if *action == list)
        })
    };
    story.run_for(minutes(10));
    assert!((5..=31).contains(&lists(&story)), "{}", lists(&story));
    story.assert_complete(container);
}

#[test]
fn total_cloud_rate_holds() {
    let mut story = Story::with(|config| {
        only(&["small"], config);
        config.limits.cloud_ops = Some(EVERY_20_S);
    });
    for _ in 0..20 {
        story.submit_as(cores(1), 500, seconds(20));
    }
    story.run_for(minutes(10));
    let calls = story.count_commands(|action| matches!(action, Action::Cloud { .. }));
    assert!((20..=31).contains(&calls), "{calls}");
}

#[test]
fn recent_quota_error_serializes_creates() {
    let mut story = Story::with(|config| only(&["small", "medium"], config));
    story.set_quota("standard", 1);
    let first = story.submit_as(cores(1), 900, minutes(60));
    story.until_running(first);
    for priority in [100, 300, 200] {
        let demand = cores(if priority == 300 { 2 } else { 1 });
        story.submit_as(demand, priority, minutes(60));
    }
    story.run_for(seconds(30));
    let creates = story.creates();
    story.set_quota("standard", 9);
    story.strike(Fault::CreateSlow, 3);
    story.run_until("a create is sent", minutes(5), |s| s.creates() > creates);
    assert_eq!(story.creates(), creates + 1);
    story.run_for(seconds(2));
    assert_eq!(
        story.creates(),
        creates + 1,
        "the other creates wait for the answer"
    );
    story.run_until("the second instance is created", minutes(5), |s| {
        s.vms_made() == 2
    });
    assert_eq!(
        story.type_of(1),
        "medium",
        "the type for the highest priority"
    );
    story.run_for(minutes(5));
    assert_eq!(story.vms_made(), 4);
}

#[test]
fn quota_retry_backs_off_with_jitter() {
    let mut story = Story::with(|config| only(&["small"], config));
    story.set_quota("standard", 0);
    story.submit(cores(1));
    story.run_for(minutes(150));
    let times = story.times_of(|action| {
        let create = |action: &CloudAction| matches!(action, CloudAction::Create { .. });
        matches!(action, Action::Cloud { action, .. } if create(action))
    });
    let gaps: Vec<u64> = times.windows(2).map(|w| (w[1] - w[0]).as_secs()).collect();
    let expected = [60, 120, 240, 480, 900, 900];
    assert!(gaps.len() >= expected.len(), "{gaps:?}");
    for (gap, least) in gaps.iter().zip(expected) {
        assert!((least..=least * 9 / 8 + 5).contains(gap), "{gaps:?}");
    }
    assert!(
        gaps.iter()
            .zip(expected)
            .any(|(gap, least)| *gap > least + 2),
        "{gaps:?}"
    );
}

#[test]
fn cancelled_reservation_passes_to_next() {
    let mut story = Story::with(|config| {
        only(&["small"], config);
        config.limits.initial_quota = Some(1);
    });
    let first = story.submit_as(cores(1), 900, minutes(5));
    let second = story.submit_as(cores(1), 500, minutes(5));
    story.run_for(seconds(5));
    let limited = |why: &CreateBlocked| matches!(why, CreateBlocked::Containers { max: 1, .. });
    assert!(blocked_by(&story, second, limited));
    story.set_priority(first, 0);
    story.run_for(seconds(5));
    assert!(
        matches!(
            story.shown(second).and_then(|view| view.waiting),
            Some(WaitReason::Booting { .. })
        ),
        "the instance of the first container is reserved for the second"
    );
}

#[test]
fn reserved_instance_released_after_cancel() {
    let mut story = Story::with(|config| {
        only(&["large"], config);
        config.limits.instances = Some(1);
    });
    let (_, vm) = story.running(cores(3), minutes(60));
    let high = story.submit_as(cores(4), 900, minutes(5));
    story.run_for(seconds(20));
    let low = story.submit_as(cores(1), 1, minutes(5));
    story.run_for(seconds(20));
    assert_eq!(story.runs_on(low), None, "the instance is reserved");
    story.set_priority(high, 0);
    story.run_for(seconds(30));
    assert_eq!(story.runs_on(low), Some(vm));
}
