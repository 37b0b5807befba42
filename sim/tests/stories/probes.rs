//! Probes: rate, fairness between instances, and consequences of silence.

use longshore_core::ShutdownReason;
use longshore_core::command::{Action, CloudAction, VmAction};
use longshore_core::config::Rate;
use longshore_core::event::Event;
use longshore_core::ids::InstanceId;
use longshore_core::input::ContainerState;
use longshore_sim::Fault;
use longshore_sim::story::{Story, cores, minutes, seconds};
use std::collections::BTreeMap;
use std::time::Duration;

fn only(names: &[&str], config: &mut longshore_core::config::Config) {
    config
        .types
        .retain(|name, _| names.contains(&name.as_str()));
    config.limits.instances = None;
}

/// Longest time between two consecutive probes of any instance, including the time since its last
/// probe.
fn longest_pause(story: &Story, from: Duration) -> Duration {
    let mut last: BTreeMap<InstanceId, Duration> = BTreeMap::new();
    let mut longest = Duration::ZERO;
    for (at, action) in story.commands() {
        if let Action::Vm {
            instance,
            action: VmAction::Probe { .. },
            ..
        } = action
        {
            let before = last.insert(instance.clone(), at);
            let before = before.filter(|before| *before >= from);
            longest = longest.max(before.map_or(Duration::ZERO, |before| at - before));
        }
    }
    let silent = last.values().map(|at| story.elapsed() - *at);
    longest.max(silent.max().unwrap_or_default())
}

fn terminations(story: &Story, test: fn(&ShutdownReason) -> bool) -> usize {
    story.count_events(|event| matches!(event, Event::Terminating { reason, .. } if test(reason)))
}

#[test]
fn probe_rate_shared_fairly() {
    let mut story = Story::with(|config| {
        only(&["small"], config);
        config.limits.probes = Rate::per_second(10);
        config.timeouts.idle = minutes(600);
    });
    let vms = story.idle_vms(&["small"; 300]);
    let (begun, before) = (story.elapsed(), probes(&story));
    story.run_for(minutes(40));
    assert!(vms.iter().all(|vm| !story.is_gone(*vm)));
    let sent = probes(&story) - before;
    assert!((23_000..=24_010).contains(&sent), "{sent} in 40 minutes");
    let longest = longest_pause(&story, begun);
    assert!(longest < seconds(40), "{longest:?}");
}

fn probes(story: &Story) -> usize {
    story.count_commands(|action| {
        matches!(
            action,
            Action::Vm {
                action: VmAction::Probe { .. },
                ..
            }
        )
    })
}

#[test]
fn probe_rate_silent_instance_detected() {
    let mut story = Story::with(|config| {
        only(&["small"], config);
        config.limits.probes = Rate::per_second(1);
        config.timeouts.idle = minutes(600);
        config.timeouts.probe = minutes(5);
    });
    let vms = story.idle_vms(&["small"; 60]);
    story.vm(vms[41]).freeze();
    story.run_for(minutes(25));
    let gone: Vec<_> = vms.iter().filter(|vm| story.is_gone(**vm)).collect();
    assert_eq!(gone, [&vms[41]]);
    let unresponsive = terminations(&story, |why| *why == ShutdownReason::Unresponsive);
    assert_eq!(unresponsive, 1);
}

#[test]
fn probe_rate_delay_not_boot_timeout() {
    let mut story = Story::with(|config| {
        only(&["small"], config);
        config.limits.probes = Rate::per_second(1);
        config.timeouts.booting = seconds(75);
    });
    let all: Vec<_> = (0..100)
        .map(|_| story.submit_as(cores(1), 500, minutes(60)))
        .collect();
    story.run_for(minutes(30));
    assert_eq!(story.how_many_run(&all), 100);
    assert_eq!(terminations(&story, |_| true), 0);
}

#[test]
fn probe_rate_failed_boots_terminated() {
    let mut story = Story::with(|config| {
        only(&["small"], config);
        config.limits.probes = Rate::per_second(1);
        config.timeouts.booting = minutes(2);
        config.limits.boot_failures = None;
    });
    story.strike(Fault::NeverBoots, 20);
    let all: Vec<_> = (0..20).map(|_| story.submit(cores(1))).collect();
    story.run_for(minutes(40));
    for container in all {
        story.assert_complete(container);
    }
    let late = terminations(&story, |why| *why == ShutdownReason::BootTimeout);
    assert_eq!(late, 20);
}

#[test]
fn lifted_probe_rate_releases_queue() {
    let mut story = Story::with(|config| {
        only(&["small"], config);
        config.limits.probes = Rate::per_second(1);
        config.timeouts.idle = minutes(600);
    });
    story.idle_vms(&["small"; 40]);
    story.reconfigure(|config| config.limits.probes = None);
    let begun = story.elapsed();
    story.run_for(minutes(5));
    let longest = longest_pause(&story, begun);
    assert!(longest < seconds(15), "{longest:?}");
}

#[test]
fn destroy_queue_fifo_order() {
    let mut story = Story::with(|config| {
        only(&["small"], config);
        config.limits.destroys = Some(Rate {
            interval: seconds(20),
            burst: 1,
        });
        config.timeouts.shutdown = seconds(10);
        config.timeouts.idle = minutes(600);
    });
    let vms = story.idle_vms(&["small"; 6]);
    story.strike(Fault::DestroyFails, 4);
    for vm in &vms {
        story.kill_vm(*vm);
        story.run_for(seconds(1));
    }
    story.run_for(seconds(110));
    let mut destroyed: Vec<InstanceId> = Vec::new();
    for (_, action) in story.commands() {
        if let Action::Cloud {
            action: CloudAction::Destroy { instance },
            ..
        } = action
        {
            destroyed.push(instance.clone());
        }
    }
    let mut distinct = destroyed.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(destroyed.len(), 6, "{destroyed:?}");
    assert_eq!(
        distinct.len(),
        6,
        "a second destroy before the first of every instance: {destroyed:?}"
    );
    story.run_for(minutes(10));
    assert_eq!(story.vms(), 0);
}

#[test]
fn frozen_unready_instance_terminated() {
    let mut story = Story::begin();
    let (container, vm) = story.running(cores(1), minutes(600));
    story.vm(vm).fail_boot_probe();
    story.restart();
    story.run_for(minutes(60));
    assert!(
        !story.is_gone(vm),
        "an instance with a working runner list is kept"
    );
    story.assert_state(container, ContainerState::Running);
    story.vm(vm).freeze();
    story.run_for(minutes(15));
    assert!(story.is_gone(vm));
    story.assert_cancelled(container, "was shut down: no answer for TimeoutProbe");
    let unresponsive = terminations(&story, |why| *why == ShutdownReason::Unresponsive);
    assert_eq!(unresponsive, 1);
}
