//! Boot breaker: back-off of creates after repeated boot failures.

use longshore_core::config::Config;
use longshore_core::event::Event;
use longshore_core::ids::{ContainerId, ImageId};
use longshore_core::resources::Demand;
use longshore_core::{CreateBlocked, WaitReason};
use longshore_sim::Fault;
use longshore_sim::story::{Story, cores, minutes, seconds};

fn only(names: &[&str], config: &mut Config) {
    config
        .types
        .retain(|name, _| names.contains(&name.as_str()));
    config.timeouts.booting = minutes(2);
}

fn small() -> Story {
    Story::with(|config| only(&["small"], config))
}

fn openings(story: &Story) -> usize {
    story.count_events(|e| matches!(e, Event::BootBackoffStarted { .. }))
}

fn waits_for_breaker(story: &Story, id: ContainerId) -> bool {
    let waiting = story.shown(id).and_then(|shown| shown.waiting);
    matches!(waiting, Some(WaitReason::CreateBlocked(why))
        if why.iter().all(|(_, b)| matches!(b, CreateBlocked::BootsFail { .. })))
}

#[test]
fn failed_boots_open_breaker_until_success() {
    let mut story = small();
    story.strike(Fault::NeverBoots, 1000);
    let container = story.submit(cores(1));
    story.run_until(
        "the container waits for the boot breaker",
        minutes(15),
        |s| waits_for_breaker(s, container),
    );
    assert_eq!(story.creates(), 5);
    assert_eq!(openings(&story), 1);
    let shown = story.shown(container).unwrap();
    assert!(
        shown.status.contains("type small do not boot") && shown.status.contains("5 boots failed"),
        "{}",
        shown.status
    );
    let next = shown.unblocked_by.unwrap_or_default();
    assert!(next.contains("the next try in"), "{next}");
    story.run_for(minutes(120));
    assert!(story.creates() < 12, "{} creates", story.creates());
    assert_eq!(story.lock_count(container), 0, "no attempt is used up");
    story.strike(Fault::NeverBoots, 0);
    story.run_for(minutes(75));
    story.assert_complete(container);
    let closed = |e: &Event| matches!(e, Event::BootBackoffEnded { .. });
    assert_eq!(story.count_events(closed), 1);
}

#[test]
fn half_open_trial_decides_for_all() {
    let mut story = small();
    story.strike(Fault::NeverBoots, 1000);
    let all: Vec<_> = (0..20).map(|_| story.submit(cores(1))).collect();
    story.run_for(minutes(5));
    let made = story.vms_made();
    assert!(made <= 24, "{made} creates before the back-off");
    story.run_for(minutes(30));
    let tries = story.vms_made() - made;
    assert!((1..=3).contains(&tries), "{tries} half-open trials");
    story.strike(Fault::NeverBoots, 0);
    story.run_for(minutes(90));
    for container in all {
        story.assert_complete(container);
    }
}

#[test]
fn successful_boot_resets_failure_count() {
    let mut story = small();
    for _ in 0..3 {
        story.strike(Fault::NeverBoots, 4);
        let container = story.submit_as(cores(1), 500, seconds(5));
        story.run_for(minutes(20));
        story.assert_complete(container);
    }
    assert_eq!(story.vms_made(), 15);
    assert_eq!(openings(&story), 0);
}

#[test]
fn failing_boot_probe_counts() {
    let mut story = small();
    story.strike(Fault::BootProbeFails, 1000);
    let container = story.submit(cores(1));
    story.run_until(
        "the container waits for the boot breaker",
        minutes(15),
        |s| waits_for_breaker(s, container),
    );
    assert_eq!(openings(&story), 1);
    let status = story.shown(container).map(|shown| shown.status);
    let status = status.unwrap_or_default();
    assert!(status.contains("boot probe: exit status 1"), "{status}");
}

#[test]
fn broken_while_booting_counts() {
    let mut story = small();
    let container = story.submit(cores(1));
    for vm in 0..5 {
        story.run_until("the next instance is created", minutes(10), |s| {
            s.vms_made() > vm
        });
        story.run_for(seconds(1));
        story.vm(vm).break_down();
    }
    story.run_until(
        "the container waits for the boot breaker",
        minutes(5),
        |s| waits_for_breaker(s, container),
    );
    assert_eq!(openings(&story), 1);
    story.run_for(minutes(30));
    story.assert_complete(container);
}

#[test]
fn vanished_or_killed_boots_not_counted() {
    let mut story = small();
    story.submit_as(cores(1), 500, minutes(600));
    for vm in 0..8 {
        story.run_until("the next instance is created", minutes(10), |s| {
            s.vms_made() > vm
        });
        story.run_for(seconds(10));
        match vm % 2 {
            0 => story.vm(vm).vanish(),
            _ => story.kill_vm(vm),
        }
    }
    story.run_for(minutes(30));
    assert_eq!(openings(&story), 0);
    assert_eq!(story.vms_made(), 9);
}

#[test]
fn boot_backoff_other_type_used() {
    let mut story = Story::with(|config| {
        only(&["small", "medium"], config);
        config.sizing.max_price_factor_ppm = 2_000_000;
    });
    story.strike(Fault::NeverBoots, 5);
    let container = story.submit(cores(1));
    story.run_for(minutes(20));
    story.assert_complete(container);
    let medium = |e: &Event| matches!(e, Event::CreateIssued { instance_type, .. } if instance_type.as_str() == "medium");
    assert_eq!(story.count_events(medium), 1);
}

#[test]
fn boot_backoff_other_image_unaffected() {
    let mut story = small();
    story.strike(Fault::NeverBoots, 5);
    let blocked = story.submit(cores(1));
    story.run_until(
        "the container waits for the boot breaker",
        minutes(15),
        |s| waits_for_breaker(s, blocked),
    );
    let other = story.submit(Demand {
        vm_image: Some(ImageId::from("image-2")),
        ..cores(1)
    });
    story.run_for(minutes(3));
    assert!(story.runs_on(other).is_some());
    assert!(waits_for_breaker(&story, blocked));
}

#[test]
fn boot_breaker_disabled_creates_continue() {
    let mut story = Story::with(|config| {
        only(&["small"], config);
        config.limits.boot_failures = None;
    });
    story.strike(Fault::NeverBoots, 20);
    let container = story.submit(cores(1));
    story.run_for(minutes(90));
    story.assert_complete(container);
    assert_eq!(story.vms_made(), 21);
}

#[test]
fn image_change_ends_boot_backoff() {
    let mut story = small();
    story.strike(Fault::NeverBoots, 5);
    let container = story.submit(cores(1));
    story.run_until(
        "the container waits for the boot breaker",
        minutes(15),
        |s| waits_for_breaker(s, container),
    );
    story.reconfigure(|config| config.image = ImageId::from("image-2"));
    story.run_for(minutes(8));
    story.assert_complete(container);
}
