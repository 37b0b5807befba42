//! Durations.

use std::time::Duration;

use longshore_core::event::Event;
use longshore_core::ids::{TypeName, VmName};
use longshore_management::Metrics;

use super::{gather, of};
use crate::world::{START, World};

#[test]
fn started_container_is_timed() {
    let mut world = World::busy();
    let made = world.cloud.last_mut().expect("a small instance was made");
    made.address = Some("10.0.1.1:22".into());
    let name = made.id.clone();
    world.runners.insert(name, Vec::new());
    world.run_for(Duration::from_secs(90));
    let scrape = gather(&world);
    let waits = "containers_time_from_queue_to_crunch_run_seconds";
    assert_eq!(scrape.peer(&format!("{waits}_count")), 1.0);
    let waited = scrape.peer(&format!("{waits}{{quantile=\"0.5\"}}"));
    assert!((93.0..180.0).contains(&waited), "{waited}");
    assert_eq!(scrape.peer(&format!("{waits}_sum")), waited);
    assert_eq!(scrape.peer("instances_time_to_ssh_seconds_count"), 1.0);
    assert_eq!(
        scrape.peer("instances_time_to_ready_for_container_seconds_count"),
        1.0
    );
    assert_eq!(scrape.peer("boot_outcomes{outcome=\"success\"}"), 1.0);
    let boots = "longshore_boot_outcomes_total{instance_type=\"small\",outcome=\"success\"}";
    assert_eq!(scrape.value(boots), 1.0);
    let latency = "longshore_queued_to_started_seconds";
    assert_eq!(scrape.value(&format!("{latency}_count")), 1.0);
    assert_eq!(scrape.value(&format!("{latency}_bucket{{le=\"60\"}}")), 0.0);
    let latency = "longshore_dispatch_latency_seconds";
    assert_eq!(scrape.types[latency], "histogram");
    assert_eq!(scrape.value(&format!("{latency}_count")), 1.0);
    assert_eq!(
        scrape.value(&format!("{latency}_bucket{{le=\"+Inf\"}}")),
        1.0
    );
    let probes = "instances_run_probe_duration_seconds";
    assert!(scrape.peer(&format!("{probes}{{outcome=\"success\",quantile=\"0.5\"}}")) > 0.0);
    assert!(scrape.peer(&format!("{probes}_count{{outcome=\"fail\"}}")) >= 1.0);
    let creates = "driver_operations{error=\"1\",operation=\"Create\"}";
    assert!(scrape.peer(creates) >= 1.0);
    let class = "class=\"quota\",cloud=\"0\",operation=\"Create\"";
    let classes = scrape.value(&format!("longshore_cloud_call_errors_total{{{class}}}"));
    assert!(classes >= 1.0);
    let probes = |name, outcome| {
        let labels = format!("{{instance_type=\"{name}\",outcome=\"{outcome}\"}}");
        scrape.value(&format!("longshore_probes_total{labels}"))
    };
    assert!(probes("small", "success") >= 1.0 && probes("tiny", "fail") >= 1.0);
    assert_eq!(probes("small", "impostor"), 0.0);
    let failing = |name| {
        let labels = format!("{{instance_type=\"{name}\"}}");
        scrape.value(&format!("longshore_create_failing_seconds{labels}"))
    };
    assert!(failing("large") > 60.0, "{}", failing("large"));
    assert_eq!(failing("small"), 0.0);
    let price = |category, name| {
        let labels = format!("{{category=\"{category}\",instance_type=\"{name}\"}}");
        scrape.value(&format!("longshore_instances_price{labels}"))
    };
    assert_eq!(
        (price("hold", "small"), price("inuse", "large")),
        (0.1, 0.0)
    );
    assert_eq!(price("booting", "gpu"), 4.0);
}

#[test]
fn identity_mismatches_and_passes_are_counted() {
    let metrics = Metrics::new();
    let probed = |error: Option<&str>, impostor| Event::ProbeEnded {
        instance: "i-1".into(),
        instance_type: "small".into(),
        took: Duration::from_millis(20),
        error: error.map(str::to_owned),
        failures: 0,
        news: false,
        identity_mismatch: impostor,
    };
    for event in [
        probed(None, false),
        probed(Some("x"), true),
        probed(Some("x"), false),
    ] {
        metrics.observe(START, &event);
    }
    metrics.pass_made(Duration::from_millis(3));
    let scrape = of(&metrics);
    for outcome in ["success", "fail", "impostor"] {
        let labels = format!("{{instance_type=\"small\",outcome=\"{outcome}\"}}");
        let series = format!("longshore_probes_total{labels}");
        assert_eq!(scrape.value(&series), 1.0, "{outcome}");
    }
    let passes = "longshore_placement_pass_seconds";
    assert_eq!(scrape.value(&format!("{passes}_count")), 1.0);
    assert_eq!(
        scrape.value(&format!("{passes}_bucket{{le=\"0.001\"}}")),
        0.0
    );
    assert_eq!(
        scrape.value(&format!("{passes}_bucket{{le=\"0.005\"}}")),
        1.0
    );
}

#[test]
fn restarted_container_is_timed_once() {
    let metrics = Metrics::new();
    for first in [true, false] {
        let event = Event::StartIssued {
            container: "zzzzz-dz642-000000000000001".parse().unwrap(),
            instance: "i-1".into(),
            instance_type: "small".into(),
            waited: Duration::from_secs(9),
            ready_wait: Duration::from_secs(1),
            first,
        };
        metrics.observe(START, &event);
    }
    let scrape = of(&metrics);
    let count = |name: &str| scrape.value(&format!("longshore_{name}_seconds_count"));
    assert_eq!(count("queued_to_started"), 1.0);
    assert_eq!(count("dispatch_latency"), 2.0);
}

#[test]
fn instances_found_after_restart_are_not_boots() {
    let metrics = Metrics::new();
    let (instance, after) = (VmName::from("a"), Duration::from_secs(2));
    for own in [false, true] {
        metrics.observe(
            START,
            &Event::Reached {
                instance: instance.clone(),
                after,
                own,
            },
        );
        metrics.observe(
            START,
            &Event::Ready {
                instance: instance.clone(),
                instance_type: TypeName::from("small"),
                after,
                own,
            },
        );
    }
    let scrape = of(&metrics);
    assert_eq!(scrape.peer("instances_time_to_ssh_seconds_count"), 1.0);
    assert_eq!(
        scrape.peer("instances_time_to_ready_for_container_seconds_count"),
        1.0
    );
}

#[test]
fn driver_calls_are_timed_by_outcome() {
    let metrics = Metrics::new();
    metrics.driver_call_ended("Create", "done", Duration::from_millis(20));
    metrics.driver_call_ended("Create", "done", Duration::from_secs(20));
    metrics.driver_call_ended("Create", "abandoned", Duration::from_secs(61));
    let scrape = of(&metrics);
    let name = "longshore_cloud_call_duration_seconds";
    assert_eq!(scrape.types[name], "histogram");
    let value = |suffix: &str, labels: &str| scrape.value(&format!("{name}_{suffix}{{{labels}}}"));
    let done = "operation=\"Create\",outcome=\"done\"";
    assert_eq!(value("count", done), 2.0);
    assert!((value("sum", done) - 20.02).abs() < 1e-9);
    assert_eq!(value("bucket", &format!("{done},le=\"15\"")), 1.0);
    let abandoned = "operation=\"Create\",outcome=\"abandoned\"";
    assert_eq!(value("count", abandoned), 1.0);
}
