//! Error messages about invalid input name the place and the remedy.

use std::net::TcpListener;

use longshore_tests::{Api, CommandOutput, Container, Setup, TestCluster, run, run_with_input};
use serde_json::{Value, json};

const CONTAINERS: &str = "/arvados/v1/containers";

/// Asserts exit status 2 and the presence of all `words` in the error text.
fn assert_refused(what: &str, output: &CommandOutput, words: &[&str]) {
    assert!(
        !output.stderr.contains("panicked"),
        "{what}: {}",
        output.stderr
    );
    for word in words {
        assert!(
            output.stderr.contains(word),
            "{what}: {word:?} is not in: {}",
            output.stderr
        );
    }
    assert_eq!(output.code(), Some(2), "{what}: {output:?}");
}

type WrongSetup = (&'static str, Setup, &'static [&'static str]);

/// Description, configuration, and expected words of the error text.
fn wrong_parts() -> [WrongSetup; 10] {
    let change = |from: &str, to: &str| Setup::default().replace(from, to);
    let set = |key: &str, value: &str| Setup::default().set(key, value);
    [
        (
            "invalid YAML",
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
            "engine unsupported by the runner",
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
            "duplicate key",
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
fn invalid_configuration_error_names_key_and_expectation() {
    let cluster = TestCluster::prepare(Setup::default());
    for (what, setup, words) in wrong_parts().into_iter().chain(wrong_values()) {
        println!("{what}");
        cluster.configure(setup);
        assert_refused(what, &cluster.longshore(&["dispatch"]), words);
    }
}

#[test]
fn invalid_secret_is_not_shown() {
    let cluster =
        TestCluster::prepare(Setup::default().set("SystemRootToken", "[very, secret, words]"));
    let output = cluster.longshore(&["dispatch"]);
    assert_refused("token", &output, &["SystemRootToken", "expected"]);
    assert!(!output.stderr.contains("secret"), "{}", output.stderr);
}

#[test]
fn unusable_file_is_named() {
    let cluster = TestCluster::prepare(Setup::default());
    let path = "/no/such/config.yml";
    let cases: [&[&str]; 4] = [
        &["queue", "--config", path],
        &["dispatch", "--config", path],
        &["ps", "--config", path],
        &["instances", "--config", path, "list"],
    ];
    for args in cases {
        let output = cluster.longshore(args);
        assert_refused(args[0], &output, &[path, "cannot be read"]);
        assert_eq!(output.stderr.matches(path).count(), 1, "{}", output.stderr);
    }
    let output = run_with_input(
        &mut cluster.command(&["dispatch", "--config", "-"]),
        "Clusters: 5\n",
    );
    assert_refused("standard input", &output, &["Clusters", "expected"]);
    cluster.configure(Setup::default().replace(
        "      Queue:\n        Database: {dir}/queue.db\n",
        "      Queue: {}\n",
    ));
    assert_refused(
        "no database",
        &cluster.longshore(&["queue"]),
        &["Longshore.Queue.Database"],
    );

    // Failures at run time with a valid configuration.
    cluster.configure(Setup::default().set("Database", "/no/such/dir/queue.db"));
    for args in [&["queue"][..], &["token", "list"]] {
        let output = cluster.longshore(args);
        assert!(matches!(output.code(), Some(1 | 2)), "{output:?}");
        assert!(
            output.stderr.contains("/no/such/dir/queue.db"),
            "{}",
            output.stderr
        );
        assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
    }
    cluster.configure(Setup::default());
    let output = cluster.longshore(&["dispatch", "--state-dir", "/proc/no"]);
    assert!(matches!(output.code(), Some(1 | 2)), "{output:?}");
    assert!(output.stderr.contains("/proc/no"), "{}", output.stderr);
    let output = cluster.longshore(&["dispatch", "--journal", "/proc/no"]);
    assert!(matches!(output.code(), Some(1 | 2)), "{output:?}");
    assert!(output.stderr.contains("/proc/no"), "{}", output.stderr);
}

#[test]
fn occupied_port_is_named() {
    let cluster = TestCluster::prepare(Setup::default());
    for (command, port, key) in [
        ("queue", cluster.queue_port(), "Longshore.Queue.Listen"),
        (
            "dispatch",
            cluster.management_port(),
            "Services.DispatchCloud.InternalURLs",
        ),
    ] {
        let _occupant = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let output = cluster.longshore(&[command]);
        assert_refused(command, &output, &[&format!("127.0.0.1:{port}"), key]);
    }
}

#[test]
fn unknown_key_warns_and_cluster_works() {
    let setup = Setup::default().replace(
        "TimeoutIdle: 60s",
        "TimeoutIdle: 60s\n        TimeoutIdel: 5s",
    );
    let cluster = TestCluster::start_with(setup);
    let log = cluster.dispatch_log();
    let warning = log.lines().find(|line| line.contains("TimeoutIdel"));
    let warning = warning.unwrap_or_else(|| panic!("no warning in {log}"));
    assert!(
        warning.contains("warning") && warning.contains("TimeoutIdle"),
        "{warning}"
    );
    let uuid = cluster.api().submit(&Container::sh("echo works"));
    assert_eq!(cluster.api().exit_code(&uuid), Some(0));
}

#[test]
fn invalid_command_line_error_names_expectation() {
    let cluster = TestCluster::prepare(Setup::default());
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
            &["submit", "--scratch", "1.5Gib", "--", "true"],
            &["--scratch", "1.5Gib", "unknown unit"],
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
        let output = cluster.longshore(args);
        assert_refused(&format!("{args:?}"), &output, words);
        assert!(output.stdout.is_empty(), "{args:?}: {}", output.stdout);
    }
}

#[test]
fn unreachable_or_refusing_server_is_reported() {
    let mut cluster = TestCluster::prepare(Setup::default());
    for args in [
        &["ps"][..],
        &["instances", "list"],
        &["submit", "--", "true"],
    ] {
        let output = cluster.longshore(args);
        assert_eq!(output.code(), Some(1), "{output:?}");
        assert!(
            output.stderr.contains("does not answer"),
            "{}",
            output.stderr
        );
        assert!(
            output.stderr.contains("http://127.0.0.1:"),
            "{}",
            output.stderr
        );
    }
    cluster.start_queue();
    let wrong = run(cluster
        .command(&["ps"])
        .env("ARVADOS_API_TOKEN", "wrong-token"));
    assert_eq!(wrong.code(), Some(1), "{wrong:?}");
    assert!(wrong.stderr.contains("401"), "{}", wrong.stderr);
    assert!(!wrong.stderr.contains("wrong-token"), "{}", wrong.stderr);
    let unknown = cluster.longshore(&["logs", "tests-dz642-000000000000000"]);
    assert_eq!(unknown.code(), Some(1), "{unknown:?}");
    assert!(
        unknown.stderr.contains("tests-dz642-000000000000000"),
        "{}",
        unknown.stderr
    );
    let large = cluster.longshore(&[
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

/// Valid record with one change.
fn record(pointer: &str, value: impl Into<Value>) -> Value {
    let mut body = Container::sh("true").body();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    body.pointer_mut(parent).unwrap()[name] = value.into();
    body
}

/// Record, expected status, and expected part of the error text.
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
fn invalid_container_error_names_path() {
    let mut cluster = TestCluster::prepare(Setup::default());
    cluster.start_queue();
    let api = cluster.api();
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
    assert!(!cluster.read("queue.log").contains("panicked"));
}

#[test]
fn invalid_request_gets_client_error_status() {
    let mut cluster = TestCluster::prepare(Setup::default());
    cluster.start_queue();
    let api = cluster.api();
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
        let unauthorized = api.with_token(token);
        assert_eq!(
            send(&unauthorized, "GET", CONTAINERS, "", ""),
            401,
            "{token:?}"
        );
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
    assert!(!cluster.read("queue.log").contains("panicked"));
}
