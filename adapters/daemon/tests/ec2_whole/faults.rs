//! Refused creates while containers run.

use std::time::Instant;

use longshore_tests::{Container, Setup, until};

use super::Whole;
use super::support::proxy::Effect;

/// Type of two cores, too expensive for one core and too small for four.
const MEDIUM: &str = "InstanceTypes:\n      medium:\n        ProviderType: r5.large\n        \
                      VCPUs: 2\n        RAM: 2GiB\n        IncludedScratch: 20GiB\n        Price: 0.16\n";

fn refuse(code: &str) -> Effect {
    let words = format!("The cloud says {code}.");
    Effect::Refuse(400, code.to_owned(), words)
}

/// Limits creates to one at a time, so that creates arrive in the order of the decisions.
fn serialize_creates(setup: Setup) -> Setup {
    setup
        .set(
            "SyncInterval",
            "1s\n        MaxConcurrentInstanceCreateOps: 1",
        )
        .replace("InstanceTypes:\n", MEDIUM)
}

#[test]
fn refused_creates_block_only_affected_types() {
    let whole = Whole::start(serialize_creates);
    let (api, proxy) = (whole.cluster.api(), &whole.proxy);
    let working = api.submit(&whole.cluster.gated("working"));
    let _ = whole.cluster.until_runs(&working);

    // While this create is blocked, no other create is issued: containers submitted meanwhile are
    // ordered by priority alone.
    let gate = proxy.hold("RunInstances", None);
    let next = api.submit(&whole.cluster.gated("next"));
    until("the create is blocked", || whole.asked().len() == 2);
    let low = api.submit(&Container::sh("true").with("priority", 100));
    let middle = api.submit(&Container::sh("true").vcpus(2).with("priority", 400));
    let high = api.submit(&Container::sh("true").vcpus(4).with("priority", 900));
    until("the dispatcher lists all containers", || {
        let known = whole
            .cluster
            .management()
            .get("/arvados/v1/dispatch/containers");
        [&low, &middle, &high]
            .iter()
            .all(|uuid| known.text.contains(*uuid))
    });
    let begun = Instant::now();
    let calls_before = proxy.all_calls().len();
    for (provider_type, count, code) in [
        ("g4dn.xlarge", 1000, "VcpuLimitExceeded"),
        ("r5.large", 1000, "InsufficientInstanceCapacity"),
        ("m5.large", 1, "RequestLimitExceeded"),
    ] {
        proxy.fault("RunInstances", Some(provider_type), count, refuse(code));
    }
    gate.send(true).expect("the call waits");

    // The cheapest create succeeds after EC2 accepts requests again, and so do later creates.
    api.until_state(&low, "Complete");
    let _ = whole
        .cluster
        .until_instance("an instance is idle again", |i| i["worker_state"] == "idle");
    let later = api.submit(&Container::sh("sleep 5").with("priority", 50));
    api.until_state(&later, "Complete");
    let order = [
        "m5.large",
        "m5.large",
        "g4dn.xlarge",
        "r5.large",
        "m5.large",
        "m5.large",
    ];
    assert_eq!(
        whole.asked(),
        order,
        "by priority; only the rate-limited type is requested again"
    );
    for (uuid, state) in [
        (&working, "Running"),
        (&next, "Running"),
        (&middle, "Queued"),
        (&high, "Queued"),
    ] {
        assert_eq!(api.state(uuid), state, "{uuid}");
    }
    // No tight loop: apart from one list per second there are only a few calls.
    let seconds = usize::try_from(begun.elapsed().as_secs()).expect("not that long") + 1;
    let calls = proxy.all_calls().split_off(calls_before);
    let lists = calls
        .iter()
        .filter(|call| call["Action"] == "DescribeInstances");
    let lists = lists.count();
    assert!(lists <= seconds + 3, "{lists} lists in {seconds} s");
    assert!(calls.len() <= lists + 6, "{calls:#?}");
    // Error code and request ID of EC2, for requests to EC2's support.
    let log = whole.cluster.dispatch_log();
    for words in [
        "VcpuLimitExceeded",
        "InsufficientInstanceCapacity",
        "RequestLimitExceeded",
        "req-of-proxy",
    ] {
        assert!(log.contains(words), "{words}: {log}");
    }
    whole.cluster.open_gate();
    for uuid in [&working, &next] {
        api.until_state(uuid, "Complete");
    }
    drop(whole.cluster);
    drop(whole.runtime);
}
