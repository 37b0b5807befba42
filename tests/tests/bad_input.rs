//! Whatever is wrong is said so that its owner can put it right.

use std::net::TcpListener;

use longshore_tests::{Api, Container, Ran, Setup, Site, run, run_with_input};
use serde_json::{Value, json};

const CONTAINERS: &str = "/arvados/v1/containers";

/// Refused as the caller's mistake, with all of these words.
fn assert_refused(what: &str, ran: &Ran, words: &[&str]) {
    assert!(!ran.stderr.contains("panicked"), "{what}: {}", ran.stderr);
    for word in words {
        assert!(
            ran.stderr.contains(word),
            "{what}: {word:?} is not in: {}",
            ran.stderr
        );
    }
    assert_eq!(ran.code(), Some(2), "{what}: {ran:?}");
}

type WrongSetup = (&'static str, Setup, &'static [&'static str]);

/// What is wrong, the configuration, and what has to be said.
fn wrong_parts() -> [WrongSetup; 10] {
    let change = |from: &str, to: &str| Setup::default().replace(from, to);
    let set = |key: &str, value: &str| Setup::default().set(key, value);
    [
        (
            "no YAML",
            change("Clusters:", "Clusters: ["),
            &["config.yml", "not valid YAML", "line"],
        ),
        (
            "no cluster",
            change("Clusters:", "Klusters:"),
            &["Clusters", "expected one cluster"],
        ),
        (
            "cluster id",
            change("  tests:", "  TESTS:"),
            &["Clusters.TESTS", "five characters"],
        ),
        (
            "key file",
            set("DispatchPrivateKey", "file:///no/such/key"),
            &["DispatchPrivateKey", "/no/such/key"],
        ),
        (
            "no key",
            set("DispatchPrivateKey", "nonsense"),
            &["DispatchPrivateKey", "expected"],
        ),
        (
            "unknown driver",
            set("Driver", "gce"),
            &["CloudVMs.Driver", "gce", "loopback"],
        ),
        (
            "driver not built in",
            set("Driver", "ec2"),
            &["CloudVMs.Driver", "ec2", "not in this build"],
        ),
        (
            "an engine that the runner does not have",
            set("RuntimeEngine", "docker"),
            &[
                "Containers.RuntimeEngine",
                "docker",
                "expected \"process\"",
                "DeployRunnerBinary",
            ],
        ),
        (
            "driver's key",
            change("BootDelay:", "BootDelai:"),
            &["DriverParameters.BootDelai", "expected one of"],
        ),
        (
            "driver's value",
            set("BootDelay", "soon"),
            &["DriverParameters.BootDelay", "expected a duration", "soon"],
        ),
    ]
}

fn wrong_values() -> [WrongSetup; 6] {
    let change = |from: &str, to: &str| Setup::default().replace(from, to);
    let set = |key: &str, value: &str| Setup::default().set(key, value);
    [
        (
            "duration",
            set("TimeoutIdle", "soon"),
            &["CloudVMs.TimeoutIdle", "soon", "expected"],
        ),
        (
            "count",
            set("MaxInstances", "many"),
            &["CloudVMs.MaxInstances", "many", "expected"],
        ),
        (
            "size",
            change("RAM: 1GiB", "RAM: 1Gib"),
            &["InstanceTypes.small.RAM", "1Gib", "expected"],
        ),
        (
            "key twice",
            change(
                "TimeoutIdle: 60s",
                "TimeoutIdle: 60s\n        TimeoutIdle: 5s",
            ),
            &["TimeoutIdle", "given twice"],
        ),
        (
            "level",
            set("LogLevel", "loud"),
            &["SystemLogs.LogLevel", "loud", "expected"],
        ),
        (
            "no address",
            change("\"http://127.0.0.1:{management_port}\": {}", "{}"),
            &["DispatchCloud.InternalURLs", "expected"],
        ),
    ]
}

#[test]
fn a_wrong_configuration_is_refused_with_the_place_and_what_was_expected() {
    let site = Site::prepare(Setup::default());
    for (what, setup, words) in wrong_parts().into_iter().chain(wrong_values()) {
        println!("{what}");
        site.configure(setup);
        assert_refused(what, &site.longshore(&["dispatch"]), words);
    }
}

#[test]
fn no_secret_is_shown_when_it_is_wrong() {
    let site = Site::prepare(Setup::default().set("SystemRootToken", "[very, secret, words]"));
    let ran = site.longshore(&["dispatch"]);
    assert_refused("token", &ran, &["SystemRootToken", "expected"]);
    assert!(!ran.stderr.contains("secret"), "{}", ran.stderr);
}

#[test]
fn files_that_are_missing_or_cannot_be_used_are_named() {
    let site = Site::prepare(Setup::default());
    let path = "/no/such/config.yml";
    let cases: [&[&str]; 4] = [
        &["queue", "--config", path],
        &["dispatch", "--config", path],
        &["ps", "--config", path],
        &["instances", "--config", path, "list"],
    ];
    for args in cases {
        let ran = site.longshore(args);
        assert_refused(args[0], &ran, &[path, "cannot be read"]);
        assert_eq!(ran.stderr.matches(path).count(), 1, "{}", ran.stderr);
    }
    let ran = run_with_input(
        &mut site.command(&["dispatch", "--config", "-"]),
        "Clusters: 5\n",
    );
    assert_refused("standard input", &ran, &["Clusters", "expected"]);
    site.configure(Setup::default().replace(
        "      Queue:\n        Database: {dir}/queue.db\n",
        "      Queue: {}\n",
    ));
    assert_refused(
        "no database",
        &site.longshore(&["queue"]),
        &["Longshore.Queue.Database"],
    );

    // These are tried and do not work: it is not the text that is wrong.
    site.configure(Setup::default().set("Database", "/no/such/dir/queue.db"));
    for args in [&["queue"][..], &["token", "list"]] {
        let ran = site.longshore(args);
        assert!(matches!(ran.code(), Some(1 | 2)), "{ran:?}");
        assert!(
            ran.stderr.contains("/no/such/dir/queue.db"),
            "{}",
            ran.stderr
        );
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    }
    site.configure(Setup::default());
    let ran = site.longshore(&["dispatch", "--state-dir", "/proc/no"]);
    assert!(matches!(ran.code(), Some(1 | 2)), "{ran:?}");
    assert!(ran.stderr.contains("/proc/no"), "{}", ran.stderr);
    let ran = site.longshore(&["dispatch", "--journal", "/proc/no"]);
    assert!(matches!(ran.code(), Some(1 | 2)), "{ran:?}");
    assert!(ran.stderr.contains("/proc/no"), "{}", ran.stderr);
}

#[test]
fn a_port_that_somebody_else_uses_is_named() {
    let site = Site::prepare(Setup::default());
    for (command, port, key) in [
        ("queue", site.queue_port(), "Longshore.Queue.Listen"),
        (
            "dispatch",
            site.management_port(),
            "Services.DispatchCloud.InternalURLs",
        ),
    ] {
        let _somebody = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let ran = site.longshore(&[command]);
        assert_refused(command, &ran, &[&format!("127.0.0.1:{port}"), key]);
    }
}

#[test]
fn an_unknown_key_is_warned_of_with_the_nearest_name_and_the_site_works() {
    let setup = Setup::default().replace(
        "TimeoutIdle: 60s",
        "TimeoutIdle: 60s\n        TimeoutIdel: 5s",
    );
    let site = Site::start_with(setup);
    let log = site.dispatch_log();
    let warning = log.lines().find(|line| line.contains("TimeoutIdel"));
    let warning = warning.unwrap_or_else(|| panic!("no warning in {log}"));
    assert!(
        warning.contains("warning") && warning.contains("TimeoutIdle"),
        "{warning}"
    );
    let uuid = site.api().submit(&Container::sh("echo works"));
    assert_eq!(site.api().exit_code(&uuid), Some(0));
}

#[test]
fn a_wrong_command_line_is_refused_with_what_was_expected() {
    let site = Site::prepare(Setup::default());
    let cases: [(&[&str], &[&str]); 17] = [
        (&[], &["Usage"]),
        (&["frobnicate"], &["frobnicate"]),
        (&["dispach"], &["dispach", "dispatch"]),
        (&["queue", "--colour"], &["--colour"]),
        (
            &["submit", "--ram", "1XB", "--", "true"],
            &["--ram", "1XB", "MiB"],
        ),
        (
            &["submit", "--ram", "lots", "--", "true"],
            &["--ram", "lots"],
        ),
        (&["submit", "--ram=-1", "--", "true"], &["--ram", "-1"]),
        (
            &["submit", "--scratch", "1.5GB", "--", "true"],
            &["--scratch", "1.5GB", "whole number"],
        ),
        (&["submit", "--vcpus=-1", "--", "true"], &["--vcpus", "-1"]),
        (
            &["submit", "--vcpus", "many", "--", "true"],
            &["--vcpus", "many"],
        ),
        (
            &["submit", "--priority", "0", "--", "true"],
            &["--priority", "0"],
        ),
        (
            &["submit", "--env", "NAME", "--", "true"],
            &["--env", "NAME=VALUE"],
        ),
        (&["submit"], &["COMMAND"]),
        (&["demo", "--containers", "3"], &["--containers", "3"]),
        (
            &["init", "--cluster-id", "LOCAL"],
            &["--cluster-id", "LOCAL", "five characters"],
        ),
        (
            &["init", "--queue-port", "70000"],
            &["--queue-port", "70000"],
        ),
        (
            &["token", "create", "--role", "king", "eve"],
            &["king", "admin"],
        ),
    ];
    for (args, words) in cases {
        let ran = site.longshore(args);
        assert_refused(&format!("{args:?}"), &ran, words);
        assert!(ran.stdout.is_empty(), "{args:?}: {}", ran.stdout);
    }
}

#[test]
fn a_server_that_is_not_there_or_refuses_is_told_in_words() {
    let mut site = Site::prepare(Setup::default());
    for args in [
        &["ps"][..],
        &["instances", "list"],
        &["submit", "--", "true"],
    ] {
        let ran = site.longshore(args);
        assert_eq!(ran.code(), Some(1), "{ran:?}");
        assert!(ran.stderr.contains("does not answer"), "{}", ran.stderr);
        assert!(ran.stderr.contains("http://127.0.0.1:"), "{}", ran.stderr);
    }
    site.start_queue();
    let wrong = run(site
        .command(&["ps"])
        .env("ARVADOS_API_TOKEN", "wrong-token"));
    assert_eq!(wrong.code(), Some(1), "{wrong:?}");
    assert!(wrong.stderr.contains("401"), "{}", wrong.stderr);
    assert!(!wrong.stderr.contains("wrong-token"), "{}", wrong.stderr);
    let unknown = site.longshore(&["logs", "tests-dz642-000000000000000"]);
    assert_eq!(unknown.code(), Some(1), "{unknown:?}");
    assert!(
        unknown.stderr.contains("tests-dz642-000000000000000"),
        "{}",
        unknown.stderr
    );
    let large = site.longshore(&[
        "submit",
        "--priority",
        "1",
        "--vcpus",
        "0",
        "--ram",
        "4194304TiB",
        "--",
        "true",
    ]);
    assert_eq!(large.code(), Some(1), "{large:?}");
    assert!(
        large.stderr.contains("runtime_constraints.ram"),
        "{}",
        large.stderr
    );
}

/// A good record with one thing changed.
fn record(pointer: &str, value: impl Into<Value>) -> Value {
    let mut body = Container::sh("true").body();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    body.pointer_mut(parent).unwrap()[name] = value.into();
    body
}

/// What is submitted, the status of the answer, and what it has to name.
fn wrong_records() -> Vec<(Value, u16, &'static str)> {
    let long = "x".repeat(5 << 20);
    vec![
        (record("/container/priority", -1), 422, "container.priority"),
        (
            record("/container/priority", "high"),
            422,
            "container.priority",
        ),
        (
            record("/container/priority", 1.5),
            422,
            "container.priority",
        ),
        (
            record("/container/command", json!([])),
            422,
            "container.command",
        ),
        (
            record("/container/command", "true"),
            422,
            "container.command",
        ),
        (
            record("/container/command", json!([1])),
            422,
            "container.command[0]",
        ),
        (
            record("/container/command", json!(["a\u{0}b"])),
            422,
            "container.command[0]",
        ),
        (
            record("/container/runtime_constraints", Value::Null),
            422,
            "container.runtime_constraints",
        ),
        (
            record("/container/runtime_constraints/vcpus", -1),
            422,
            "runtime_constraints.vcpus",
        ),
        (
            record("/container/runtime_constraints/ram", 0),
            422,
            "runtime_constraints.ram",
        ),
        (
            record("/container/runtime_constraints/cores", 1),
            422,
            "runtime_constraints.cores",
        ),
        (
            json!({ "container": { "command": ["true"],
                "runtime_constraints": { "vcpus": 0, "ram": i64::MAX } } }),
            422,
            "runtime_constraints.ram",
        ),
        (
            record("/container/environment", json!({ "A=B": "x" })),
            422,
            "container.environment",
        ),
        (
            record("/container/mounts", json!({ "tmp": {} })),
            422,
            "container.mounts",
        ),
        (
            record("/container/state", "Running"),
            422,
            "container.state",
        ),
        (record("/container/colour", "red"), 422, "container.colour"),
        (json!({ "container": [] }), 422, "container"),
        (json!({}), 422, "container"),
        (record("/container/name", long), 413, "bytes"),
    ]
}

#[test]
fn a_wrong_container_is_refused_with_the_path_of_what_is_wrong() {
    let mut site = Site::prepare(Setup::default());
    site.start_queue();
    let api = site.api();
    for (body, status, part) in wrong_records() {
        let answer = api.json("POST", CONTAINERS, &body);
        let shown: String = body.to_string().chars().take(200).collect();
        assert_eq!(answer.status, status, "{shown}: {}", answer.text);
        let errors = answer.json()["errors"].as_array().cloned();
        let errors = errors.unwrap_or_else(|| panic!("{shown}: {}", answer.text));
        let error = errors[0].as_str().unwrap();
        assert!(error.contains(part), "{shown}: {part} is not in {error}");
    }
    let all = api.get(CONTAINERS).ok().json();
    assert_eq!(all["items"].as_array().map(Vec::len), Some(0), "{all:#}");
    assert!(!site.read("queue.log").contains("panicked"));
}

#[test]
fn a_request_that_makes_no_sense_is_refused_with_the_right_status() {
    let mut site = Site::prepare(Setup::default());
    site.start_queue();
    let api = site.api();
    let send = |api: &Api, method: &str, path: &str, kind: &str, body: &str| {
        let answer = api.send(method, path, kind, body).unwrap();
        let errors = answer.json()["errors"].as_array().map_or(0, Vec::len);
        assert!(errors > 0, "{method} {path}: {}", answer.text);
        answer.status
    };
    let json = "application/json";
    let unknown = format!("{CONTAINERS}/tests-dz642-000000000000000");
    for (method, path, kind, body, status) in [
        ("POST", CONTAINERS, json, "{", 400),
        ("POST", CONTAINERS, json, "[1]", 400),
        ("POST", CONTAINERS, json, "\u{0}", 400),
        ("POST", CONTAINERS, "text/plain", "x", 415),
        ("GET", "/arvados/v1/collections", "", "", 404),
        ("GET", "/", "", "", 404),
        ("DELETE", CONTAINERS, "", "", 405),
        ("GET", &unknown, "", "", 404),
        (
            "PUT",
            &unknown,
            json,
            "{\"container\":{\"priority\":1}}",
            404,
        ),
        ("POST", &format!("{unknown}/lock"), "", "", 404),
        ("GET", &format!("{CONTAINERS}/nonsense"), "", "", 404),
        ("GET", &format!("{CONTAINERS}?limit=-1"), "", "", 422),
        ("GET", &format!("{CONTAINERS}?filters=%5B"), "", "", 422),
        (
            "GET",
            &format!("{CONTAINERS}?filters=%5B%5B%22colour%22,%22=%22,1%5D%5D"),
            "",
            "",
            422,
        ),
        ("GET", &format!("{CONTAINERS}?order=colour"), "", "", 422),
    ] {
        assert_eq!(
            send(&api, method, path, kind, body),
            status,
            "{method} {path} {body}"
        );
    }
    for token in ["", "wrong", "v2/tests-gj3su-000000000000000/wrong"] {
        let stranger = api.with_token(token);
        assert_eq!(send(&stranger, "GET", CONTAINERS, "", ""), 401, "{token:?}");
    }
    let uuid = api.submit(&Container::sh("true"));
    let path = format!("{CONTAINERS}/{uuid}");
    for (change, part) in [
        (json!({ "state": "Complete" }), "state"),
        (json!({ "state": "Sleeping" }), "state"),
        (json!({ "priority": -5 }), "priority"),
        (json!({ "command": ["other"] }), "command"),
        (json!({ "uuid": "tests-dz642-000000000000000" }), "uuid"),
    ] {
        let answer = api.json("PUT", &path, &json!({ "container": change }));
        assert!(
            matches!(answer.status, 403 | 422),
            "{change}: {}",
            answer.text
        );
        assert!(answer.text.contains(part), "{change}: {}", answer.text);
    }
    assert_eq!(api.state(&uuid), "Queued");
    assert!(!site.read("queue.log").contains("panicked"));
}
