//! VMs that the cloud takes back: announced or not, what ran there is interrupted, not failed.

use longshore_core::config::{Config, SpotFallback};
use longshore_core::event::{BootOutcome, Event};
use longshore_core::ids::ContainerId;
use longshore_core::input::{ContainerState, IdleBehavior};
use longshore_core::resources::Demand;
use longshore_sim::Fault;
use longshore_sim::story::{Story, cores, minutes, seconds};

/// A container that may be interrupted.
fn spot(count: u32) -> Demand {
    Demand {
        preemptible: true,
        ..cores(count)
    }
}

/// A world in which the end of a VM is soon seen.
fn watchful(change: impl FnOnce(&mut Config)) -> Story {
    Story::with(|config| {
        config.intervals.sync = seconds(2);
        change(config);
    })
}

fn interruptions(story: &Story) -> usize {
    story.count_events(|e| matches!(e, Event::Interrupted { .. }))
}

fn announcements(story: &Story) -> usize {
    story.count_events(|e| matches!(e, Event::PreemptionNotice { .. }))
}

/// Lets the cloud take back the VM of a container, and waits until it runs on another.
fn interrupt(story: &mut Story, container: ContainerId) -> usize {
    let vm = story.until_running(container);
    story.vm(vm).take_back();
    story.run_until("it runs elsewhere", minutes(15), |s| {
        s.runs_on(container).is_some_and(|now| now != vm)
    });
    story.until_running(container)
}

#[test]
fn an_announced_vm_takes_nothing_more() {
    let mut story = watchful(|_| {});
    let (container, vm) = story.running(spot(1), minutes(1));
    story.vm(vm).announce_loss();
    story.run_for(seconds(15));
    let shown = story.shown_vm(vm).unwrap();
    assert_eq!(shown.idle_behavior, IdleBehavior::Drain);
    assert!(shown.preempted_at.is_some());
    let other = story.submit(spot(1));
    story.run_for(minutes(2));
    story.assert_complete(container);
    assert_eq!(story.runs_on(other), Some(1), "on a VM of its own");
    assert_eq!(announcements(&story), 1);
    assert_eq!(interruptions(&story), 0, "it was done in time");
}

#[test]
fn what_runs_on_an_announced_vm_is_interrupted_and_runs_again() {
    let mut story = watchful(|_| {});
    let (container, vm) = story.running(spot(1), minutes(5));
    story.vm(vm).announce_loss();
    story.run_for(seconds(110));
    assert_eq!(story.runs_on(container), Some(vm), "it may use its time");
    story.run_for(minutes(3));
    assert_eq!(story.runs_on(container), Some(1));
    let warning = story.warning_of(container);
    assert_eq!(
        warning,
        "interrupted: the cloud took back i-00000001 while the container ran"
    );
    let shown = story.shown(container).unwrap();
    assert_eq!((shown.interruptions, shown.lock_count), (1, 2));
    story.run_for(minutes(6));
    story.assert_complete(container);
    assert_eq!(story.error_of(container), "");
    assert_eq!(interruptions(&story), 1);
    assert_eq!(story.starts_of(container), 2);
}

#[test]
fn a_preemptible_vm_that_is_taken_without_notice_interrupts_as_well() {
    let mut story = watchful(|_| {});
    let (container, vm) = story.running(spot(1), minutes(5));
    story.vm(vm).take_back();
    story.run_for(minutes(10));
    story.assert_complete(container);
    assert_eq!(interruptions(&story), 1);
    assert_eq!(story.lock_count(container), 2);
    let unexpected = |e: &Event| matches!(e, Event::Gone { expected: None, .. });
    assert_eq!(story.count_events(unexpected), 1);
}

#[test]
fn where_the_queue_cannot_put_it_back_its_end_says_interrupted() {
    let mut story = watchful(|_| {});
    story.cannot_requeue();
    let (container, vm) = story.running(spot(1), minutes(5));
    story.vm(vm).take_back();
    story.run_for(minutes(5));
    story.assert_cancelled(
        container,
        "interrupted: the cloud took back i-00000001 while the container ran",
    );
}

#[test]
fn without_the_clouds_word_that_the_vm_is_gone_nothing_runs_twice() {
    let mut story = Story::with(|config| {
        config.intervals.sync = minutes(20);
        config.timeouts.probe = minutes(600);
    });
    let (container, vm) = story.running(spot(1), minutes(500));
    story.vm(vm).take_back();
    story.run_for(minutes(90));
    story.assert_cancelled(container, "interrupted: the cloud took back i-00000001");
    assert_eq!(interruptions(&story), 1);
    assert_eq!(story.starts_of(container), 1);
}

#[test]
fn an_interruption_before_the_container_runs_costs_one_attempt() {
    let mut story = watchful(|_| {});
    story.strike(Fault::SlowSetup, 1);
    let container = story.submit(spot(1));
    story.run_until("its runner begins", minutes(5), |s| s.has_runner(container));
    story.vm(0).take_back();
    story.run_for(minutes(15));
    story.assert_complete(container);
    assert_eq!(interruptions(&story), 1);
    assert_eq!(story.lock_count(container), 2);
}

#[test]
fn an_idle_vm_that_is_announced_is_given_back_at_once() {
    let mut story = watchful(|config| config.timeouts.idle = minutes(600));
    let (_, vm) = story.running(spot(1), seconds(5));
    story.run_for(minutes(2));
    story.vm(vm).announce_loss();
    story.run_for(seconds(80));
    assert!(story.is_gone(vm), "before the cloud takes it");
    let expected = |e: &Event| {
        matches!(
            e,
            Event::Gone {
                expected: Some(_),
                ..
            }
        )
    };
    assert_eq!(story.count_events(expected), 1);
}

#[test]
fn a_held_vm_that_is_announced_stays_held_and_takes_nothing() {
    let mut story = watchful(|_| {});
    let (container, vm) = story.running(spot(1), minutes(30));
    story.hold(vm);
    story.vm(vm).announce_loss();
    story.run_for(minutes(1));
    let shown = story.shown_vm(vm).unwrap();
    assert_eq!(shown.idle_behavior, IdleBehavior::Hold);
    story.set_behavior(vm, IdleBehavior::Run);
    story.run_for(seconds(30));
    let shown = story.shown_vm(vm).unwrap();
    assert_eq!(shown.idle_behavior, IdleBehavior::Drain);
    story.run_for(minutes(40));
    story.assert_complete(container);
    assert_eq!(interruptions(&story), 1);
}

#[test]
fn an_announced_vm_is_still_known_as_such_after_a_restart() {
    let mut story = watchful(|_| {});
    let (_, vm) = story.running(spot(1), minutes(30));
    story.vm(vm).announce_loss();
    story.run_for(seconds(20));
    story.restart();
    let other = story.submit(spot(1));
    story.run_for(seconds(40));
    assert_ne!(story.runs_on(other), Some(vm));
    story.run_for(minutes(10));
    assert_eq!(story.starts_of(other), 1);
}

#[test]
fn a_vm_that_is_taken_back_while_it_boots_is_no_failed_boot() {
    let mut story = watchful(|config| config.limits.boot_failures = Some(1));
    let container = story.submit(spot(1));
    for vm in 0..3 {
        story.run_until("the next boots", minutes(10), |s| s.vms_made() > vm);
        story.run_for(seconds(10));
        story.vm(vm).take_back();
    }
    story.run_for(minutes(15));
    story.assert_complete(container);
    let failed =
        |e: &Event| matches!(e, Event::Boot { outcome, .. } if *outcome == BootOutcome::Failure);
    assert_eq!(story.count_events(failed), 0);
    assert_eq!(story.lock_count(container), 1);
}

#[test]
fn what_an_operator_kills_is_not_interrupted() {
    let mut story = watchful(|_| {});
    let (container, vm) = story.running(spot(1), minutes(30));
    story.kill_vm(vm);
    story.run_for(minutes(3));
    story.assert_cancelled(container, "killed by the operator");
    assert_eq!(interruptions(&story), 0);
}

#[test]
fn what_is_being_stopped_is_not_put_back() {
    let mut story = watchful(|_| {});
    let (container, vm) = story.running(spot(1), minutes(30));
    story.vm(vm).ignore_kill();
    story.kill_container(container);
    story.run_for(seconds(30));
    story.vm(vm).take_back();
    story.run_for(minutes(5));
    story.assert_state(container, ContainerState::Cancelled);
    assert_eq!(interruptions(&story), 0);
}

#[test]
fn on_demand_vms_that_vanish_fail_their_containers() {
    let mut story = watchful(|_| {});
    let (container, vm) = story.running(cores(1), minutes(30));
    story.vm(vm).vanish();
    story.run_for(minutes(5));
    story.assert_cancelled(container, "disappeared while the container ran");
    assert_eq!(interruptions(&story), 0);
}

#[test]
fn after_so_many_interruptions_it_takes_what_cannot_be_interrupted() {
    let mut story = watchful(|config| {
        config.sizing.spot_fallback.interruptions = Some(2);
    });
    let container = story.submit_as(spot(4), 500, minutes(10));
    let second = interrupt(&mut story, container);
    assert_eq!(story.type_of(second), "spot");
    let third = interrupt(&mut story, container);
    assert_eq!(story.type_of(third), "large");
    let fell = |e: &Event| matches!(e, Event::FellBack { .. });
    assert_eq!(story.count_events(fell), 1);
    story.run_for(minutes(15));
    story.assert_complete(container);
    let newcomer = story.submit(spot(4));
    let vm = story.until_running(newcomer);
    assert_eq!(story.type_of(vm), "spot", "others are not affected");
}

#[test]
fn without_the_rule_it_stays_where_it_can_be_interrupted() {
    let mut story = watchful(|_| {});
    let container = story.submit_as(spot(4), 500, minutes(10));
    for _ in 0..3 {
        let vm = interrupt(&mut story, container);
        assert_eq!(story.type_of(vm), "spot");
    }
}

#[test]
fn what_falls_back_waits_for_spot_where_nothing_else_fits() {
    let mut story = watchful(|config| {
        config.types.retain(|name, _| name.as_str() == "spot");
        config.sizing.spot_fallback.interruptions = Some(1);
    });
    let container = story.submit_as(spot(4), 500, minutes(5));
    let vm = interrupt(&mut story, container);
    assert_eq!(story.type_of(vm), "spot");
    story.run_for(minutes(8));
    story.assert_complete(container);
}

#[test]
fn a_type_that_is_no_longer_configured_lets_it_return_to_spot() {
    let mut story = watchful(|config| {
        config.sizing.spot_fallback.interruptions = Some(1);
        config
            .types
            .retain(|name, _| ["spot", "large"].contains(&name.as_str()));
    });
    story.set_capacity("large", 0);
    let container = story.submit_as(spot(4), 500, minutes(5));
    let vm = story.until_running(container);
    story.vm(vm).take_back();
    story.run_for(minutes(3));
    assert_eq!(story.runs_on(container), None, "large is sold out");
    story.reconfigure(|config| config.types.retain(|name, _| name.as_str() == "spot"));
    let vm = story.until_running(container);
    assert_eq!(story.type_of(vm), "spot");
}

#[test]
fn while_every_spot_type_fails_for_long_others_are_used() {
    let mut story = Story::with(|config| {
        config.sizing.spot_fallback = SpotFallback {
            interruptions: None,
            after: Some(minutes(10)),
        };
    });
    story.set_capacity("spot", 0);
    let container = story.submit_as(spot(4), 500, minutes(20));
    story.run_for(minutes(9));
    assert_eq!(story.vms_made(), 0);
    story.run_for(minutes(4));
    assert!(story.runs_on(container).is_some());
    assert_eq!(story.type_of(0), "large");
    // Once spot works again it is what newcomers get.
    story.set_capacity("spot", 10);
    story.run_for(minutes(40));
    story.assert_complete(container);
    let newcomer = story.submit(spot(4));
    let vm = story.until_running(newcomer);
    assert_eq!(story.type_of(vm), "spot");
}

#[test]
fn without_the_rule_it_waits_for_spot() {
    let mut story = Story::begin();
    story.set_capacity("spot", 0);
    let container = story.submit(spot(4));
    story.run_for(minutes(60));
    assert_eq!(story.vms_made(), 0);
    let status = story.shown(container).map(|shown| shown.status);
    assert!(status.unwrap_or_default().contains("at capacity"));
}
