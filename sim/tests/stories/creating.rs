//! Creates whose end is not what the answer says.

use longshore_core::event::Event;
use longshore_sim::Fault;
use longshore_sim::story::{Story, cores, minutes, seconds};

fn written_off(story: &Story) -> usize {
    story.count_events(|e| matches!(e, Event::CreateWrittenOff { .. }))
}

#[test]
fn a_create_whose_answer_is_lost_is_matched_by_its_intent() {
    let mut story = Story::begin();
    story.strike(Fault::CreateAnswerLost, 1);
    let container = story.submit(cores(1));
    story.run_for(minutes(12));
    story.assert_complete(container);
    assert_eq!((story.creates(), story.vms_made()), (1, 1));
    assert_eq!(written_off(&story), 0);
}

#[test]
fn a_lost_create_counts_against_the_limit_until_it_shows() {
    let mut story = Story::with(|config| config.limits.instances = Some(1));
    story.strike(Fault::CreateAnswerLost, 1);
    story.strike(Fault::ListLate, 1);
    let first = story.submit(cores(1));
    let second = story.submit(cores(8));
    story.run_for(minutes(20));
    story.assert_complete(first);
    story.assert_complete(second);
    assert_eq!(story.vms_made(), 2, "one after the other");
}

#[test]
fn a_create_that_never_shows_is_written_off() {
    let mut story = Story::begin();
    story.strike(Fault::CreateAnswerLost, 1);
    let container = story.submit(cores(1));
    story.run_until("a VM is made", minutes(1), |s| s.vms_made() == 1);
    story.vm(0).vanish();
    story.run_for(minutes(20));
    story.assert_complete(container);
    assert_eq!(story.vms(), 0);
}

#[test]
fn a_create_answered_with_an_error_but_made_is_used_or_given_back() {
    let mut story = Story::begin();
    story.strike(Fault::CreateMadeButFailed, 1);
    let container = story.submit(cores(1));
    story.run_for(minutes(20));
    story.assert_complete(container);
    assert_eq!(story.vms(), 0, "no orphan is left");
}

#[test]
fn a_create_that_makes_two_leaves_no_orphan() {
    let mut story = Story::begin();
    story.strike(Fault::CreateTwice, 1);
    let container = story.submit(cores(1));
    story.run_for(minutes(20));
    story.assert_complete(container);
    assert_eq!(story.vms_made(), 2);
    assert_eq!(story.vms(), 0);
}

#[test]
fn a_create_that_makes_two_leaves_no_orphan_when_a_list_names_the_other_first() {
    let mut story = Story::begin();
    story.strike(Fault::CreateTwice, 1);
    story.strike(Fault::CreateSlow, 1);
    let _first = story.submit_as(cores(1), 500, minutes(20));
    story.run_for(seconds(20));
    // Something is awaited from lists, so they come often.
    story.strike(Fault::AddressLate, 1);
    let _second = story.submit_as(cores(8), 500, seconds(10));
    story.run_for(minutes(60));
    assert_eq!(story.vms(), 0);
}

#[test]
fn a_failing_create_is_tried_again_ever_more_slowly() {
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
fn an_answer_that_comes_twice_counts_once() {
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
fn answers_after_their_deadline_do_no_harm() {
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
