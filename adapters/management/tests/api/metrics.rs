//! Names, labels, types and values of metrics.

mod gauges;
mod losses;
mod scraping;
mod times;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use longshore_core::view::Totals;
use longshore_management::{AsOf, Metrics};

use crate::support::{TOKEN, settings};
use crate::world::{START, World};

/// Parsed scrape in the text format.
#[derive(Debug, Default)]
struct Scrape {
    types: BTreeMap<String, String>,
    /// Values by name with labels.
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

    /// Value of a peer's metric.
    #[track_caller]
    fn peer(&self, key: &str) -> f64 {
        self.value(&format!("arvados_dispatchcloud_{key}"))
    }
}

fn gather(world: &World) -> Scrape {
    let dated = AsOf {
        at: world.now,
        value: world.core.view().totals(),
    };
    Scrape::read(&world.metrics.gather(&settings(TOKEN), &dated).text())
}

fn of(metrics: &Metrics) -> Scrape {
    let dated = AsOf {
        at: START,
        value: Totals::default(),
    };
    Scrape::read(&metrics.gather(&settings(TOKEN), &dated).text())
}

#[test]
fn metrics_have_type_and_labels() {
    let mut world = World::busy();
    world.run_for(Duration::from_secs(20));
    let dated = AsOf {
        at: world.now,
        value: world.core.view().totals(),
    };
    insta::assert_snapshot!(world.metrics.gather(&settings(TOKEN), &dated).text());
}

#[test]
fn peer_metrics_have_peer_types() {
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
fn labels_start_at_zero() {
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
fn in_flight_kinds_start_at_zero() {
    let shown = |scrape: &Scrape| -> BTreeSet<String> {
        let kinds = scrape.values.keys();
        let kinds = kinds.filter(|key| key.starts_with("longshore_commands_in_flight{"));
        kinds.cloned().collect()
    };
    let idle = shown(&of(&Metrics::new()));
    assert_eq!(idle, shown(&gather(&World::busy())));
    assert_eq!(idle.len(), 10);
}
