//! Creates with an outcome different from the answer: lost, duplicated or late answers.

use longshore_core::event::Event;
use longshore_sim::Fault;
use longshore_sim::story::{Story, cores, minutes, seconds};

fn written_off(story: &Story) -> usize {
    story.count_events(|e| matches!(e, Event::CreateWrittenOff { .. }))
}

#[test]
fn lost_create_answer_matched_by_intent() {
    let mut story = Story::begin();
    story.strike(Fault::CreateAnswerLost, 1);
    let container = story.submit(cores(1));
    story.run_for(minutes(12));
    story.assert_complete(container);
    assert_eq!((story.creates(), story.vms_made()), (1, 1));
    assert_eq!(written_off(&story), 0);
}

#[test]
fn lost_create_counts_against_limit() {
    let mut story = Story::with(|config| config.limits.instances = Some(1));
    story.strike(Fault::CreateAnswerLost, 1);
    story.strike(Fault::ListLate, 1);
    let first = story.submit(cores(1));
    let second = story.submit(cores(8));
    story.run_for(minutes(20));
    story.assert_complete(first);
    story.assert_complete(second);
    assert_eq!(story.vms_made(), 2, "two instances in sequence");
}

#[test]
fn lost_create_never_listed_written_off() {
    let mut story = Story::begin();
    story.strike(Fault::CreateAnswerLost, 1);
    let container = story.submit(cores(1));
    story.run_until("an instance is created", minutes(1), |s| s.vms_made() == 1);
    story.vm(0).vanish();
    story.run_for(minutes(20));
    story.assert_complete(container);
    assert_eq!(story.vms(), 0);
}

#[test]
fn failed_create_instance_not_orphaned() {
    let mut story = Story::begin();
    story.strike(Fault::CreateMadeButFailed, 1);
    let container = story.submit(cores(1));
    story.run_for(minutes(20));
    story.assert_complete(container);
    assert_eq!(story.vms(), 0, "no orphan instance");
}

#[test]
fn double_create_leaves_no_orphan() {
    let mut story = Story::begin();
    story.strike(Fault::CreateTwice, 1);
    let container = story.submit(cores(1));
    story.run_for(minutes(20));
    story.assert_complete(container);
    assert_eq!(story.vms_made(), 2);
    assert_eq!(story.vms(), 0);
}

#[test]
fn double_create_listed_first_no_orphan() {
    let mut story = Story::begin();
    story.strike(Fault::CreateTwice, 1);
    story.strike(Fault::CreateSlow, 1);
    let _first = story.submit_as(cores(1), 500, minutes(20));
    story.run_for(seconds(20));
    // Pending changes shorten the list interval.
    story.strike(Fault::AddressLate, 1);
    let _second = story.submit_as(cores(8), 500, seconds(10));
    story.run_for(minutes(60));
    assert_eq!(story.vms(), 0);
}

#[test]
fn failing_create_backs_off() {
    let mut story = Story::begin();
    story.strike(Fault::CreateFails, 1000);
    let container = story.submit(cores(8));
    story.run_for(minutes(30));
    let tried = story.creates();
    assert!((3..=12).contains(&tried), "{tried} creates");
    story.strike(Fault::CreateFails, 0);
    story.run_for(minutes(40));
    story.assert_complete(container);
}

#[test]
fn duplicate_answers_count_once() {
    let mut story = Story::begin();
    story.strike(Fault::CloudAnswerTwice, 100);
    story.strike(Fault::QueueAnswerTwice, 100);
    story.strike(Fault::VmAnswerTwice, 100);
    let container = story.submit(cores(1));
    story.run_for(minutes(15));
    story.assert_complete(container);
    assert_eq!((story.vms_made(), story.vms()), (1, 0));
    assert_eq!(story.starts_of(container), 1);
    assert!(story.count_events(|e| matches!(e, Event::LateAnswer { .. })) > 10);
}

#[test]
fn late_answers_harmless() {
    let mut story = Story::begin();
    for fault in [
        Fault::CloudAnswerLate,
        Fault::QueueAnswerLate,
        Fault::VmAnswerLate,
    ] {
        story.strike(fault, 6);
    }
    let container = story.submit(cores(1));
    story.run_for(minutes(60));
    story.assert_complete(container);
    assert_eq!(story.vms(), 0);
}
