//! VMs that never boot: renting more of them rests.

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

fn pauses(story: &Story) -> usize {
    story.count_events(|e| matches!(e, Event::BootBackoffStarted { .. }))
}

fn waits_for_boots(story: &Story, id: ContainerId) -> bool {
    let waiting = story.shown(id).and_then(|shown| shown.waiting);
    matches!(waiting, Some(WaitReason::CreateBlocked(why))
        if why.iter().all(|(_, b)| matches!(b, CreateBlocked::BootsFail { .. })))
}

#[test]
fn what_never_boots_rests_and_says_so_until_one_try_succeeds() {
    let mut story = small();
    story.strike(Fault::NeverBoots, 1000);
    let container = story.submit(cores(1));
    story.run_until("it waits for boots", minutes(15), |s| {
        waits_for_boots(s, container)
    });
    assert_eq!(story.creates(), 5);
    assert_eq!(pauses(&story), 1);
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
    assert_eq!(story.lock_count(container), 0, "no attempt was used up");
    story.strike(Fault::NeverBoots, 0);
    story.run_for(minutes(75));
    story.assert_complete(container);
    let resumed = |e: &Event| matches!(e, Event::BootBackoffEnded { .. });
    assert_eq!(story.count_events(resumed), 1);
}

#[test]
fn after_a_pause_one_try_decides_for_all() {
    let mut story = small();
    story.strike(Fault::NeverBoots, 1000);
    let all: Vec<_> = (0..20).map(|_| story.submit(cores(1))).collect();
    story.run_for(minutes(5));
    let made = story.vms_made();
    assert!(made <= 24, "all at once, and again for the first four");
    story.run_for(minutes(30));
    let tries = story.vms_made() - made;
    assert!((1..=3).contains(&tries), "{tries} more were made");
    story.strike(Fault::NeverBoots, 0);
    story.run_for(minutes(90));
    for container in all {
        story.assert_complete(container);
    }
}

#[test]
fn a_boot_that_succeeds_between_failures_begins_the_count_anew() {
    let mut story = small();
    for _ in 0..3 {
        story.strike(Fault::NeverBoots, 4);
        let container = story.submit_as(cores(1), 500, seconds(5));
        story.run_for(minutes(20));
        story.assert_complete(container);
    }
    assert_eq!(story.vms_made(), 15);
    assert_eq!(pauses(&story), 0);
}

#[test]
fn a_boot_probe_that_never_succeeds_counts() {
    let mut story = small();
    story.strike(Fault::BootProbeFails, 1000);
    let container = story.submit(cores(1));
    story.run_until("it waits for boots", minutes(15), |s| {
        waits_for_boots(s, container)
    });
    assert_eq!(pauses(&story), 1);
    let status = story.shown(container).map(|shown| shown.status);
    let status = status.unwrap_or_default();
    assert!(status.contains("boot probe: exit status 1"), "{status}");
}

#[test]
fn a_vm_that_is_broken_before_it_is_ready_counts() {
    let mut story = small();
    let container = story.submit(cores(1));
    for vm in 0..5 {
        story.run_until("the next boots", minutes(10), |s| s.vms_made() > vm);
        story.run_for(seconds(1));
        story.vm(vm).break_down();
    }
    story.run_until("it waits for boots", minutes(5), |s| {
        waits_for_boots(s, container)
    });
    assert_eq!(pauses(&story), 1);
    story.run_for(minutes(30));
    story.assert_complete(container);
}

#[test]
fn what_the_cloud_or_an_operator_takes_away_while_it_boots_does_not_count() {
    let mut story = small();
    story.submit_as(cores(1), 500, minutes(600));
    for vm in 0..8 {
        story.run_until("the next boots", minutes(10), |s| s.vms_made() > vm);
        story.run_for(seconds(10));
        match vm % 2 {
            0 => story.vm(vm).vanish(),
            _ => story.kill_vm(vm),
        }
    }
    story.run_for(minutes(30));
    assert_eq!(pauses(&story), 0);
    assert_eq!(story.vms_made(), 9);
}

#[test]
fn another_type_that_fits_is_used_meanwhile() {
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
fn another_image_of_the_same_type_is_not_affected() {
    let mut story = small();
    story.strike(Fault::NeverBoots, 5);
    let stuck = story.submit(cores(1));
    story.run_until("it waits for boots", minutes(15), |s| {
        waits_for_boots(s, stuck)
    });
    let other = story.submit(Demand {
        vm_image: Some(ImageId::from("image-2")),
        ..cores(1)
    });
    story.run_for(minutes(3));
    assert!(story.runs_on(other).is_some());
    assert!(waits_for_boots(&story, stuck));
}

#[test]
fn it_can_be_switched_off() {
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
fn a_new_configuration_can_end_the_pause() {
    let mut story = small();
    story.strike(Fault::NeverBoots, 5);
    let container = story.submit(cores(1));
    story.run_until("it waits for boots", minutes(15), |s| {
        waits_for_boots(s, container)
    });
    story.reconfigure(|config| config.image = ImageId::from("image-2"));
    story.run_for(minutes(8));
    story.assert_complete(container);
}
