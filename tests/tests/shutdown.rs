//! Shutdown of the dispatcher; containers continue to run.

use std::time::{Duration, Instant};

use longshore_tests::{Container, TestCluster};

#[test]
fn term_stops_dispatcher_and_keeps_containers() {
    let mut cluster = TestCluster::start();
    let api = cluster.api();
    let running = api.submit(&cluster.gated("running"));
    let instance = cluster.until_runs(&running);

    let sent_at = Instant::now();
    let status = cluster.stop_dispatcher();
    assert_eq!(status.code(), Some(0), "{}", cluster.dispatch_log());
    let took = sent_at.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");

    let waiting = api.submit(&Container::sh("echo waited"));
    assert_eq!(api.state(&running), "Running");
    cluster.open_gate();
    assert_eq!(api.exit_code(&running), Some(0));
    assert_eq!(api.log(&running), "through running\n");
    assert_eq!(api.state(&waiting), "Queued");

    cluster.start_dispatcher();
    assert_eq!(api.exit_code(&waiting), Some(0));
    assert_eq!(cluster.instance_ids(), [instance]);
}

#[test]
fn term_stops_dispatcher_despite_hanging_queue() {
    let mut cluster = TestCluster::start();
    let running = cluster.api().submit(&cluster.gated("running"));
    let _ = cluster.until_runs(&running);
    cluster.freeze_queue();
    let sent_at = Instant::now();
    let status = cluster.stop_dispatcher();
    assert_eq!(status.code(), Some(0), "{}", cluster.dispatch_log());
    let took = sent_at.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    cluster.thaw_queue();
    cluster.open_gate();
    assert_eq!(cluster.api().exit_code(&running), Some(0));
}
