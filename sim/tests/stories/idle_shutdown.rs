//! Shutdown of idle, unbootable and silent instances, and of no others.

use longshore_core::ShutdownReason;
use longshore_core::command::{Action, VmAction};
use longshore_core::event::Event;
use longshore_sim::Fault;
use longshore_sim::story::{Story, cores, minutes, seconds};

#[test]
fn idle_instance_cordoned_probed_destroyed() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), seconds(5));
    story.run_until("the runner ends", minutes(1), |s| !s.has_runner(container));
    let terminating = |e: &Event| {
        matches!(
            e,
            Event::Terminating {
                reason: ShutdownReason::Idle,
                ..
            }
        )
    };
    story.run_until("the instance is cordoned", minutes(2), |s| {
        s.count_events(terminating) == 1
    });
    let probes = story.count_commands(|action| {
        matches!(
            action,
            Action::Vm {
                action: VmAction::Probe { .. },
                ..
            }
        )
    });
    assert_eq!(
        story.destroys(),
        0,
        "no destroy before the confirming probe"
    );
    story.run_until("the destroy is sent", seconds(30), |s| s.destroys() == 1);
    let later = story.count_commands(|action| {
        matches!(
            action,
            Action::Vm {
                action: VmAction::Probe { .. },
                ..
            }
        )
    });
    assert!(later >= probes);
    story.run_for(minutes(2));
    assert!(story.is_gone(vm));
}

#[test]
fn runner_on_cordoned_instance_uncordons() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), seconds(5));
    story.run_until("the runner ends", minutes(1), |s| !s.has_runner(container));
    // The cordon begins between two probes; a runner appears in the gap.
    let terminating = |e: &Event| matches!(e, Event::Terminating { .. });
    story.strike(Fault::ConnectionDrops, 0);
    let mut waited = 0;
    while story.count_events(terminating) == 0 {
        story.run_for(std::time::Duration::from_millis(2));
        waited += 1;
        assert!(waited < 100_000, "the instance is never cordoned");
    }
    let unknown = story.vm(vm).run_stranger();
    story.run_for(seconds(5));
    assert_eq!(
        story.count_events(|e| matches!(e, Event::Uncordoned { .. })),
        1
    );
    assert!(!story.is_gone(vm));
    story.run_for(minutes(5));
    assert!(
        !story.has_runner(unknown),
        "a runner unknown to the queue is killed"
    );
    assert!(story.is_gone(vm));
}

#[test]
fn destroy_repeated_until_gone() {
    let mut story = Story::begin();
    let (_, vm) = story.running(cores(1), seconds(5));
    story.strike(Fault::DestroyLies, 3);
    story.run_for(minutes(10));
    assert!(story.is_gone(vm));
    assert!(story.destroys() >= 4, "{} destroys", story.destroys());
}

#[test]
fn failed_destroy_repeated_after_restart() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), seconds(5));
    story.strike(Fault::DestroyFails, 2);
    story.run_until("the first destroy is sent", minutes(3), |s| {
        s.destroys() == 1
    });
    story.restart();
    story.run_for(minutes(10));
    story.assert_complete(container);
    assert!(story.is_gone(vm));
}

#[test]
fn slow_destroy_others_unaffected() {
    let mut story = Story::begin();
    let (_, first) = story.running(cores(1), seconds(5));
    story.strike(Fault::DestroySlow, 1);
    story.run_until("the destroy is sent", minutes(4), |s| s.destroys() == 1);
    let second = story.submit_as(cores(2), 500, seconds(10));
    story.run_for(minutes(4));
    story.assert_complete(second);
    story.run_for(minutes(30));
    assert!(story.is_gone(first));
    assert_eq!(story.vms(), 0);
}

#[test]
fn boot_timeout_instance_replaced() {
    let mut story = Story::begin();
    story.strike(Fault::NeverBoots, 1);
    let container = story.submit(cores(1));
    story.run_for(minutes(10) + seconds(40));
    let gone = |e: &Event| {
        matches!(
            e,
            Event::Terminating {
                reason: ShutdownReason::BootTimeout,
                ..
            }
        )
    };
    assert_eq!(story.count_events(gone), 1);
    story.run_for(minutes(10));
    story.assert_complete(container);
    assert_eq!(story.vms(), 0);
}

#[test]
fn silent_idle_instance_terminated() {
    let mut story = Story::with(|config| config.timeouts.idle = minutes(60));
    let (_, vm) = story.running(cores(1), seconds(5));
    story.run_for(minutes(1));
    story.vm(vm).freeze();
    story.run_for(minutes(13));
    assert!(story.is_gone(vm));
}

#[test]
fn short_silence_container_kept() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), minutes(20));
    story.vm(vm).be_silent_for(minutes(8));
    story.run_for(minutes(25));
    story.assert_complete(container);
    assert_eq!(story.starts_of(container), 1);
}
