//! Reload: a changed interval counts from the reload on, not from the next action.

use longshore_core::command::{Action, Signal, VmAction};
use longshore_core::event::Event;
use longshore_sim::Fault;
use longshore_sim::story::{Story, cores, minutes, seconds};

fn probes(story: &Story) -> usize {
    story.count_commands(|action| {
        let Action::Vm { action, .. } = action else {
            return false;
        };
        matches!(action, VmAction::Probe { .. })
    })
}

#[test]
fn shorter_probe_interval_applies_immediately() {
    let mut story = Story::with(|config| {
        config.intervals.probe = minutes(60);
        config.timeouts.idle = minutes(600);
    });
    story.idle_vms(&["small"; 5]);
    story.run_for(minutes(2));
    let before = probes(&story);
    story.reconfigure(|config| config.intervals.probe = seconds(10));
    story.run_for(seconds(60));
    let sent = probes(&story) - before;
    assert!((25..=35).contains(&sent), "{sent} in a minute");
}

#[test]
fn shorter_poll_interval_applies_immediately() {
    let mut story = Story::with(|config| config.intervals.poll = minutes(60));
    story.without_hints();
    story.run_for(minutes(2));
    let container = story.submit(cores(1));
    story.run_for(minutes(5));
    assert!(story.shown(container).is_none(), "not polled yet");
    story.reconfigure(|config| config.intervals.poll = seconds(10));
    story.run_for(seconds(20));
    assert!(story.shown(container).is_some());
}

#[test]
fn shorter_destroy_interval_applies_immediately() {
    let mut story = Story::with(|config| config.timeouts.shutdown = minutes(60));
    let vms = story.idle_vms(&["small"]);
    story.strike(Fault::DestroyFails, 1);
    story.kill_vm(vms[0]);
    story.run_for(minutes(2));
    assert_eq!((story.destroys(), story.is_gone(vms[0])), (1, false));
    story.reconfigure(|config| config.timeouts.shutdown = seconds(10));
    story.run_for(seconds(30));
    assert!(story.is_gone(vms[0]));
}

#[test]
fn shorter_signal_interval_applies_immediately() {
    let mut story = Story::with(|config| config.timeouts.signal = minutes(60));
    let (container, vm) = story.running(cores(1), minutes(600));
    story.vm(vm).ignore_term();
    story.set_priority(container, 0);
    story.run_for(minutes(5));
    assert!(story.has_runner(container));
    story.reconfigure(|config| config.timeouts.signal = seconds(5));
    story.run_for(seconds(30));
    assert!(!story.has_runner(container));
    let killed = |event: &Event| {
        let Event::Signalling { signal, .. } = event else {
            return false;
        };
        *signal == Signal::Kill
    };
    assert_eq!(story.count_events(killed), 1);
}

#[test]
fn shorter_stale_lock_timeout_applies_immediately() {
    let mut story = Story::with(|config| {
        config.timeouts.stale_lock = minutes(60);
        config.timeouts.booting = minutes(120);
    });
    let (_, other) = story.running(cores(2), minutes(600));
    story.strike(Fault::CrashBeforeRunning, 1);
    let container = story.submit(cores(8));
    story.run_until("the start is sent", minutes(10), |s| {
        s.starts_of(container) == 1
    });
    story.vm(other).be_silent_for(minutes(90));
    story.restart();
    story.run_for(minutes(5));
    assert_eq!(
        story.unlocks(),
        0,
        "the runner may be on the silent instance"
    );
    story.reconfigure(|config| config.timeouts.stale_lock = minutes(10));
    story.run_for(minutes(15));
    story.assert_complete(container);
}
