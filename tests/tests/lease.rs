//! Only one dispatcher acts at a time.

use longshore_tests::{Container, Site, until};

#[test]
fn a_second_dispatcher_waits_and_takes_over_when_the_first_dies() {
    let mut site = Site::start();
    let api = site.api();
    let running = api.submit(&site.gated("first"));
    let instance = site.until_runs(&running);

    let mut second = site.another_dispatcher("second.log");
    until("the second one waits", || {
        second.log().contains("another dispatcher is at work")
    });
    let alone = api.submit(&Container::sh("echo alone"));
    assert_eq!(api.exit_code(&alone), Some(0));
    assert_eq!(second.ended(), None);
    assert!(!second.log().contains("dispatching"), "{}", second.log());

    site.kill_dispatcher();
    until("the second one acts", || {
        second.log().contains("dispatching")
    });
    site.until_dispatching();
    assert_eq!(site.until_runs(&running), instance);
    let after = api.submit(&Container::sh("echo after"));
    assert_eq!(api.exit_code(&after), Some(0));
    site.open_gate();
    assert_eq!(api.exit_code(&running), Some(0));
    assert_eq!(site.read("begun"), "first\n");
    assert!(second.terminate().success());
}

#[test]
fn one_that_waits_for_its_turn_can_be_told_to_end() {
    let site = Site::start();
    let second = site.another_dispatcher("second.log");
    until("the second one waits", || {
        second.log().contains("another dispatcher is at work")
    });
    assert!(second.terminate().success());
}
