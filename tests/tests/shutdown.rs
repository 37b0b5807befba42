//! The dispatcher ends when it is told to; the work goes on.

use std::time::{Duration, Instant};

use longshore_tests::{Container, Site};

#[test]
fn term_ends_the_dispatcher_soon_and_containers_go_on() {
    let mut site = Site::start();
    let api = site.api();
    let running = api.submit(&site.gated("running"));
    let instance = site.until_runs(&running);

    let asked = Instant::now();
    let status = site.stop_dispatcher();
    assert_eq!(status.code(), Some(0), "{}", site.dispatch_log());
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");

    let waiting = api.submit(&Container::sh("echo waited"));
    assert_eq!(api.state(&running), "Running");
    site.open_gate();
    assert_eq!(api.exit_code(&running), Some(0));
    assert_eq!(api.log(&running), "through running\n");
    assert_eq!(api.state(&waiting), "Queued");

    site.start_dispatcher();
    assert_eq!(api.exit_code(&waiting), Some(0));
    assert_eq!(site.instance_ids(), [instance]);
}

#[test]
fn term_ends_the_dispatcher_soon_even_when_the_queue_hangs() {
    let mut site = Site::start();
    let running = site.api().submit(&site.gated("running"));
    let _ = site.until_runs(&running);
    site.freeze_queue();
    let asked = Instant::now();
    let status = site.stop_dispatcher();
    assert_eq!(status.code(), Some(0), "{}", site.dispatch_log());
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    site.thaw_queue();
    site.open_gate();
    assert_eq!(site.api().exit_code(&running), Some(0));
}
