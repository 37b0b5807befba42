//! Identity of instances: only the rented instance gets work.

use longshore_core::event::Event;
use longshore_sim::Fault;
use longshore_sim::story::{Story, cores, minutes, seconds};

#[test]
fn identity_mismatch_gets_no_start() {
    let mut story = Story::begin();
    story.strike(Fault::Impostor, 1);
    let container = story.submit(cores(1));
    story.run_for(minutes(9));
    assert_eq!(story.starts_of(container), 0);
    assert_eq!(story.vms(), 1);
    story.run_for(minutes(12));
    story.assert_complete(container);
    assert!(
        story.is_gone(0),
        "the instance is terminated after TimeoutBooting"
    );
}

#[test]
fn replaced_instance_terminated() {
    let mut story = Story::with(|config| config.timeouts.idle = minutes(60));
    let (_, vm) = story.running(cores(1), seconds(5));
    story.run_for(minutes(1));
    story.vm(vm).be_replaced();
    let container = story.submit(cores(1));
    story.run_for(minutes(20));
    assert!(story.is_gone(vm));
    story.assert_complete(container);
}

#[test]
fn reused_address_identity_verified() {
    let mut story = Story::begin();
    let (_, first) = story.running(cores(1), seconds(5));
    story.run_for(minutes(5));
    assert!(story.is_gone(first));
    story.strike(Fault::AddressReused, 1);
    let container = story.submit(cores(1));
    story.run_for(minutes(12));
    story.assert_complete(container);
    let ready = |e: &Event| matches!(e, Event::Ready { .. });
    assert_eq!(story.count_events(ready), 2);
}
