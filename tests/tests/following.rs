//! What an operator can find out about one container and one VM, from the log and by asking.

use longshore_tests::{Setup, Site, until};

/// The lines of the log that contain a word.
fn about<'a>(log: &'a str, word: &str) -> Vec<&'a str> {
    log.lines().filter(|line| line.contains(word)).collect()
}

/// Each part stands in a line after the line of the part before.
fn tells(lines: &[&str], parts: &[&str]) {
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
fn at_info_the_log_tells_the_life_of_a_container_and_of_its_vm() {
    let site = Site::start_with(Setup::default().set("TimeoutIdle", "1s"));
    let uuid = site.api().submit(&site.gated("x"));
    let vm = site.until_runs(&uuid);
    // The queue knows first: the dispatcher is to see it run, too, before it ends.
    until("the dispatcher sees it run", || {
        site.dispatch_log().contains("Locked -> Running")
    });
    site.open_gate();
    assert_eq!(site.api().exit_code(&uuid), Some(0));
    site.until_gone(&vm);
    let forgotten = format!("{uuid} forgotten");
    until("the container is forgotten", || {
        site.dispatch_log().contains(&forgotten)
    });
    let log = site.dispatch_log();
    tells(
        &about(&log, &uuid),
        &[
            "seen, Queued, priority 500",
            "asked for, first for",
            "Queued -> Locked",
            "starts on",
            "started on",
            "Locked -> Running",
            "Running -> Complete",
            "forgotten, Complete",
        ],
    );
    tells(&about(&log, &uuid), &["runner exited on"]);
    let lines = about(&log, &vm);
    tells(
        &lines,
        &[
            "created, small, intent ",
            " is at 127.0.0.1:",
            "reached after",
            "ready, small",
            "boot outcome: success",
            "starts on",
            "started on",
            "runner exited on",
            "is given back: idle",
            "is destroyed, attempt 1",
            "gone, ",
        ],
    );
    // The wish that it came from has a name of its own.
    let created = lines.iter().find(|line| line.contains(" created, "));
    let intent = created.and_then(|line| line.split("intent ").nth(1)?.split(',').next());
    let wish = about(&log, intent.expect("its name"));
    tells(&wish, &["small asked for, first for", "created, small"]);
}

#[test]
fn explain_tells_why_a_container_waits_and_why_a_vm_stays() {
    let site = Site::start_with(Setup::default().set("MaxInstances", "1"));
    let api = site.api();
    let runs = api.submit(&site.gated("a"));
    let vm = site.until_runs(&runs);
    let waits = api.submit(&site.gated("b"));
    let explain = |id: &str| site.longshore(&["explain", id]).succeeded().stdout;
    let told = "Waiting in queue at position 1: the cluster is at its capacity.";
    until("it waits for room", || explain(&waits).contains(told));
    let text = explain(&waits);
    for part in [
        "position 1 of 1 that wait",
        "small ($0.050000 an hour): MaxInstances is reached",
        "1 have no room",
        "large is not eligible: it costs",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let text = explain(&vm);
    for part in [
        &*format!("created for {runs}"),
        &*format!("{runs} runs, for"),
        "at 127.0.0.1:",
        "it stays while something is on it",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let _ = site.longshore(&["instances", "hold", &vm]).succeeded();
    until("it is held", || {
        explain(&vm).contains("set by an operator")
    });
    let ran = site.longshore(&["explain", "--json", &vm]).succeeded();
    let told: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(told["fate"]["fate"], "held");
    assert_eq!(told["instance"], vm.as_str());

    // What is over is told by the queue; what nobody knows is an error.
    let _ = site.longshore(&["instances", "run", &vm]).succeeded();
    site.open_gate();
    assert_eq!(api.exit_code(&runs), Some(0));
    until("the dispatcher has forgotten it", || {
        explain(&runs).contains("does not follow it")
    });
    assert!(explain(&runs).contains("Complete"), "{}", explain(&runs));
    let unknown = site.longshore(&["explain", "i-nowhere"]);
    assert_eq!(unknown.code(), Some(1));
    assert!(unknown.stderr.contains("i-nowhere"), "{}", unknown.stderr);
    assert_eq!(api.exit_code(&waits), Some(0));
}

#[test]
fn the_management_api_speaks_tls_where_its_url_says_so() {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let tls = "TLS: {Insecure: true, Certificate: 'file://{dir}/cert', Key: 'file://{dir}/key'}";
    let https = Setup::default()
        .replace(
            "\"http://127.0.0.1:{management",
            "\"https://127.0.0.1:{management",
        )
        .replace("    SystemLogs:", &format!("    {tls}\n    SystemLogs:"));
    let mut site = Site::prepare(https.clone());
    site.start_queue();
    // Without the files nothing begins, and what is missing is named.
    let refused = site.longshore(&["dispatch"]);
    assert_eq!(refused.code(), Some(2));
    assert!(
        refused.stderr.contains("TLS.Certificate"),
        "{}",
        refused.stderr
    );
    std::fs::write(site.path("cert"), made.cert.pem()).unwrap();
    std::fs::write(site.path("key"), made.signing_key.serialize_pem()).unwrap();
    let _dispatcher = site.another_dispatcher("dispatch.log");
    until("somebody answers", || {
        site.longshore(&["instances", "list"]).code() == Some(0)
    });
    // Somebody who checks certificates does not trust this one.
    site.configure(https.replace("Insecure: true", "Insecure: false"));
    let doubtful = site.longshore(&["instances", "list"]);
    assert_eq!(doubtful.code(), Some(1));
    assert!(
        doubtful.stderr.contains("certificate"),
        "{}",
        doubtful.stderr
    );
}
