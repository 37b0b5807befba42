//! Metrics: names, labels, types and values.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use longshore_core::event::{BootOutcome, CloudCall, Event};
use longshore_core::ids::{CloudId, TypeName};
use longshore_core::input::CloudError;
use longshore_core::view::Totals;
use longshore_core::{Phase, ShutdownReason};
use longshore_http::{Dated, Metrics};
use serde_json::Value;

use crate::support::{Api, TOKEN, settings};
use crate::world::{RUNNING, START, World, id};

/// A scrape, read as the format says.
#[derive(Debug, Default)]
struct Scrape {
    types: BTreeMap<String, String>,
    /// By name with labels, as written.
    values: BTreeMap<String, f64>,
}

impl Scrape {
    #[track_caller]
    fn read(text: &str) -> Self {
        let mut scrape = Self::default();
        let mut family = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a type");
                family = name.to_owned();
                let twice = scrape.types.insert(family.clone(), kind.to_owned());
                assert_eq!(twice, None, "{name} comes twice");
            } else if !line.starts_with("# HELP ") {
                let (key, value) = line.rsplit_once(' ').expect("a value");
                let name = key.split('{').next().expect("a name");
                assert!(name.starts_with(&family), "{line} is not of {family}");
                let value = value.parse().expect("a number");
                let twice = scrape.values.insert(key.to_owned(), value);
                assert_eq!(twice, None, "{key} comes twice");
            }
        }
        scrape
    }

    #[track_caller]
    fn value(&self, key: &str) -> f64 {
        let value = self.values.get(key);
        *value.unwrap_or_else(|| panic!("no {key} among {:#?}", self.values.keys()))
    }

    /// A value of the peer's.
    #[track_caller]
    fn peer(&self, key: &str) -> f64 {
        self.value(&format!("arvados_dispatchcloud_{key}"))
    }
}

fn gather(world: &World) -> Scrape {
    let dated = Dated {
        at: world.now,
        value: world.core.view().totals(),
    };
    Scrape::read(&world.metrics.gather(&settings(TOKEN), &dated).text())
}

fn of(metrics: &Metrics) -> Scrape {
    let dated = Dated {
        at: START,
        value: Totals::default(),
    };
    Scrape::read(&metrics.gather(&settings(TOKEN), &dated).text())
}

#[test]
fn everything_is_shown_with_its_type_and_labels() {
    let mut world = World::busy();
    world.run_for(Duration::from_secs(20));
    let dated = Dated {
        at: world.now,
        value: world.core.view().totals(),
    };
    insta::assert_snapshot!(world.metrics.gather(&settings(TOKEN), &dated).text());
}

#[test]
fn the_peers_names_have_the_peers_types() {
    let scrape = gather(&World::busy());
    for (kind, names) in [
        (
            "gauge",
            "containers_running containers_allocated_not_started \
             containers_not_allocated_over_quota containers_longest_wait_time_seconds \
             queue_entries instances_total instances_price vcpus_total memory_bytes_total \
             probe_age_seconds_max probe_age_seconds_median at_quota last_503_time \
             max_concurrent_containers",
        ),
        (
            "counter",
            "instances_disappeared boot_outcomes driver_operations",
        ),
        (
            "summary",
            "containers_time_from_queue_to_crunch_run_seconds instances_time_to_ssh_seconds \
             instances_time_to_ready_for_container_seconds \
             instances_time_from_shutdown_request_to_disappearance_seconds \
             instances_run_probe_duration_seconds",
        ),
    ] {
        for name in names.split_whitespace() {
            let name = format!("arvados_dispatchcloud_{name}");
            let found = scrape.types.get(&name).map(String::as_str);
            assert_eq!(found, Some(kind), "{name}");
        }
    }
}

#[test]
fn labels_are_there_at_zero_before_anything_happens() {
    let scrape = of(&Metrics::new());
    for (key, labels) in [
        (
            "boot_outcomes",
            "outcome=success failure aborted disappeared",
        ),
        (
            "instances_disappeared",
            "state=unknown booting idle running shutdown",
        ),
        (
            "instances_price",
            "category=inuse hold booting unknown idle",
        ),
        ("vcpus_total", "category=inuse hold booting unknown idle"),
        (
            "memory_bytes_total",
            "category=inuse hold booting unknown idle",
        ),
    ] {
        let (name, values) = labels.split_once('=').expect("a label");
        for value in values.split_whitespace() {
            assert_eq!(scrape.peer(&format!("{key}{{{name}=\"{value}\"}}")), 0.0);
        }
    }
    for operation in ["Create", "List", "Destroy", "SetTags"] {
        for error in [0, 1] {
            let labels = format!("error=\"{error}\",operation=\"{operation}\"");
            assert_eq!(scrape.peer(&format!("driver_operations{{{labels}}}")), 0.0);
        }
    }
    for category in ["inuse", "hold", "booting", "unknown", "idle"] {
        for instance_type in ["tiny", "small", "large", "larger", "gpu"] {
            let labels = format!("category=\"{category}\",instance_type=\"{instance_type}\"");
            assert_eq!(scrape.peer(&format!("instances_total{{{labels}}}")), 0.0);
        }
    }
    assert_eq!(scrape.peer("at_quota"), 0.0);
    assert_eq!(scrape.peer("last_503_time"), 0.0);
    for outcome in ["success", "fail"] {
        let name = "instances_run_probe_duration_seconds";
        assert_eq!(
            scrape.peer(&format!("{name}_count{{outcome=\"{outcome}\"}}")),
            0.0
        );
        for quantile in ["0.5", "0.9", "0.95", "0.99"] {
            let labels = format!("outcome=\"{outcome}\",quantile=\"{quantile}\"");
            assert!(scrape.peer(&format!("{name}{{{labels}}}")).is_nan());
        }
    }
}

#[test]
fn gauges_are_what_the_dispatcher_sees() {
    let scrape = gather(&World::busy());
    assert_eq!(scrape.peer("containers_running"), 1.0);
    assert_eq!(scrape.peer("at_quota"), 1.0);
    let entries = |state, instance_type| {
        let labels = format!("instance_type=\"{instance_type}\",state=\"{state}\"");
        scrape.peer(&format!("queue_entries{{{labels}}}"))
    };
    assert_eq!(entries("Running", "small"), 1.0);
    assert_eq!(entries("Queued", "large"), 1.0);
    assert_eq!(entries("Queued", ""), 1.0);
    let instances = |category, instance_type| {
        let labels = format!("category=\"{category}\",instance_type=\"{instance_type}\"");
        scrape.peer(&format!("instances_total{{{labels}}}"))
    };
    assert_eq!(instances("inuse", "small"), 1.0);
    assert_eq!(instances("hold", "small"), 1.0);
    assert_eq!(instances("unknown", "tiny"), 1.0);
    assert_eq!(instances("booting", "gpu"), 1.0);
    assert_eq!(scrape.peer("instances_price{category=\"inuse\"}"), 0.1);
    assert_eq!(scrape.peer("instances_price{category=\"unknown\"}"), 0.05);
    assert_eq!(scrape.peer("vcpus_total{category=\"unknown\"}"), 1.0);
    let memory = scrape.peer("memory_bytes_total{category=\"hold\"}");
    assert_eq!(memory, f64::from(4096_u32) * 1_048_576.0);
    let waited = scrape.peer("containers_longest_wait_time_seconds");
    assert!((93.0..95.0).contains(&waited), "{waited}");
    let silent = scrape.peer("probe_age_seconds_max");
    assert!((2.0..4.0).contains(&silent), "{silent}");
    assert_eq!(
        scrape.value("longshore_commands_in_flight{kind=\"create\"}"),
        1.0
    );
}

#[test]
fn kinds_of_commands_are_known_even_while_there_are_none() {
    let shown = |scrape: &Scrape| -> BTreeSet<String> {
        let kinds = scrape.values.keys();
        let kinds = kinds.filter(|key| key.starts_with("longshore_commands_in_flight{"));
        kinds.cloned().collect()
    };
    let idle = shown(&of(&Metrics::new()));
    assert_eq!(idle, shown(&gather(&World::busy())));
    assert_eq!(idle.len(), 10);
}

#[test]
fn a_container_started_here_leaves_its_times() {
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
fn probes_answered_by_somebody_else_and_passes_are_counted() {
    let metrics = Metrics::new();
    let probed = |error: Option<&str>, impostor| Event::ProbeEnded {
        instance: "i-1".into(),
        instance_type: "small".into(),
        took: Duration::from_millis(20),
        error: error.map(str::to_owned),
        failures: 0,
        news: false,
        impostor,
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
fn what_is_given_up_is_counted_by_reason_and_type_and_what_is_not_needed_is_not() {
    let metrics = Metrics::new();
    let leaving = |reason| Event::Leaving {
        instance: "i-1".into(),
        instance_type: "small".into(),
        reason,
        complaint: None,
    };
    let broken = |held| Event::Broken {
        instance: "i-2".into(),
        instance_type: "large".into(),
        why: "it says so".into(),
        held,
    };
    for event in [
        leaving(ShutdownReason::Unresponsive),
        leaving(ShutdownReason::BootTimeout),
        leaving(ShutdownReason::Unkillable),
        leaving(ShutdownReason::Idle),
        leaving(ShutdownReason::Operator("mine".into())),
        broken(false),
        broken(true),
    ] {
        metrics.observe(START, &event);
    }
    let scrape = of(&metrics);
    let count = |reason: &str, name: &str| {
        let labels = format!("{{instance_type=\"{name}\",reason=\"{reason}\"}}");
        scrape.value(&format!("longshore_unexpected_shutdowns_total{labels}"))
    };
    for reason in ["unresponsive", "boot_timeout", "unkillable"] {
        assert_eq!(count(reason, "small"), 1.0, "{reason}");
    }
    assert_eq!(count("broken", "large"), 1.0, "a held one is not shut down");
    assert_eq!(count("unresponsive", "large"), 0.0);
}

#[test]
fn a_container_that_is_started_again_was_queued_once() {
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
fn an_instance_that_vanishes_is_counted_by_its_last_state() {
    for (vanishing, state) in [("i-0001", "running"), ("i-0002", "idle")] {
        let mut world = World::busy();
        world.cloud.retain(|record| record.id.as_str() != vanishing);
        world.runners.remove(&vanishing.into());
        world.run_for(Duration::from_secs(200));
        let gone = world.core.view().instance(&vanishing.into()).is_none();
        assert!(gone, "{vanishing} should be forgotten by now");
        let scrape = gather(&world);
        let count = |name: &str| scrape.value(&format!("{name}state=\"{state}\"}}"));
        assert_eq!(count("arvados_dispatchcloud_instances_disappeared{"), 1.0);
        let unexpected = "longshore_unexpected_disappearances_total{instance_type=\"small\",";
        assert_eq!(count(unexpected), 1.0);
    }
}

fn gone(phase: Phase, runners: usize, expected: Option<Duration>) -> Event {
    Event::Gone {
        instance: "i-1".into(),
        instance_type: TypeName::from("small"),
        phase,
        runners,
        expected,
    }
}

#[test]
fn only_runners_make_a_vanished_instance_a_running_one() {
    let metrics = Metrics::new();
    for event in [
        gone(Phase::Ready, 2, None),
        gone(Phase::Fenced, 0, None),
        gone(Phase::Booting, 0, None),
        gone(Phase::Shutdown, 1, Some(Duration::from_secs(3))),
    ] {
        metrics.observe(START, &event);
    }
    let scrape = of(&metrics);
    let count = |state| scrape.peer(&format!("instances_disappeared{{state=\"{state}\"}}"));
    let counts = ["unknown", "booting", "idle", "running", "shutdown"].map(count);
    assert_eq!(counts, [0.0, 1.0, 1.0, 1.0, 1.0]);
    let unexpected = "longshore_unexpected_disappearances_total{instance_type=\"small\",";
    assert_eq!(
        scrape.value(&format!("{unexpected}state=\"shutdown\"}}")),
        0.0
    );
    assert_eq!(
        scrape.value(&format!("{unexpected}state=\"booting\"}}")),
        1.0
    );
    let span = "instances_time_from_shutdown_request_to_disappearance_seconds";
    assert_eq!(scrape.peer(&format!("{span}_sum")), 3.0);
    assert_eq!(scrape.peer(&format!("{span}_count")), 1.0);
}

#[test]
fn instances_found_after_a_restart_do_not_count_as_boots() {
    let metrics = Metrics::new();
    let (instance, after) = ("a".to_owned(), Duration::from_secs(2));
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
fn what_is_no_longer_configured_is_still_counted() {
    let metrics = Metrics::new();
    metrics.observe(
        START,
        &Event::Boot {
            instance: "a".into(),
            instance_type: TypeName::from("re\"moved"),
            outcome: BootOutcome::Failure,
        },
    );
    metrics.observe(
        START,
        &Event::CloudCalled {
            cloud: CloudId(7),
            call: CloudCall::Destroy,
            error: Some(CloudError::RateLimited {
                until: None,
                message: "slow down".into(),
            }),
        },
    );
    let scrape = of(&metrics);
    let labels = r#"instance_type="re\"moved",outcome="failure""#;
    assert_eq!(
        scrape.value(&format!("longshore_boot_outcomes_total{{{labels}}}")),
        1.0
    );
    let labels = r#"class="rate_limited",cloud="7",operation="Destroy""#;
    assert_eq!(
        scrape.value(&format!("longshore_cloud_call_errors_total{{{labels}}}")),
        1.0
    );
}

#[test]
fn calls_of_drivers_are_timed_by_their_end() {
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

#[test]
fn the_last_overload_of_the_queue_is_kept() {
    let metrics = Metrics::new();
    metrics.set_last_503(START);
    metrics.set_last_503(START - Duration::from_secs(9));
    assert_eq!(of(&metrics).peer("last_503_time"), 1_786_060_800.0);
}

#[tokio::test]
async fn a_scrape_over_http_has_the_services_own_metrics_too() {
    let api = Api::new(World::busy()).await;
    api.get("/nowhere").await;
    api.post("/metrics", &[]).await;
    let answer = api.get("/metrics").await;
    assert_eq!(
        answer.content_type,
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let scrape = Scrape::read(&answer.text);
    for (name, labels) in [
        ("request_duration_seconds", "code=\"404\",method=\"get\""),
        ("time_to_status_seconds", "code=\"405\",method=\"post\""),
    ] {
        assert_eq!(scrape.types[name], "summary");
        assert_eq!(scrape.value(&format!("{name}_count{{{labels}}}")), 1.0);
        assert!(scrape.value(&format!("{name}{{{labels},quantile=\"0.99\"}}")) > 0.0);
    }
    assert_eq!(
        scrape.value("arvados_concurrent_requests{queue=\"api\"}"),
        1.0
    );
    assert_eq!(
        scrape.value("arvados_max_concurrent_requests{queue=\"api\"}"),
        64.0
    );
    assert_eq!(
        scrape.value("arvados_version_running{version=\"1.2.3\"}"),
        1.0
    );
    let sha256 = "ab".repeat(32);
    for (name, before) in [("source", 3600.0), ("load", 60.0)] {
        let key = format!("arvados_config_{name}_timestamp_seconds{{sha256=\"{sha256}\"}}");
        assert_eq!(scrape.value(&key), 1_786_060_800.0 - before);
    }
}

#[tokio::test]
async fn json_has_the_same_families_as_text() {
    let api = Api::new(World::busy()).await;
    let text = Scrape::read(&api.get("/metrics").await.text);
    let json = api.get("/metrics.json").await.json();
    let families = json.as_array().expect("a list");
    let types = |family: &Value| {
        let text = |key: &str| family[key].as_str().expect("text").to_owned();
        (text("name"), text("type").to_lowercase())
    };
    let mut shown: BTreeMap<_, _> = families.iter().map(types).collect();
    // These are there from the first answered request on.
    for first in ["request_duration_seconds", "time_to_status_seconds"] {
        shown.remove(first);
    }
    assert_eq!(shown, text.types);
    let of_name = |name: &str| {
        let mut named = families.iter().filter(|family| family["name"] == name);
        named.next().expect("the family")["metric"].clone()
    };
    let running = of_name("arvados_dispatchcloud_containers_running");
    assert_eq!(running, serde_json::json!([{ "gauge": { "value": 1.0 } }]));
    let waits = of_name("arvados_dispatchcloud_instances_time_to_ssh_seconds");
    assert_eq!(waits[0]["summary"]["sampleCount"], "0");
    assert_eq!(waits[0]["summary"]["quantile"][3]["quantile"], 0.99);
    assert_eq!(waits[0]["summary"]["quantile"][3]["value"], "NaN");
    let latency = of_name("longshore_dispatch_latency_seconds");
    assert_eq!(latency[0]["histogram"]["bucket"][0]["upperBound"], 0.001);
    assert_eq!(latency[0]["histogram"]["bucket"][0]["cumulativeCount"], "0");
    let boots = of_name("arvados_dispatchcloud_boot_outcomes");
    assert_eq!(boots[0]["label"][0]["name"], "outcome");
    assert_eq!(boots[0]["counter"]["value"], 0.0);
}

#[test]
fn what_the_cloud_takes_back_and_what_does_not_boot_is_counted_by_type() {
    let metrics = Metrics::new();
    let (instance, instance_type) = ("a".to_owned(), TypeName::from("small"));
    for event in [
        Event::LossAnnounced {
            instance: instance.clone(),
            instance_type: instance_type.clone(),
            at: START,
            containers: 1,
        },
        Event::Interrupted {
            container: id(RUNNING),
            instance,
            instance_type: instance_type.clone(),
            times: 1,
        },
        Event::BootsPaused {
            instance_type,
            image: "image".into(),
            failures: 5,
            until: START,
            why: "no answer".into(),
        },
    ] {
        metrics.observe(START, &event);
    }
    let scrape = of(&metrics);
    for name in ["preemption_notices", "interruptions", "boot_pauses"] {
        let series = format!("longshore_{name}_total{{instance_type=\"small\"}}");
        assert_eq!(scrape.value(&series), 1.0, "{name}");
    }
}
