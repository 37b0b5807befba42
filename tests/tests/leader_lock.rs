//! Leader lock: a single active dispatcher at a time.

use longshore_tests::{Container, TestCluster, until};

#[test]
fn second_dispatcher_takes_over_after_crash() {
    let mut cluster = TestCluster::start();
    let api = cluster.api();
    let running = api.submit(&cluster.gated("first"));
    let instance = cluster.until_runs(&running);

    let mut second = cluster.another_dispatcher("second.log");
    until("the second dispatcher waits", || {
        second
            .log()
            .contains("another dispatcher holds the leader lock")
    });
    let alone = api.submit(&Container::sh("echo alone"));
    assert_eq!(api.exit_code(&alone), Some(0));
    assert_eq!(second.ended(), None);
    assert!(!second.log().contains("dispatching"), "{}", second.log());

    cluster.kill_dispatcher();
    until("the second dispatcher dispatches", || {
        second.log().contains("dispatching")
    });
    cluster.until_dispatching();
    assert_eq!(cluster.until_runs(&running), instance);
    let after = api.submit(&Container::sh("echo after"));
    assert_eq!(api.exit_code(&after), Some(0));
    cluster.open_gate();
    assert_eq!(api.exit_code(&running), Some(0));
    assert_eq!(cluster.read("begun"), "first\n");
    assert!(second.terminate().success());
}

#[test]
fn waiting_dispatcher_ends_on_term() {
    let cluster = TestCluster::start();
    let second = cluster.another_dispatcher("second.log");
    until("the second dispatcher waits", || {
        second
            .log()
            .contains("another dispatcher holds the leader lock")
    });
    assert!(second.terminate().success());
}
