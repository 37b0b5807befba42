//! Failures in the history of the peer, as scenarios for this dispatcher.

use longshore_core::command::{Action, CloudAction, QueueAction};
use longshore_core::config::Rate;
use longshore_core::event::{BootOutcome, Event};
use longshore_core::input::ContainerState;
use longshore_core::{CreateBlocked, Phase, ShutdownReason, WaitReason};
use longshore_sim::Fault;
use longshore_sim::story::{Story, bare, cores, minutes, number_types, seconds};

fn polls(story: &Story) -> usize {
    story.count_commands(|action| matches!(action, Action::Queue(QueueAction::Poll { .. })))
}

/// Ticket 14828: two code paths cancelled an unsatisfiable container at the same time. Ticket
/// 6f4e3ff9: an older snapshot of the queue overwrote the answer of a cancel.
#[test]
fn stale_snapshot_after_cancel_ignored() {
    let mut story = Story::with(|config| config.intervals.poll = seconds(1));
    for round in 0..20 {
        story.strike(Fault::QueueAnswerTwice, 2);
        story.strike(Fault::QueueAnswerLate, round % 2);
        let unsatisfiable = story.submit(bare(64));
        story.run_for(minutes(5));
        story.assert_state(unsatisfiable, ContainerState::Cancelled);
        assert_eq!(story.cancels_of(unsatisfiable), 1);
        assert_eq!(story.shown(unsatisfiable), None);
    }
}

/// Ticket 14920: an instance appeared in a list before its create returned, and counted as foreign.
#[test]
fn instance_listed_before_create_answer_matched() {
    let mut story = Story::with(|config| config.intervals.sync = seconds(2));
    story.strike(Fault::CreateSlow, 1);
    let container = story.submit(cores(1));
    let vm = story.until_running(container);
    let found = |event: &Event| matches!(event, Event::InstanceFound { .. });
    assert_eq!(story.count_events(found), 0);
    story.run_for(minutes(12));
    story.assert_complete(container);
    assert_eq!((vm, story.vms_made(), story.creates()), (0, 1, 1));
}

/// Ticket 14977: after a restart, containers were unlocked before the first instance list.
#[test]
fn unlock_waits_for_instance_list() {
    let mut story = Story::begin();
    story.strike(Fault::SlowSetup, 1);
    let container = story.submit(cores(1));
    story.run_until("the runner starts", minutes(5), |story| {
        story.has_runner(container)
    });
    story.strike(Fault::ListFails, 4);
    story.restart();
    story.run_for(minutes(20));
    story.assert_complete(container);
    assert_eq!((story.unlocks(), story.lock_count(container)), (0, 1));
}

/// Suspicion 9: a container was unlocked because the instance with its runner was the last instance
/// probed.
#[test]
fn lock_on_unprobed_instance_kept() {
    let mut story = Story::with(|config| config.timeouts.stale_lock = minutes(5));
    let (_, other) = story.running(cores(2), minutes(60));
    story.strike(Fault::SlowSetup, 1);
    let container = story.submit(cores(8));
    story.run_until("the runner starts", minutes(5), |story| {
        story.has_runner(container)
    });
    story.vm(1 - other).be_silent_for(minutes(2));
    story.restart();
    story.run_for(minutes(30));
    story.assert_complete(container);
    assert_eq!(story.starts_of(container), 1);
}

/// Ticket 16723: a container was locked again while its earlier runner was alive, and ran twice.
#[test]
fn start_waits_for_earlier_runner_end() {
    let mut story = Story::begin();
    story.strike(Fault::SlowSetup, 1);
    let container = story.submit(cores(1));
    story.run_until("the runner starts", minutes(5), |story| {
        story.has_runner(container)
    });
    story.vm(0).ignore_term();
    story.set_priority(container, 0);
    story.run_for(seconds(20));
    story.set_priority(container, 500);
    story.run_for(minutes(40));
    let ended = story.state(container).is_some_and(ContainerState::is_final);
    assert!(ended, "{:?}", story.shown(container));
    assert!(story.starts_of(container) <= 2);
    assert_eq!(story.vms(), 0);
}

/// Ticket 16795: a rate limit on a create shut down booting instances.
#[test]
fn create_rate_limit_spares_booting_instances() {
    let mut story = Story::with(|config| {
        number_types(config, &[1]);
        config.limits.containers_per_instance = Some(1);
    });
    story.throttle_creates(minutes(3), 2);
    story.boots_take((120, 120));
    let all: Vec<_> = (0..4)
        .map(|_| story.submit_as(bare(1), 500, minutes(30)))
        .collect();
    story.run_for(minutes(4));
    assert_eq!(story.how_many_run(&all), 2);
    assert_eq!(story.destroys(), 0);
    story.run_for(minutes(12));
    assert_eq!((story.how_many_run(&all), story.destroys()), (4, 0));
}

/// Tickets 16636 and 16838: outcomes of boots were not counted.
#[test]
fn boot_outcome_counted_once() {
    let mut story = Story::with(|config| {
        number_types(config, &[1]);
        config.limits.containers_per_instance = Some(1);
        config.timeouts.idle = seconds(30);
    });
    story.strike(Fault::NeverBoots, 1);
    let all: Vec<_> = (0..4)
        .map(|_| story.submit_as(bare(1), 500, minutes(2)))
        .collect();
    story.run_until("four instances are created", minutes(2), |story| {
        story.vms_made() == 4
    });
    story.run_for(seconds(5));
    let booting = (1..4).find(|vm| {
        let shown = story.shown_vm(*vm);
        shown.is_some_and(|shown| shown.phase == Phase::Booting)
    });
    story.vm(booting.expect("a booting instance")).vanish();
    let aborted = story.submit_as(bare(1), 500, minutes(2));
    story.run_until("a fifth instance is created", minutes(2), |story| {
        story.vms_made() >= 5
    });
    story.run_for(seconds(2));
    story.kill_vm(4);
    story.run_for(minutes(40));
    for container in all.iter().chain([&aborted]) {
        story.assert_complete(*container);
    }
    let count = |wanted: BootOutcome| {
        story.count_events(
            |event| matches!(event, Event::Boot { outcome, .. } if *outcome == wanted),
        )
    };
    assert_eq!(count(BootOutcome::Failure), 1);
    assert_eq!(count(BootOutcome::Disappeared), 1);
    assert_eq!(count(BootOutcome::Aborted), 1);
    assert_eq!(count(BootOutcome::Success), story.vms_made() - 3);
}

/// Ticket 17529: throttling by the cloud was not recognized, and list and tag calls had no rate
/// limit.
#[test]
fn cloud_calls_share_one_rate() {
    let mut story = Story::with(|config| {
        number_types(config, &[1]);
        config.limits.containers_per_instance = Some(1);
        config.limits.cloud_ops = Some(Rate {
            interval: seconds(5),
            burst: 1,
        });
        config.intervals.sync = seconds(1);
        config.timeouts.idle = seconds(30);
    });
    let all: Vec<_> = (0..6)
        .map(|_| story.submit_as(bare(1), 500, minutes(1)))
        .collect();
    story.run_until("the first instance is known", minutes(2), |story| {
        story.vms_made() > 0 && story.shown_vm(0).is_some()
    });
    story.hold(0);
    story.run_for(minutes(4) - story.elapsed());
    let calls = story.count_commands(|action| matches!(action, Action::Cloud { .. }));
    assert!(calls <= 4 * 12 + 2, "{calls} calls in four minutes");
    story.run_for(minutes(20));
    for container in all {
        story.assert_complete(container);
    }
    // One create more than containers: the first instance is held.
    assert_eq!((story.creates(), story.vms()), (7, 1));
}

/// Ticket 17529: a throttled list is retried with back-off, and no other work stops.
#[test]
fn throttled_list_other_work_continues() {
    let mut story = Story::with(|config| config.intervals.sync = seconds(1));
    let (container, _) = story.running(cores(1), minutes(10));
    story.strike(Fault::Throttled, 6);
    story.run_for(minutes(3));
    let lists =
        story.count_events(|event| matches!(event, Event::CloudCalled { error: Some(_), .. }));
    assert!(lists > 0);
    let other = story.submit(cores(8));
    story.run_for(minutes(10));
    story.assert_complete(container);
    story.assert_complete(other);
}

/// Tickets 18102 and 20457: at a limit, repeated locks and unlocks used up the attempts.
#[test]
fn flapping_quota_uses_no_attempts() {
    let mut story = Story::with(|config| {
        number_types(config, &[1, 2]);
        config.limits.containers_per_instance = Some(1);
    });
    let all: Vec<_> = (0..12)
        .map(|n| story.submit_as(bare(1 + n % 2), 1 + u64::from(n) % 3, minutes(4)))
        .collect();
    for round in 0..12 {
        story.set_quota("standard", 1 + round % 4);
        story.run_for(minutes(5));
    }
    story.set_quota("standard", 12);
    story.run_for(minutes(60));
    for container in all {
        story.assert_complete(container);
        assert_eq!(story.lock_count(container), 1);
    }
    assert_eq!(story.unlocks(), 0);
}

/// Ticket 20601: a long queue was polled in full again and again.
#[test]
fn long_queue_poll_rate_unchanged() {
    let mut story = Story::with(|config| {
        number_types(config, &[1]);
        config.limits.instances = Some(2);
        config.limits.queued_per_poll = 100;
    });
    story.without_hints();
    for n in 0..1000 {
        story.submit_as(bare(1), 1 + n, minutes(10));
    }
    story.run_for(minutes(10));
    assert!(
        polls(&story) <= 61 + 10,
        "{} polls in ten minutes",
        polls(&story)
    );
}

/// Ticket 20601 and suspicion 11: the poll rate stays below the answer rate of a slow queue.
#[test]
fn slow_queue_polled_less_often() {
    let mut story = Story::with(|config| config.intervals.poll = seconds(1));
    story.without_hints();
    story.run_for(minutes(1));
    let before = polls(&story);
    story.strike(Fault::QueueAnswerLate, 10_000);
    story.run_for(minutes(20));
    let sent = polls(&story) - before;
    // Answers take 1 to 120 s, or arrive after the deadline of 60 s.
    assert!((10..=60).contains(&sent), "{sent} polls");
}

/// Ticket 20649: the cause of a failed boot was not reported.
#[test]
fn failed_boot_reports_probe_error() {
    let mut story = Story::begin();
    story.strike(Fault::BootProbeFails, 1);
    let _container = story.submit(cores(1));
    story.run_for(minutes(12));
    let reported = |event: &Event| match event {
        Event::Terminating {
            reason: ShutdownReason::BootTimeout,
            complaint: Some(words),
            ..
        } => words.contains("boot probe"),
        _ => false,
    };
    assert_eq!(story.count_events(reported), 1);
}

/// Ticket 20649: TERM was delayed if an instance was shut down during the start of a container.
#[test]
fn instance_killed_during_start_one_attempt() {
    let mut story = Story::begin();
    let container = story.submit(cores(1));
    story.run_until("an instance is created", minutes(1), |story| {
        story.vms_made() == 1
    });
    story.run_for(seconds(1));
    story.vm(0).hang_next_start();
    story.run_until("the start is sent", minutes(5), |story| {
        story.starts_of(container) == 1
    });
    story.kill_vm(0);
    story.run_for(minutes(20));
    story.assert_complete(container);
    assert_eq!(story.lock_count(container), 2);
}

/// Ticket 20984: the end of a back-off after missing capacity triggered nothing.
#[test]
fn capacity_backoff_end_triggers_create() {
    let mut story = Story::with(|config| {
        number_types(config, &[1]);
        config.intervals.poll = minutes(600);
        config.intervals.sync = minutes(600);
    });
    story.set_capacity("type1", 0);
    let container = story.submit(bare(1));
    story.run_for(seconds(30));
    let waiting = story.shown(container).and_then(|shown| shown.waiting);
    assert!(
        matches!(&waiting, Some(WaitReason::CreateBlocked(why))
            if matches!(why[..], [(_, CreateBlocked::BackedOff { .. })])),
        "{waiting:?}"
    );
    story.set_capacity("type1", 1);
    story.run_for(minutes(3));
    assert_eq!(story.creates(), 2);
    assert!(story.runs_on(container).is_some());
}

/// Tickets 21123 and 22132: users could not see the reason for a wait.
#[test]
fn waiting_container_always_has_reason() {
    let mut story = Story::with(|config| {
        number_types(config, &[1, 4]);
        config.limits.instances = Some(2);
        config.limits.containers_per_instance = Some(1);
    });
    story.set_capacity("type4", 0);
    let all: Vec<_> = (0..6)
        .map(|n| story.submit_as(bare(if n == 0 { 4 } else { 1 }), 10 - n, minutes(3)))
        .collect();
    let mut unexplained = 0;
    for _ in 0..600 {
        story.run_for(seconds(1));
        for container in &all {
            let Some(shown) = story.shown(*container) else {
                continue;
            };
            let waits = matches!(shown.state, ContainerState::Queued | ContainerState::Locked);
            let explained = !shown.status.is_empty() && shown.unblocked_by.is_some();
            unexplained += usize::from(waits && !explained);
        }
    }
    assert_eq!(unexplained, 0);
}

/// Tickets 22400 and 14807, suspicion 8: containers moving between two pages were missed.
#[test]
fn container_missed_by_poll_found_later() {
    let mut story = Story::with(|config| config.limits.queued_per_poll = 3);
    let all: Vec<_> = (0..12)
        .map(|n| story.submit_as(cores(1), 1 + n, minutes(1)))
        .collect();
    for round in 0..24_u64 {
        let id = all[usize::try_from(round * 5 % 12).unwrap_or(0)];
        story.set_priority(id, 1 + round * 7 % 40);
        story.run_for(seconds(3));
    }
    story.run_for(minutes(40));
    for container in all {
        story.assert_complete(container);
    }
}

/// Suspicion 3: a running container without a suitable configured type crashed the process.
#[test]
fn running_container_removed_type_runs_on() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(8), minutes(20));
    story.restart_with(|config| {
        let smaller = ["small", "medium"];
        config
            .types
            .retain(|name, _| smaller.contains(&name.as_str()));
    });
    story.run_for(minutes(10));
    assert_eq!(story.runs_on(container), Some(vm));
    assert!(story.totals().containers.values().sum::<u64>() == 1);
    story.run_for(minutes(20));
    story.assert_complete(container);
    assert!(story.is_gone(vm));
}

/// Suspicion 7: a hanging command on a live connection blocked the probe for ever, and the instance
/// was never terminated.
#[test]
fn hanging_commands_instance_terminated() {
    let mut story = Story::begin();
    let booting = story.submit(cores(1));
    story.run_until("an instance is created", minutes(1), |story| {
        story.vms_made() == 1
    });
    story.run_for(seconds(1));
    story.vm(0).freeze();
    story.run_for(minutes(13));
    assert!(story.is_gone(0));
    let vm = story.until_running(booting);
    story.vm(vm).freeze();
    story.run_for(minutes(13));
    assert!(story.is_gone(vm));
}

/// Suspicion 6: two dispatchers, each believing itself the leader, run no container twice.
#[test]
fn two_leaders_no_double_run() {
    for seed in 1..=8 {
        let mut story = Story::with_faults(&[(Fault::TwoLeaders, 1, 3)], seed, |_| {});
        let all: Vec<_> = (0..10)
            .map(|n| story.submit_as(cores(1 + n % 4), 500, minutes(4)))
            .collect();
        story.run_for(minutes(60));
        assert!(story.strikes_of(Fault::TwoLeaders) > 0);
        story.stop_faults();
        story.run_for(minutes(60));
        for container in all {
            let ended = story.state(container).is_some_and(ContainerState::is_final);
            assert!(ended, "seed {seed}: {:?}", story.shown(container));
        }
        assert_eq!(story.vms(), 0, "seed {seed}");
    }
}

/// Ticket 22971: an instance type was removed from the configuration while in use.
#[test]
fn removed_type_not_created_again() {
    let mut story = Story::with(|config| number_types(config, &[1, 2]));
    let first = story.submit_as(bare(1), 500, minutes(10));
    story.until_running(first);
    story.reconfigure(|config| {
        config.types.retain(|name, _| name.as_str() == "type2");
    });
    let second = story.submit(bare(1));
    story.until_running(second);
    assert_eq!(
        (story.creates_of("type1"), story.creates_of("type2")),
        (1, 1)
    );
    let tags = story.count_commands(|action| {
        matches!(
            action,
            Action::Cloud {
                action: CloudAction::Tag { .. },
                ..
            }
        )
    });
    assert!(tags > 0, "the tag has drain, for a later process");
}

/// Ticket 22771: a full disk, or an image impossible to load, makes an instance report itself
/// broken.
#[test]
fn broken_instance_reported_once() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), minutes(10));
    story.vm(vm).break_down();
    story.run_for(minutes(1));
    let broken = |event: &Event| matches!(event, Event::Broken { held: false, .. });
    assert_eq!(story.count_events(broken), 1);
    story.run_for(minutes(15));
    story.assert_complete(container);
    assert!(story.is_gone(vm));
}

/// Tickets 20511 and 20984: instances were shut down for containers unable to run anyway.
#[test]
fn sold_out_type_idle_instances_kept() {
    let mut story = Story::with(|config| {
        number_types(config, &[1, 4]);
        config.limits.instances = Some(2);
        config.limits.containers_per_instance = Some(1);
    });
    story.set_capacity("type4", 0);
    let blocked = story.submit_as(bare(4), 900, minutes(5));
    story.run_for(seconds(30));
    let all: Vec<_> = (0..8)
        .map(|_| story.submit_as(bare(1), 1, minutes(5)))
        .collect();
    story.run_for(minutes(26));
    for container in all {
        story.assert_complete(container);
    }
    // Two at first, and one more for each canary of type4.
    let made = story.creates_of("type1");
    assert!((2..=6).contains(&made), "{made} creates of type1");
    story.assert_state(blocked, ContainerState::Queued);
}
