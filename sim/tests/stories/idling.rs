//! VMs that nobody needs are given back, and no others.

use longshore_core::ShutdownReason;
use longshore_core::command::{Action, VmAction};
use longshore_core::event::Event;
use longshore_sim::Fault;
use longshore_sim::story::{Story, cores, minutes, seconds};

#[test]
fn an_idle_vm_is_fenced_probed_and_then_destroyed() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), seconds(5));
    story.run_until("it ends", minutes(1), |s| !s.has_runner(container));
    let leaving = |e: &Event| {
        matches!(
            e,
            Event::Terminating {
                reason: ShutdownReason::Idle,
                ..
            }
        )
    };
    story.run_until("it is fenced", minutes(2), |s| s.count_events(leaving) == 1);
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
        "not before it has confirmed that nothing runs"
    );
    story.run_until("it is destroyed", seconds(30), |s| s.destroys() == 1);
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
fn a_runner_found_on_a_fenced_vm_saves_it() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), seconds(5));
    story.run_until("it ends", minutes(1), |s| !s.has_runner(container));
    // The fence goes up between two probes; a runner appears in that gap.
    let leaving = |e: &Event| matches!(e, Event::Terminating { .. });
    story.strike(Fault::ConnectionDrops, 0);
    let mut waited = 0;
    while story.count_events(leaving) == 0 {
        story.run_for(std::time::Duration::from_millis(2));
        waited += 1;
        assert!(waited < 100_000, "it is never fenced");
    }
    let stranger = story.vm(vm).run_stranger();
    story.run_for(seconds(5));
    assert_eq!(
        story.count_events(|e| matches!(e, Event::Uncordoned { .. })),
        1
    );
    assert!(!story.is_gone(vm));
    story.run_for(minutes(5));
    assert!(!story.has_runner(stranger), "the queue does not know it");
    assert!(story.is_gone(vm));
}

#[test]
fn a_destroy_is_repeated_until_the_vm_is_gone() {
    let mut story = Story::begin();
    let (_, vm) = story.running(cores(1), seconds(5));
    story.strike(Fault::DestroyLies, 3);
    story.run_for(minutes(10));
    assert!(story.is_gone(vm));
    assert!(story.destroys() >= 4, "{} destroys", story.destroys());
}

#[test]
fn a_destroy_that_fails_is_repeated_across_a_restart() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), seconds(5));
    story.strike(Fault::DestroyFails, 2);
    story.run_until("one is tried", minutes(3), |s| s.destroys() == 1);
    story.restart();
    story.run_for(minutes(10));
    story.assert_complete(container);
    assert!(story.is_gone(vm));
}

#[test]
fn one_vm_that_does_not_go_does_not_stop_the_others() {
    let mut story = Story::begin();
    let (_, first) = story.running(cores(1), seconds(5));
    story.strike(Fault::DestroySlow, 1);
    story.run_until("it is being destroyed", minutes(4), |s| s.destroys() == 1);
    let second = story.submit_as(cores(2), 500, seconds(10));
    story.run_for(minutes(4));
    story.assert_complete(second);
    story.run_for(minutes(30));
    assert!(story.is_gone(first));
    assert_eq!(story.vms(), 0);
}

#[test]
fn a_vm_that_does_not_boot_is_given_back_and_another_tried() {
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
fn a_vm_that_hangs_while_nothing_runs_is_given_back() {
    let mut story = Story::with(|config| config.timeouts.idle = minutes(60));
    let (_, vm) = story.running(cores(1), seconds(5));
    story.run_for(minutes(1));
    story.vm(vm).freeze();
    story.run_for(minutes(13));
    assert!(story.is_gone(vm));
}

#[test]
fn a_vm_that_is_silent_for_a_while_keeps_its_container() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), minutes(20));
    story.vm(vm).be_silent_for(minutes(8));
    story.run_for(minutes(25));
    story.assert_complete(container);
    assert_eq!(story.starts_of(container), 1);
}
