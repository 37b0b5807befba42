//! Scenarios of the peer's dispatcher: all failures at once, and synchronization with the queue.

use std::time::Duration;

use longshore_core::Phase;
use longshore_core::event::{BootOutcome, CloudCall, Event};
use longshore_core::ids::ContainerId;
use longshore_core::input::ContainerState;
use longshore_sim::Fault;
use longshore_sim::story::{Story, bare, cores, minutes, number_types, seconds};

/// Number of containers in the chaos scenario.
const CONTAINERS: usize = 200;
/// Longest time without the end of a container while containers are open. The peer allows 5 s with
/// all waits at a thousandth of the usual values; here the bound is two of the longest configured
/// wait (30 s for a boot, 60 s for the back-off after missing capacity).
const LONGEST_PAUSE: Duration = minutes(2);

fn calls(story: &Story, wanted: CloudCall, failed: bool) -> usize {
    story.count_events(|event| {
        matches!(event, Event::CloudCalled { call, error, .. }
            if *call == wanted && error.is_some() == failed)
    })
}

fn boots(story: &Story, wanted: BootOutcome) -> usize {
    story.count_events(|event| matches!(event, Event::Boot { outcome, .. } if *outcome == wanted))
}

fn chaos(seed: u64) -> Story {
    let faults = [
        (Fault::CreateFails, 1, 10),
        (Fault::DestroyFails, 1, 10),
        (Fault::Freezes, 1, 7),
        (Fault::RefusesStarts, 1, 7),
        (Fault::Breaks, 1, 7),
        (Fault::CrashBeforeRunning, 1, 20),
        (Fault::CrashWhileRunning, 1, 20),
        (Fault::UpdateLost, 1, 10),
    ];
    let mut story = Story::with_faults(&faults, seed, |config| {
        number_types(config, &[1, 2, 3, 4, 6, 8]);
        config.limits.cloud_ops = None;
        config.limits.instances = None;
        config.timeouts.booting = seconds(30);
        config.timeouts.probe = seconds(20);
        config.timeouts.idle = seconds(5);
        config.timeouts.queue_answer = seconds(2);
        config.timeouts.vm_answer = seconds(5);
        config.intervals.poll = seconds(1);
        config.intervals.probe = seconds(1);
        config.intervals.sync = seconds(5);
    });
    story.boots_take((1, 3));
    story.allow_attempts(50);
    story.set_quota("standard", 10);
    story.throttle_creates(Duration::from_millis(1), 1);
    story.set_capacity("type3", 0);
    story.never_boots("type6");
    story.strike(Fault::QueueBusy, 1);
    story
}

/// Upstream dispatcher: DispatchToStubDriver. Two hundred containers in a cloud with one failing
/// create and one failing destroy in ten, at its quota, without capacity for one type, with another
/// type never booting; on instances freezing, unable to start runners, or reporting themselves
/// broken; with crashing runners and a queue with deadlocks and 503 answers.
#[test]
fn chaos_every_container_ends_once() {
    for seed in 1..=4 {
        let mut story = chaos(seed);
        let all: Vec<ContainerId> = (0..CONTAINERS)
            .map(|n| {
                let vcpus = 1 + u32::try_from(n).unwrap_or(0) % 4;
                story.submit_as(bare(vcpus), 1 + n as u64 % 20, seconds(5))
            })
            .collect();
        let (mut open, mut since) = (story.open(), story.elapsed());
        while open > 0 {
            story.run_for(seconds(1));
            if story.open() < open {
                (open, since) = (story.open(), story.elapsed());
            }
            let idle = story.elapsed() - since;
            assert!(
                idle < LONGEST_PAUSE,
                "seed {seed}: {open} containers open, no end for {idle:?}"
            );
        }
        for container in &all {
            let state = story.state(*container);
            let ended = state.is_some_and(ContainerState::is_final);
            assert!(ended, "seed {seed}: {container} is {state:?}");
        }
        let complete = all
            .iter()
            .filter(|id| story.state(**id) == Some(ContainerState::Complete));
        assert!(
            complete.count() > CONTAINERS / 2,
            "seed {seed}: most complete"
        );
        story.run_until("all instances are gone", minutes(20), |story| {
            story.vms() == 0
        });
        story.run_for(minutes(3));
        assert!(story.totals().instances.is_empty() && story.totals().containers.is_empty());
        assert_chaos_counted(&story);
    }
}

/// Checks the events behind the metrics tested by the peer.
fn assert_chaos_counted(story: &Story) {
    for (call, failed) in [
        (CloudCall::Create, false),
        (CloudCall::Create, true),
        (CloudCall::List, false),
        (CloudCall::Destroy, false),
        (CloudCall::Destroy, true),
    ] {
        assert!(calls(story, call, failed) > 0, "{call:?}, failed: {failed}");
    }
    assert_eq!(calls(story, CloudCall::List, true), 0);
    assert!(boots(story, BootOutcome::Success) > 0);
    assert!(boots(story, BootOutcome::Failure) > 0);
    let busy = |event: &Event| match event {
        Event::QueueUnavailable { overloaded, .. } => *overloaded,
        Event::UpdateFailed { error, .. } => error.contains("overloaded"),
        _ => false,
    };
    assert!(story.count_events(busy) + usize::from(story.strikes_of(Fault::QueueBusy) > 0) > 0);
    let gone = |wanted: fn(Phase) -> bool| {
        story.count_events(|event| matches!(event, Event::Gone { phase, .. } if wanted(*phase)))
    };
    assert!(gone(|phase| phase == Phase::Shutdown) > 0);
    assert_eq!(gone(|phase| phase == Phase::Unknown), 0);
}

/// Upstream sync: a Running container is cancelled once the unknown instance is gone.
#[test]
fn unprobed_instance_gone_container_cancelled() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), minutes(60));
    story.vm(vm).be_silent_for(minutes(60));
    story.restart();
    story.run_for(minutes(5));
    story.assert_state(container, ContainerState::Running);
    story.vm(vm).vanish();
    story.run_for(minutes(10));
    story.assert_cancelled(container, "");
    assert_eq!(story.shown(container), None, "the container is forgotten");
}

/// Upstream sync: an ended container without a runner is forgotten, after any kind of end.
#[test]
fn ended_containers_forgotten() {
    let mut story = Story::begin();
    let (complete, _) = story.running(cores(1), seconds(20));
    let (cancelled, _) = story.running(cores(1), minutes(60));
    story.set_priority(cancelled, 0);
    story.run_for(minutes(2));
    story.assert_complete(complete);
    story.assert_state(cancelled, ContainerState::Cancelled);
    assert_eq!(
        (story.shown(complete), story.shown(cancelled)),
        (None, None)
    );
}
