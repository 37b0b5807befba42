//! Tracing of a container and a VM by the log and by `explain`.

use longshore_tests::{Setup, TestCluster, until};

/// Lines of the log that contain a word.
fn lines_with<'a>(log: &'a str, word: &str) -> Vec<&'a str> {
    log.lines().filter(|line| line.contains(word)).collect()
}

/// Asserts that the parts occur in different lines in this order.
fn assert_in_order(lines: &[&str], parts: &[&str]) {
    let mut rest = lines.iter();
    for part in parts {
        assert!(
            rest.any(|line| line.contains(part)),
            "{part:?} is missing, or out of order, in\n{}",
            lines.join("\n")
        );
    }
}

#[test]
fn info_log_traces_container_and_vm() {
    let cluster = TestCluster::start_with(Setup::default().set("TimeoutIdle", "1s"));
    let uuid = cluster.api().submit(&cluster.gated("x"));
    let vm = cluster.until_runs(&uuid);
    // Queue updates reach the dispatcher later; the container must not end before.
    until("the dispatcher lists the container as running", || {
        cluster.dispatch_log().contains("Locked -> Running")
    });
    cluster.open_gate();
    assert_eq!(cluster.api().exit_code(&uuid), Some(0));
    cluster.until_gone(&vm);
    let forgotten = format!("{uuid} final");
    until("the container is forgotten", || {
        cluster.dispatch_log().contains(&forgotten)
    });
    let log = cluster.dispatch_log();
    assert_in_order(
        &lines_with(&log, &uuid),
        &[
            "seen, Queued, priority 500",
            "first container",
            "Queued -> Locked",
            "starts on",
            "started on",
            "Locked -> Running",
            "Running -> Complete",
            "final, Complete",
        ],
    );
    assert_in_order(&lines_with(&log, &uuid), &["runner exited on"]);
    let lines = lines_with(&log, &vm);
    assert_in_order(
        &lines,
        &[
            "created, small, create request ",
            " address 127.0.0.1:",
            "first reached",
            "ready, small",
            "boot outcome: success",
            "starts on",
            "started on",
            "runner exited on",
            "terminating: idle",
            "destroy call sent, attempt 1",
            "gone, ",
        ],
    );
    // The create request is logged under an intent ID.
    let created = lines.iter().find(|line| line.contains(" created, "));
    let intent = created.and_then(|line| line.split("create request ").nth(1)?.split(',').next());
    let request = lines_with(&log, intent.expect("an intent ID"));
    assert_in_order(&request, &["small, first container", "created, small"]);
}

#[test]
fn explain_names_reasons_for_wait_and_instance() {
    let cluster = TestCluster::start_with(Setup::default().set("MaxInstances", "1"));
    let api = cluster.api();
    let runs = api.submit(&cluster.gated("a"));
    let vm = cluster.until_runs(&runs);
    let waits = api.submit(&cluster.gated("b"));
    let explain = |id: &str| cluster.longshore(&["explain", id]).succeeded().stdout;
    let status = "Waiting in queue at position 1: the cluster is at its capacity.";
    until("the container waits for capacity", || {
        explain(&waits).contains(status)
    });
    let text = explain(&waits);
    for part in [
        "position 1 of 1 waiting",
        "small ($0.050000 an hour): MaxInstances is reached",
        "1 full",
        "large is not eligible: it costs",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let text = explain(&vm);
    for part in [
        &*format!("created for {runs}"),
        &*format!("{runs} runs, for"),
        "at 127.0.0.1:",
        "kept while containers are assigned or running",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let _ = cluster.longshore(&["instances", "hold", &vm]).succeeded();
    until("the instance is held", || {
        explain(&vm).contains("set by an operator")
    });
    let output = cluster.longshore(&["explain", "--json", &vm]).succeeded();
    let explanation: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(explanation["termination"]["plan"], "held");
    assert_eq!(explanation["instance"], vm.as_str());

    // The queue explains ended containers; an unknown ID is an error.
    let _ = cluster.longshore(&["instances", "run", &vm]).succeeded();
    cluster.open_gate();
    assert_eq!(api.exit_code(&runs), Some(0));
    until("the dispatcher has forgotten the container", || {
        explain(&runs).contains("not tracked by the dispatcher")
    });
    assert!(explain(&runs).contains("Complete"), "{}", explain(&runs));
    let unknown = cluster.longshore(&["explain", "i-nowhere"]);
    assert_eq!(unknown.code(), Some(1));
    assert!(unknown.stderr.contains("i-nowhere"), "{}", unknown.stderr);
    assert_eq!(api.exit_code(&waits), Some(0));
}

#[test]
fn management_api_serves_tls_if_configured() {
    let certificate = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let tls = "TLS: {Insecure: true, Certificate: 'file://{dir}/cert', Key: 'file://{dir}/key'}";
    let https = Setup::default()
        .replace(
            "\"http://127.0.0.1:{management",
            "\"https://127.0.0.1:{management",
        )
        .replace("    SystemLogs:", &format!("    {tls}\n    SystemLogs:"));
    let mut cluster = TestCluster::prepare(https.clone());
    cluster.start_queue();
    // Without certificate files the dispatcher does not start, and the error names the missing key.
    let refused = cluster.longshore(&["dispatch"]);
    assert_eq!(refused.code(), Some(2));
    assert!(
        refused.stderr.contains("TLS.Certificate"),
        "{}",
        refused.stderr
    );
    std::fs::write(cluster.path("cert"), certificate.cert.pem()).unwrap();
    std::fs::write(cluster.path("key"), certificate.signing_key.serialize_pem()).unwrap();
    let _dispatcher = cluster.another_dispatcher("dispatch.log");
    until("the management API responds", || {
        cluster.longshore(&["instances", "list"]).code() == Some(0)
    });
    // A client that verifies certificates refuses the self-signed certificate.
    cluster.configure(https.replace("Insecure: true", "Insecure: false"));
    let untrusted = cluster.longshore(&["instances", "list"]);
    assert_eq!(untrusted.code(), Some(1));
    assert!(
        untrusted.stderr.contains("certificate"),
        "{}",
        untrusted.stderr
    );
}
