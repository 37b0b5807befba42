//! Metrics read by monitoring systems.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};

use longshore_tests::{Setup, TestCluster, until};

const PREFIX: &str = "arvados_dispatchcloud_";

/// State after three containers on three VMs, with a fourth container running.
const EXACT: &[(&str, f64)] = &[
    ("containers_running", 1.0),
    ("containers_allocated_not_started", 0.0),
    ("containers_not_allocated_over_quota", 0.0),
    ("containers_longest_wait_time_seconds", 0.0),
    (
        "containers_time_from_queue_to_crunch_run_seconds_count",
        4.0,
    ),
    (
        "queue_entries{instance_type=\"small\",state=\"Running\"}",
        1.0,
    ),
    (
        "instances_total{category=\"inuse\",instance_type=\"small\"}",
        1.0,
    ),
    (
        "instances_total{category=\"idle\",instance_type=\"small\"}",
        2.0,
    ),
    (
        "instances_total{category=\"booting\",instance_type=\"small\"}",
        0.0,
    ),
    (
        "instances_total{category=\"hold\",instance_type=\"large\"}",
        0.0,
    ),
    ("instances_price{category=\"inuse\"}", 0.05),
    ("vcpus_total{category=\"inuse\"}", 1.0),
    (
        "memory_bytes_total{category=\"inuse\"}",
        1024.0 * 1024.0 * 1024.0,
    ),
    ("boot_outcomes{outcome=\"success\"}", 3.0),
    ("boot_outcomes{outcome=\"failure\"}", 0.0),
    ("boot_outcomes{outcome=\"aborted\"}", 0.0),
    ("boot_outcomes{outcome=\"disappeared\"}", 0.0),
    ("instances_time_to_ssh_seconds_count", 3.0),
    ("instances_time_to_ready_for_container_seconds_count", 3.0),
    (
        "instances_time_from_shutdown_request_to_disappearance_seconds_count",
        0.0,
    ),
    ("driver_operations{error=\"0\",operation=\"Create\"}", 3.0),
    ("driver_operations{error=\"1\",operation=\"Create\"}", 0.0),
    ("driver_operations{error=\"0\",operation=\"Destroy\"}", 0.0),
    ("at_quota", 0.0),
    ("last_503_time", 0.0),
];

/// Minimum and maximum.
const PLAUSIBLE: &[(&str, f64, f64)] = &[
    (
        "driver_operations{error=\"0\",operation=\"List\"}",
        1.0,
        1000.0,
    ),
    (
        "containers_time_from_queue_to_crunch_run_seconds_sum",
        0.001,
        240.0,
    ),
    ("instances_time_to_ssh_seconds_sum", 0.2, 180.0),
    ("probe_age_seconds_max", 0.0, 60.0),
    ("probe_age_seconds_median", 0.0, 60.0),
    (
        "instances_run_probe_duration_seconds_count{outcome=\"success\"}",
        1.0,
        10_000.0,
    ),
];

/// Metrics of Longshore's own, with full names.
const OWN_EXACT: &[(&str, f64)] = &[
    (
        "longshore_containers{instance_type=\"small\",state=\"Running\"}",
        1.0,
    ),
    (
        "longshore_instances_price{category=\"inuse\",instance_type=\"small\"}",
        0.05,
    ),
    (
        "longshore_instances_price{category=\"idle\",instance_type=\"small\"}",
        0.1,
    ),
    ("longshore_queued_to_started_seconds_count", 4.0),
    ("longshore_dispatch_latency_seconds_count", 4.0),
    (
        "longshore_boot_outcomes_total{instance_type=\"small\",outcome=\"success\"}",
        3.0,
    ),
];

const OWN_PLAUSIBLE: &[(&str, f64, f64)] = &[
    ("longshore_placement_pass_seconds_count", 4.0, 100_000.0),
    ("longshore_placement_pass_seconds_sum", 1e-6, 60.0),
    ("longshore_queued_to_started_seconds_sum", 0.2, 240.0),
    (
        "longshore_probes_total{instance_type=\"small\",outcome=\"success\"}",
        3.0,
        10_000.0,
    ),
    // Cost of three VMs for a few minutes at most, with a budget of ten dollars.
    (
        "longshore_budget_spent{window_seconds=\"86400\"}",
        1e-6,
        0.1,
    ),
    (
        "longshore_budget_left{window_seconds=\"86400\"}",
        9.9,
        10.0 - 1e-6,
    ),
];

/// Value of a series, by the exact text before the value; `None` if missing.
fn value(text: &str, series: &str) -> Option<f64> {
    let line = text.lines().find(|line| {
        let rest = line.strip_prefix(series);
        rest.is_some_and(|rest| rest.starts_with(' '))
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Asserts exact values, and values within ranges.
#[track_caller]
fn check(text: &str, prefix: &str, exact: &[(&str, f64)], plausible: &[(&str, f64, f64)]) {
    let get = |series: &str| {
        let found = value(text, &format!("{prefix}{series}"));
        found.unwrap_or_else(|| panic!("{series} is not in\n{text}"))
    };
    for (series, expected) in exact {
        let value = get(series);
        // Prices are sums of floating-point numbers.
        assert!(
            (value - expected).abs() < 1e-9,
            "{series}: {value} in\n{text}"
        );
    }
    for (series, least, most) in plausible {
        let value = get(series);
        assert!((*least..=*most).contains(&value), "{series}: {value}");
    }
}

#[test]
fn metrics_have_plausible_values() {
    let cluster = TestCluster::start_with(Setup::default().replace(
        "MaxInstances: 8\n        MaxRunning",
        "MaxInstances: 8\n        Budgets: [{Window: 24h, Limit: 10}]\n        MaxRunning",
    ));
    let api = cluster.api();
    let words = ["a", "b", "c"];
    let done = words.map(|word| api.submit(&cluster.gated(word)));
    for uuid in &done {
        let _ = cluster.until_runs(uuid);
    }
    cluster.open_gate();
    for uuid in &done {
        assert_eq!(api.exit_code(uuid), Some(0));
    }
    std::fs::remove_file(cluster.path("gate")).unwrap();
    for id in cluster.instance_ids() {
        cluster.until_idle(&id);
    }
    let running = api.submit(&cluster.gated("running"));
    until("the dispatcher lists the container as running", || {
        let text = cluster.management().get("/metrics").ok().text;
        let entries = "queue_entries{instance_type=\"small\",state=\"Running\"}";
        value(&text, &format!("{PREFIX}{entries}")) == Some(1.0)
    });

    assert_eq!(cluster.instance_ids().len(), 3);
    let text = cluster.management().get("/metrics").ok().text;
    check(&text, PREFIX, EXACT, PLAUSIBLE);
    check(&text, "", OWN_EXACT, OWN_PLAUSIBLE);
    let config = std::fs::read(cluster.config()).unwrap();
    let sum = longshore_tests::run_with_input(
        std::process::Command::new("sha256sum").arg("-"),
        &String::from_utf8(config).unwrap(),
    );
    let sum = sum.text().split(' ').next().unwrap().to_owned();
    let loaded = format!("arvados_config_load_timestamp_seconds{{sha256=\"{sum}\"}}");
    assert!(
        value(&text, &loaded).is_some_and(|at| at > 1.7e9),
        "{loaded}"
    );
    assert!(text.contains("arvados_version_running{version="), "{text}");
    let calls =
        "longshore_cloud_call_duration_seconds_count{operation=\"Create\",outcome=\"done\"}";
    assert_eq!(value(&text, calls), Some(3.0), "{text}");
    cluster.open_gate();
    assert_eq!(api.exit_code(&running), Some(0));
}

#[test]
fn killed_vm_counts_as_disappeared() {
    let cluster = TestCluster::start();
    let uuid = cluster.api().submit(&cluster.gated("x"));
    let instance = cluster.until_runs(&uuid);
    cluster.kill_vm(&instance);
    cluster.until_gone(&instance);
    let text = cluster.management().get("/metrics").ok().text;
    let lost = text
        .lines()
        .filter(|l| l.starts_with("arvados_dispatchcloud_instances_disappeared"));
    let lost: f64 = lost
        .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    assert_eq!(lost, 1.0, "{text}");
    let by_type =
        "longshore_unexpected_disappearances_total{instance_type=\"small\",state=\"running\"}";
    assert_eq!(value(&text, by_type), Some(1.0), "{text}");
}

/// Reads one request and responds 503.
fn refuse(mut stream: TcpStream) -> std::io::Result<()> {
    let lines = BufReader::new(stream.try_clone()?).lines();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let answer =
        "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    stream.write_all(answer.as_bytes())
}

#[test]
fn queue_overload_limits_concurrency() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let queue = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // The client may have closed the connection.
            let _ = refuse(stream);
        }
    });
    let mut cluster =
        TestCluster::prepare(Setup::default().replace("http://127.0.0.1:{queue_port}/", &queue));
    cluster.start_dispatcher();
    let get = |series: &str| {
        let text = cluster.management().get("/metrics").ok().text;
        value(&text, &format!("{PREFIX}{series}"))
    };
    until("the time of the 503 is set", || {
        get("last_503_time").is_some_and(|at| at > 1.7e9)
    });
    until("the limit is one, since no container runs", || {
        get("max_concurrent_containers") == Some(1.0)
    });
}

#[test]
fn metrics_require_token() {
    let cluster = TestCluster::start();
    for path in [
        "/metrics",
        "/metrics.json",
        "/arvados/v1/dispatch/instances",
    ] {
        assert_eq!(
            cluster.management().with_token("").get(path).status,
            401,
            "{path}"
        );
        assert_eq!(
            cluster.management().with_token("x").get(path).status,
            403,
            "{path}"
        );
    }
    let families = cluster.management().get("/metrics.json").ok().json();
    let names: Vec<&str> = families
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|family| family["name"].as_str())
        .collect();
    assert!(
        names.contains(&"arvados_dispatchcloud_instances_total"),
        "{names:?}"
    );
    let health = cluster.management().get("/_health/ping").ok().json();
    assert_eq!(health["health"], "OK");
}
