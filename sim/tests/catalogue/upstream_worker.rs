//! Scenarios of the peer's worker: probe results of an instance and their consequences.

use longshore_core::event::{BootOutcome, Event};
use longshore_core::{Phase, ShutdownReason};
use longshore_sim::Fault;
use longshore_sim::story::{Story, bare, cores, minutes, number_types, seconds};

fn terminations(story: &Story, wanted: &ShutdownReason) -> usize {
    story.count_events(
        |event| matches!(event, Event::Terminating { reason, .. } if reason == wanted),
    )
}

fn phase(story: &Story, vm: usize) -> Option<Phase> {
    story.shown_vm(vm).map(|shown| shown.phase)
}

/// Upstream worker: unknown, both probes fail.
#[test]
fn silent_found_instance_unknown_until_timeout() {
    let mut story = Story::with(|config| number_types(config, &[1]));
    let vm = story.leave_vm("type1");
    story.run_until("the instance is found", minutes(2), |story| {
        story.shown_vm(vm).is_some()
    });
    story.vm(vm).be_silent_for(minutes(60));
    story.run_for(minutes(9));
    assert_eq!(phase(&story, vm), Some(Phase::Unknown));
    story.run_for(minutes(3));
    assert!(story.is_gone(vm));
    assert_eq!(terminations(&story, &ShutdownReason::BootTimeout), 1);
}

/// Upstream worker: unknown, the boot probe fails and a container runs, even past the timeout.
/// Ticket 14325 and suspicion 10: a failing boot probe does not shut a busy instance down.
#[test]
fn failing_boot_probe_busy_instance_kept() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), minutes(60));
    story.vm(vm).fail_boot_probe();
    story.restart();
    story.run_for(minutes(30));
    assert_eq!(story.runs_on(container), Some(vm));
    assert_eq!(phase(&story, vm), Some(Phase::Unknown));
    story.run_for(minutes(31));
    story.assert_complete(container);
    assert_eq!(story.starts_of(container), 1);
}

/// Upstream worker: unknown, the earlier container is gone.
#[test]
fn failing_boot_probe_empty_instance_terminated() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), minutes(4));
    story.vm(vm).fail_boot_probe();
    story.restart();
    story.run_for(minutes(8));
    story.assert_complete(container);
    assert!(!story.is_gone(vm), "kept until TimeoutBooting");
    story.run_for(minutes(10));
    assert!(story.is_gone(vm));
}

/// Upstream worker: past the timeout, the list of runners fails and no container is known to run.
#[test]
fn missing_runner_list_found_instance_terminated() {
    let mut story = Story::with(|config| number_types(config, &[1]));
    let vm = story.leave_vm("type1");
    story.strike(Fault::NoRunnerList, 1_000_000);
    story.run_for(minutes(9));
    assert!(!story.is_gone(vm));
    story.run_for(minutes(5));
    assert!(story.is_gone(vm));
}

/// Upstream worker: booting, a probe fails; then both pass.
#[test]
fn booting_instance_ready_after_probes_pass() {
    let mut story = Story::with(|config| number_types(config, &[1]));
    story.strike(Fault::BootProbeFails, 1);
    let container = story.submit(bare(1));
    story.run_until("the instance is created", minutes(1), |story| {
        story.vms_made() == 1
    });
    story.run_for(minutes(5));
    assert_eq!(phase(&story, 0), Some(Phase::Booting));
    let complaint = story.shown_vm(0).and_then(|shown| shown.complaint);
    assert!(complaint.is_some_and(|words| words.contains("boot probe")));
    story.set_priority(container, 0);
    story.vm(0).pass_boot_probe();
    story.run_until("the instance is ready", minutes(1), |story| {
        phase(story, 0) == Some(Phase::Ready)
    });
    assert_eq!(story.shown_vm(0).map(|shown| shown.busy), Some(false));
}

/// Upstream worker: booting, a probe without a list of runners is not sufficient.
#[test]
fn missing_runner_list_booting_not_ready() {
    let mut story = Story::with(|config| number_types(config, &[1]));
    story.strike(Fault::NoRunnerList, 1_000_000);
    let container = story.submit(bare(1));
    story.run_for(minutes(6));
    assert_eq!(phase(&story, 0), Some(Phase::Booting));
    assert_eq!(story.starts_of(container), 0);
    story.strike(Fault::NoRunnerList, 0);
    story.run_for(minutes(1));
    assert_eq!(story.runs_on(container), Some(0));
}

/// Upstream worker: unknown or booting, both probes pass and a container is listed.
#[test]
fn found_instance_with_container_is_busy() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), minutes(20));
    story.restart();
    story.run_for(minutes(1));
    let shown = story.shown_vm(vm).expect("the instance is found");
    assert_eq!((shown.phase, shown.busy), (Phase::Ready, true));
    assert_eq!(shown.containers, [container]);
}

/// Upstream worker: booting past the timeout.
#[test]
fn boot_timeout_counts_as_failure() {
    let mut story = Story::begin();
    story.strike(Fault::BootProbeFails, 1);
    let container = story.submit(cores(1));
    story.run_for(minutes(11));
    assert_eq!(terminations(&story, &ShutdownReason::BootTimeout), 1);
    let failed = |event: &Event| {
        matches!(
            event,
            Event::Boot {
                outcome: BootOutcome::Failure,
                ..
            }
        )
    };
    assert_eq!(story.count_events(failed), 1);
    story.run_for(minutes(15));
    story.assert_complete(container);
}

/// Upstream worker: idle for longer than the probe timeout, and the probe passes.
#[test]
fn idle_instance_passing_probes_kept() {
    let mut story = Story::with(|config| {
        number_types(config, &[1]);
        config.timeouts.probe = minutes(2);
        config.timeouts.idle = minutes(60);
    });
    let vm = story.idle_vms(&["type1"])[0];
    story.vm(vm).be_silent_for(seconds(100));
    story.run_for(minutes(30));
    assert_eq!(phase(&story, vm), Some(Phase::Ready));
    let container = story.submit(bare(1));
    story.run_for(seconds(20));
    assert_eq!(story.runs_on(container), Some(vm));
}

/// Upstream worker: the probe fails past the timeout, even with containers.
#[test]
fn probe_timeout_busy_instance_terminated() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), minutes(600));
    story.vm(vm).freeze();
    story.run_for(minutes(9));
    assert!(!story.is_gone(vm));
    story.run_for(minutes(4));
    assert!(story.is_gone(vm));
    assert_eq!(terminations(&story, &ShutdownReason::Unresponsive), 1);
    story.assert_cancelled(container, "was shut down");
}

/// Upstream worker: running, and the list is empty.
#[test]
fn last_container_ended_instance_idle() {
    let mut story = Story::with(|config| config.timeouts.idle = minutes(60));
    let (container, vm) = story.running(cores(1), seconds(30));
    story.run_for(minutes(2));
    story.assert_complete(container);
    let shown = story.shown_vm(vm).expect("the instance is idle");
    assert!(!shown.busy && shown.idle_since.is_some());
    assert_eq!(shown.last_container, Some(container));
}

/// Upstream worker: a start in flight protects the instance despite an empty list.
#[test]
fn start_in_flight_instance_not_idle() {
    let mut story = Story::with(|config| {
        number_types(config, &[1]);
        config.timeouts.idle = seconds(3);
        config.intervals.probe = seconds(1);
    });
    let container = story.submit_as(bare(1), 500, minutes(5));
    story.run_until("an instance is created", minutes(1), |story| {
        story.vms_made() == 1
    });
    story.run_for(seconds(1));
    story.vm(0).hang_next_start();
    story.run_until("the start is sent", minutes(5), |story| {
        story.starts_of(container) == 1
    });
    // The start times out after half a minute; lists are empty until then.
    story.run_for(seconds(25));
    assert_eq!(terminations(&story, &ShutdownReason::Idle), 0);
    let shown = story.shown_vm(0).expect("the instance is known");
    assert_eq!((shown.busy, shown.containers), (true, vec![container]));
    story.run_for(minutes(15));
    story.assert_complete(container);
}
