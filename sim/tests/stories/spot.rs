//! Preemption of spot instances, with and without a notice: containers are interrupted and
//! requeued, not failed.

use longshore_core::config::{Config, SpotFallback};
use longshore_core::event::{BootOutcome, Event};
use longshore_core::ids::ContainerId;
use longshore_core::input::{ContainerState, IdleBehavior};
use longshore_core::resources::Demand;
use longshore_sim::Fault;
use longshore_sim::story::{Story, cores, minutes, seconds};

/// Demand of a preemptible container.
fn spot(count: u32) -> Demand {
    Demand {
        preemptible: true,
        ..cores(count)
    }
}

/// Returns a story with frequent instance lists, so that the end of an instance is detected soon.
fn frequent_lists(change: impl FnOnce(&mut Config)) -> Story {
    Story::with(|config| {
        config.intervals.sync = seconds(2);
        change(config);
    })
}

fn interruptions(story: &Story) -> usize {
    story.count_events(|e| matches!(e, Event::Interrupted { .. }))
}

fn notices(story: &Story) -> usize {
    story.count_events(|e| matches!(e, Event::PreemptionNotice { .. }))
}

/// Preempts the instance of a container, and waits until the container runs on another.
fn interrupt(story: &mut Story, container: ContainerId) -> usize {
    let vm = story.until_running(container);
    story.vm(vm).take_back();
    story.run_until("the container runs on another instance", minutes(15), |s| {
        s.runs_on(container).is_some_and(|now| now != vm)
    });
    story.until_running(container)
}

#[test]
fn preemption_notice_drains_instance() {
    let mut story = frequent_lists(|_| {});
    let (container, vm) = story.running(spot(1), minutes(1));
    story.vm(vm).announce_loss();
    story.run_for(seconds(15));
    let shown = story.shown_vm(vm).unwrap();
    assert_eq!(shown.idle_behavior, IdleBehavior::Drain);
    assert!(shown.preempted_at.is_some());
    let other = story.submit(spot(1));
    story.run_for(minutes(2));
    story.assert_complete(container);
    assert_eq!(story.runs_on(other), Some(1), "on a new instance");
    assert_eq!(notices(&story), 1);
    assert_eq!(
        interruptions(&story),
        0,
        "the container ended before the preemption"
    );
}

#[test]
fn preempted_container_requeued() {
    let mut story = frequent_lists(|_| {});
    let (container, vm) = story.running(spot(1), minutes(5));
    story.vm(vm).announce_loss();
    story.run_for(seconds(110));
    assert_eq!(
        story.runs_on(container),
        Some(vm),
        "the container runs until the preemption"
    );
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
fn preemption_without_notice_requeues() {
    let mut story = frequent_lists(|_| {});
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
fn preempted_without_requeue_reports_interruption() {
    let mut story = frequent_lists(|_| {});
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
fn unconfirmed_preemption_no_second_run() {
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
fn preemption_before_running_one_attempt() {
    let mut story = frequent_lists(|_| {});
    story.strike(Fault::SlowSetup, 1);
    let container = story.submit(spot(1));
    story.run_until("the runner starts", minutes(5), |s| s.has_runner(container));
    story.vm(0).take_back();
    story.run_for(minutes(15));
    story.assert_complete(container);
    assert_eq!(interruptions(&story), 1);
    assert_eq!(story.lock_count(container), 2);
}

#[test]
fn preemption_notice_idle_instance_terminated() {
    let mut story = frequent_lists(|config| config.timeouts.idle = minutes(600));
    let (_, vm) = story.running(spot(1), seconds(5));
    story.run_for(minutes(2));
    story.vm(vm).announce_loss();
    story.run_for(seconds(80));
    assert!(story.is_gone(vm), "terminated before the preemption");
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
fn preemption_notice_held_instance_stays() {
    let mut story = frequent_lists(|_| {});
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
fn preemption_notice_survives_restart() {
    let mut story = frequent_lists(|_| {});
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
fn preemption_while_booting_not_failure() {
    let mut story = frequent_lists(|config| config.limits.boot_failures = Some(1));
    let container = story.submit(spot(1));
    for vm in 0..3 {
        story.run_until("the next instance is created", minutes(10), |s| {
            s.vms_made() > vm
        });
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
fn operator_kill_not_interruption() {
    let mut story = frequent_lists(|_| {});
    let (container, vm) = story.running(spot(1), minutes(30));
    story.kill_vm(vm);
    story.run_for(minutes(3));
    story.assert_cancelled(container, "killed by the operator");
    assert_eq!(interruptions(&story), 0);
}

#[test]
fn stopping_container_not_requeued() {
    let mut story = frequent_lists(|_| {});
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
fn on_demand_disappearance_fails_container() {
    let mut story = frequent_lists(|_| {});
    let (container, vm) = story.running(cores(1), minutes(30));
    story.vm(vm).vanish();
    story.run_for(minutes(5));
    story.assert_cancelled(container, "disappeared while the container ran");
    assert_eq!(interruptions(&story), 0);
}

#[test]
fn spot_fallback_after_interruptions() {
    let mut story = frequent_lists(|config| {
        config.sizing.spot_fallback.interruptions = Some(2);
    });
    let container = story.submit_as(spot(4), 500, minutes(10));
    let second = interrupt(&mut story, container);
    assert_eq!(story.type_of(second), "spot");
    let third = interrupt(&mut story, container);
    assert_eq!(story.type_of(third), "large");
    let fallbacks = |e: &Event| matches!(e, Event::FellBack { .. });
    assert_eq!(story.count_events(fallbacks), 1);
    story.run_for(minutes(15));
    story.assert_complete(container);
    let newcomer = story.submit(spot(4));
    let vm = story.until_running(newcomer);
    assert_eq!(story.type_of(vm), "spot", "other containers use spot");
}

#[test]
fn no_fallback_interrupted_stays_on_spot() {
    let mut story = frequent_lists(|_| {});
    let container = story.submit_as(spot(4), 500, minutes(10));
    for _ in 0..3 {
        let vm = interrupt(&mut story, container);
        assert_eq!(story.type_of(vm), "spot");
    }
}

#[test]
fn spot_fallback_without_alternative_waits() {
    let mut story = frequent_lists(|config| {
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
fn spot_fallback_type_removed_returns() {
    let mut story = frequent_lists(|config| {
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
fn spot_fallback_after_failing_creates() {
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
    // New containers use spot again once spot capacity is back.
    story.set_capacity("spot", 10);
    story.run_for(minutes(40));
    story.assert_complete(container);
    let newcomer = story.submit(spot(4));
    let vm = story.until_running(newcomer);
    assert_eq!(story.type_of(vm), "spot");
}

#[test]
fn no_fallback_waits_for_spot() {
    let mut story = Story::begin();
    story.set_capacity("spot", 0);
    let container = story.submit(spot(4));
    story.run_for(minutes(60));
    assert_eq!(story.vms_made(), 0);
    let status = story.shown(container).map(|shown| shown.status);
    assert!(status.unwrap_or_default().contains("at capacity"));
}
