//! Scrapes, and metrics of the service.

use std::collections::BTreeMap;
use std::time::Duration;

use longshore_management::Metrics;
use serde_json::Value;

use super::{Scrape, of};
use crate::support::Api;
use crate::world::{START, World};

#[tokio::test]
async fn scrape_over_http_has_service_metrics() {
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
async fn json_has_same_families_as_text() {
    let api = Api::new(World::busy()).await;
    let text = Scrape::read(&api.get("/metrics").await.text);
    let json = api.get("/metrics.json").await.json();
    let families = json.as_array().expect("a list");
    let types = |family: &Value| {
        let text = |key: &str| family[key].as_str().expect("text").to_owned();
        (text("name"), text("type").to_lowercase())
    };
    let mut shown: BTreeMap<_, _> = families.iter().map(types).collect();
    // Present from the first answered request on.
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
fn last_queue_overload_time_is_kept() {
    let metrics = Metrics::new();
    metrics.set_last_503(START);
    metrics.set_last_503(START - Duration::from_secs(9));
    assert_eq!(of(&metrics).peer("last_503_time"), 1_786_060_800.0);
}
