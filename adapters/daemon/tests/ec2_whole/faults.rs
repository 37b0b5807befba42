//! Refusals in the middle of work.

use std::time::Instant;

use longshore_tests::{Container, Setup, until};

use super::Whole;
use super::support::proxy::Effect;

/// A type of two cores, too dear for one and too small for four.
const MEDIUM: &str = "InstanceTypes:\n      medium:\n        ProviderType: r5.large\n        \
                      VCPUs: 2\n        RAM: 2GiB\n        IncludedScratch: 20GiB\n        Price: 0.16\n";

fn refuse(code: &str) -> Effect {
    let words = format!("The cloud says {code}.");
    Effect::Refuse(400, code.to_owned(), words)
}

/// One create at a time, so that they arrive in the order in which they were decided.
fn one_by_one(setup: Setup) -> Setup {
    setup
        .set(
            "SyncInterval",
            "1s\n        MaxConcurrentInstanceCreateOps: 1",
        )
        .replace("InstanceTypes:\n", MEDIUM)
}

#[test]
fn refusals_in_mid_run_stop_only_what_they_are_about_and_are_not_hammered() {
    let whole = Whole::start(one_by_one);
    let (api, proxy) = (whole.site.api(), &whole.proxy);
    let working = api.submit(&whole.site.gated("working"));
    let _ = whole.site.until_runs(&working);

    // While this create is held, nothing else can be asked for: what is submitted meanwhile is
    // ordered by nothing but its priority.
    let gate = proxy.hold("RunInstances", None);
    let next = api.submit(&whole.site.gated("next"));
    until("its create is held", || whole.asked().len() == 2);
    let low = api.submit(&Container::sh("true").with("priority", 100));
    let middle = api.submit(&Container::sh("true").vcpus(2).with("priority", 400));
    let high = api.submit(&Container::sh("true").vcpus(4).with("priority", 900));
    until("the dispatcher knows of all", || {
        let known = whole
            .site
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

    // The cheapest one comes through, after EC2 listens again; so does what comes after it.
    api.until_state(&low, "Complete");
    let _ = whole
        .site
        .until_instance("one is free again", |i| i["worker_state"] == "idle");
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
        "by priority; only what was told to come later comes again"
    );
    for (uuid, state) in [
        (&working, "Running"),
        (&next, "Running"),
        (&middle, "Queued"),
        (&high, "Queued"),
    ] {
        assert_eq!(api.state(uuid), state, "{uuid}");
    }
    // Nothing tight-loops: beside a list each second there is next to nothing.
    let seconds = usize::try_from(begun.elapsed().as_secs()).expect("not that long") + 1;
    let calls = proxy.all_calls().split_off(calls_before);
    let lists = calls
        .iter()
        .filter(|call| call["Action"] == "DescribeInstances");
    let lists = lists.count();
    assert!(lists <= seconds + 3, "{lists} lists in {seconds} s");
    assert!(calls.len() <= lists + 6, "{calls:#?}");
    // EC2's words and its name for the call, for whoever asks its support.
    let log = whole.site.dispatch_log();
    for words in [
        "VcpuLimitExceeded",
        "InsufficientInstanceCapacity",
        "RequestLimitExceeded",
        "req-of-proxy",
    ] {
        assert!(log.contains(words), "{words}: {log}");
    }
    whole.site.open_gate();
    for uuid in [&working, &next] {
        api.until_state(uuid, "Complete");
    }
    drop(whole.site);
    drop(whole.runtime);
}
