//! What went wrong in the peer's history, told as it would go wrong here.

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

/// Ticket 14828: two flows cancelled one unsatisfiable container at the same time. Ticket 6f4e3ff9: an
/// older reading of the queue undid what the answer to a cancel had said.
#[test]
fn a_reading_that_is_older_than_a_cancel_does_not_bring_it_back() {
    let mut story = Story::with(|config| config.intervals.poll = seconds(1));
    for round in 0..20 {
        story.strike(Fault::QueueAnswerTwice, 2);
        story.strike(Fault::QueueAnswerLate, round % 2);
        let hopeless = story.submit(bare(64));
        story.run_for(minutes(5));
        story.assert_state(hopeless, ContainerState::Cancelled);
        assert_eq!(story.cancels_of(hopeless), 1);
        assert_eq!(story.shown(hopeless), None);
    }
}

/// Ticket 14920: a VM was in a list before its create had returned, and was taken for a foreign one.
#[test]
fn a_vm_that_is_listed_before_its_create_returns_is_known_by_its_intent() {
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

/// Ticket 14977: after a restart, locks were given back before the list of VMs was there.
#[test]
fn no_lock_is_given_back_before_the_vms_are_listed() {
    let mut story = Story::begin();
    story.strike(Fault::SlowSetup, 1);
    let container = story.submit(cores(1));
    story.run_until("its runner begins", minutes(5), |story| {
        story.has_runner(container)
    });
    story.strike(Fault::ListFails, 4);
    story.restart();
    story.run_for(minutes(20));
    story.assert_complete(container);
    assert_eq!((story.unlocks(), story.lock_count(container)), (0, 1));
}

/// Suspicion 9: a lock was given back because the VM of its runner was the last one to be heard.
#[test]
fn a_runner_in_its_setup_on_the_last_vm_to_be_heard_keeps_its_lock() {
    let mut story = Story::with(|config| config.timeouts.stale_lock = minutes(5));
    let (_, other) = story.running(cores(2), minutes(60));
    story.strike(Fault::SlowSetup, 1);
    let container = story.submit(cores(8));
    story.run_until("its runner begins", minutes(5), |story| {
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
fn a_container_is_not_started_again_before_its_earlier_runner_has_ended() {
    let mut story = Story::begin();
    story.strike(Fault::SlowSetup, 1);
    let container = story.submit(cores(1));
    story.run_until("its runner begins", minutes(5), |story| {
        story.has_runner(container)
    });
    story.vm(0).ignore_term();
    story.set_priority(container, 0);
    story.run_for(seconds(20));
    story.set_priority(container, 500);
    story.run_for(minutes(40));
    let over = story.state(container).is_some_and(ContainerState::is_final);
    assert!(over, "{:?}", story.shown(container));
    assert!(story.starts_of(container) <= 2);
    assert_eq!(story.vms(), 0);
}

/// Ticket 16795: a create that met a rate limit had VMs shut down that were booting.
#[test]
fn a_rate_limit_on_creates_leaves_booting_vms_alone() {
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

/// Tickets 16636 and 16838: how boots end was not counted.
#[test]
fn each_boot_ends_in_exactly_one_way() {
    let mut story = Story::with(|config| {
        number_types(config, &[1]);
        config.limits.containers_per_instance = Some(1);
        config.timeouts.idle = seconds(30);
    });
    story.strike(Fault::NeverBoots, 1);
    let all: Vec<_> = (0..4)
        .map(|_| story.submit_as(bare(1), 500, minutes(2)))
        .collect();
    story.run_until("four are made", minutes(2), |story| story.vms_made() == 4);
    story.run_for(seconds(5));
    let booting = (1..4).find(|vm| {
        let shown = story.shown_vm(*vm);
        shown.is_some_and(|shown| shown.phase == Phase::Booting)
    });
    story.vm(booting.expect("one boots")).vanish();
    let aborted = story.submit_as(bare(1), 500, minutes(2));
    story.run_until("a fifth is made", minutes(2), |story| story.vms_made() >= 5);
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

/// Ticket 17529: a throttled cloud was not recognized, and lists and tags were not limited at all.
#[test]
fn lists_and_tags_and_destroys_share_one_rate_with_creates() {
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
    story.run_until("the first one is known", minutes(2), |story| {
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
    // One more than there are containers: the first VM is held.
    assert_eq!((story.creates(), story.vms()), (7, 1));
}

/// Ticket 17529: a throttled list is asked for again, more slowly each time, and nothing else stops.
#[test]
fn a_throttled_list_stops_neither_creates_nor_what_runs() {
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

/// Tickets 18102 and 20457: at a limit, locks came and went and used up the attempts.
#[test]
fn a_limit_that_comes_and_goes_costs_no_attempt() {
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

/// Ticket 20601: a long queue was read again and again in full.
#[test]
fn a_long_queue_is_read_no_more_often_than_a_short_one() {
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

/// Ticket 20601 and suspicion 11: a queue that answers slowly is not asked faster than it answers.
#[test]
fn a_slow_queue_is_left_to_answer() {
    let mut story = Story::with(|config| config.intervals.poll = seconds(1));
    story.without_hints();
    story.run_for(minutes(1));
    let before = polls(&story);
    story.strike(Fault::QueueAnswerLate, 10_000);
    story.run_for(minutes(20));
    let asked = polls(&story) - before;
    // Answers take one to 120 s, or come after their deadline of 60 s.
    assert!((10..=60).contains(&asked), "{asked} polls");
}

/// Ticket 20649: why a VM did not boot was told to nobody.
#[test]
fn a_vm_that_does_not_boot_says_why_when_it_is_given_back() {
    let mut story = Story::begin();
    story.strike(Fault::BootProbeFails, 1);
    let _container = story.submit(cores(1));
    story.run_for(minutes(12));
    let told = |event: &Event| match event {
        Event::Terminating {
            reason: ShutdownReason::BootTimeout,
            complaint: Some(words),
            ..
        } => words.contains("boot probe"),
        _ => false,
    };
    assert_eq!(story.count_events(told), 1);
}

/// Ticket 20649: TERM came late where a VM was shut down while a container started on it.
#[test]
fn a_vm_that_is_killed_while_a_container_starts_costs_one_attempt() {
    let mut story = Story::begin();
    let container = story.submit(cores(1));
    story.run_until("a VM is made", minutes(1), |story| story.vms_made() == 1);
    story.run_for(seconds(1));
    story.vm(0).hang_next_start();
    story.run_until("it is to start", minutes(5), |story| {
        story.starts_of(container) == 1
    });
    story.kill_vm(0);
    story.run_for(minutes(20));
    story.assert_complete(container);
    assert_eq!(story.lock_count(container), 2);
}

/// Ticket 20984: when a pause after missing capacity ended, nobody woke up.
#[test]
fn the_end_of_a_pause_is_noticed_without_any_other_event() {
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

/// Ticket 21123 and 22132: users could not see why their work was queued.
#[test]
fn at_every_moment_a_waiting_container_says_why_and_what_would_help() {
    let mut story = Story::with(|config| {
        number_types(config, &[1, 4]);
        config.limits.instances = Some(2);
        config.limits.containers_per_instance = Some(1);
    });
    story.set_capacity("type4", 0);
    let all: Vec<_> = (0..6)
        .map(|n| story.submit_as(bare(if n == 0 { 4 } else { 1 }), 10 - n, minutes(3)))
        .collect();
    let mut silent = 0;
    for _ in 0..600 {
        story.run_for(seconds(1));
        for container in &all {
            let Some(shown) = story.shown(*container) else {
                continue;
            };
            let waits = matches!(shown.state, ContainerState::Queued | ContainerState::Locked);
            let told = !shown.status.is_empty() && shown.unblocked_by.is_some();
            silent += usize::from(waits && !told);
        }
    }
    assert_eq!(silent, 0);
}

/// Ticket 22400 and 14807, suspicion 8: containers that change places between two pages were missed.
#[test]
fn a_container_that_slips_between_two_readings_is_seen_by_the_next() {
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

/// Suspicion 3: a container that runs and fits no type that is configured brought the process down.
#[test]
fn a_running_container_whose_type_is_gone_after_a_restart_runs_on() {
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

/// Suspicion 7: a command that hangs on a connection that lives held the probe for ever, and the VM was
/// never given up.
#[test]
fn a_vm_on_which_every_command_hangs_is_given_up_while_it_boots_and_while_it_runs() {
    let mut story = Story::begin();
    let booting = story.submit(cores(1));
    story.run_until("a VM is made", minutes(1), |story| story.vms_made() == 1);
    story.run_for(seconds(1));
    story.vm(0).freeze();
    story.run_for(minutes(13));
    assert!(story.is_gone(0));
    let vm = story.until_running(booting);
    story.vm(vm).freeze();
    story.run_for(minutes(13));
    assert!(story.is_gone(vm));
}

/// Suspicion 6: two dispatchers that both believe that they may act run nothing twice.
#[test]
fn while_two_dispatchers_act_no_container_runs_twice() {
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
            let over = story.state(container).is_some_and(ContainerState::is_final);
            assert!(over, "seed {seed}: {:?}", story.shown(container));
        }
        assert_eq!(story.vms(), 0, "seed {seed}");
    }
}

/// Ticket 22971: the type of a VM was removed from the configuration while it was in use.
#[test]
fn no_vm_of_a_removed_type_is_asked_for_again() {
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
    assert!(tags > 0, "its tag says drain, for whoever comes next");
}

/// Ticket 22771: a full disk, or an image that cannot be loaded, makes a VM report itself broken.
#[test]
fn a_broken_vm_says_so_and_starts_nothing_more() {
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

/// Ticket 20511 and 20984: VMs were given back for the sake of what could not run anyway.
#[test]
fn no_idle_vm_makes_room_for_a_type_that_is_at_capacity_anyway() {
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
    // Two at first, and one more for each try whether there is a type4 again.
    let made = story.creates_of("type1");
    assert!((2..=6).contains(&made), "{made} came and went for nothing");
    story.assert_state(blocked, ContainerState::Queued);
}
