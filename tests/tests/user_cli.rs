//! Commands of a new user.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use longshore_tests::{CommandOutput, Setup, TestCluster, run, until};
use serde_json::Value;

#[test]
fn init_leads_to_first_result() {
    let mut cluster = TestCluster::init();
    let mode = |name: &str| {
        fs::metadata(cluster.path(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode("config.yml"), 0o600);
    assert_eq!(mode("dispatch_key"), 0o600);
    let before = [cluster.read("config.yml"), cluster.read("dispatch_key")];
    let again = cluster.longshore(&["init", "--dir", "."]);
    assert_eq!(again.code(), Some(2), "{again:?}");
    assert!(
        again.stderr.contains("config.yml exists already"),
        "{}",
        again.stderr
    );
    assert_eq!(
        [cluster.read("config.yml"), cluster.read("dispatch_key")],
        before
    );

    cluster.start_queue();
    cluster.start_dispatcher();
    assert_eq!(cluster.read("dispatch.log").matches("warning").count(), 0);
    let script = "echo out; echo err >&2; echo $COLOUR; exit 7";
    let args = [
        "submit",
        "--follow",
        "-e",
        "COLOUR=red blue",
        "--",
        "sh",
        "-c",
        script,
    ];
    let output = cluster.longshore(&args);
    assert_eq!(output.code(), Some(7), "{output:?}");
    let mut lines: Vec<&str> = output.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["err", "out", "red blue"]);
    assert!(
        output.stderr.starts_with("local-dz642-"),
        "{}",
        output.stderr
    );
}

#[test]
fn ps_logs_and_cancel_work() {
    let cluster = TestCluster::start();
    let dir = cluster.path("").display().to_string();
    let script = format!("echo begun; while ! [ -e {dir}/gate ]; do sleep 0.05; done; echo done");
    let args = [
        "submit",
        "--name",
        "mine",
        "--priority",
        "7",
        "--",
        "sh",
        "-c",
        &script,
    ];
    let uuid = cluster.longshore(&args).succeeded().text().to_owned();
    cluster.api().until_state(&uuid, "Running");

    let row = cluster.longshore(&["ps"]).succeeded();
    let row: Vec<&str> = row
        .stdout
        .lines()
        .nth(1)
        .unwrap()
        .split_whitespace()
        .collect();
    assert_eq!(
        row[..8],
        [&*uuid, "Running", "7", "1", "256.0", "MiB", "-", "sh"]
    );
    let json = cluster.longshore(&["ps", "--json"]).succeeded();
    let record: Value = serde_json::from_str(json.text()).unwrap();
    assert_eq!(
        (&record["uuid"], &record["name"]),
        (&Value::from(&*uuid), &"mine".into())
    );

    until("the output has arrived", || {
        cluster.longshore(&["logs", &uuid]).succeeded().stdout == "begun\n"
    });
    let mut follow = cluster.command(&["logs", "-f", &uuid]);
    let followed = std::thread::scope(|scope| {
        let following = scope.spawn(|| run(&mut follow));
        cluster.open_gate();
        following.join().unwrap().succeeded()
    });
    assert_eq!(followed.stdout, "begun\ndone\n");
    assert_eq!(cluster.api().exit_code(&uuid), Some(0));
    assert_eq!(
        cluster
            .longshore(&["ps"])
            .succeeded()
            .stdout
            .lines()
            .count(),
        1
    );
    let all = cluster.longshore(&["ps", "--all"]).succeeded();
    assert!(
        all.stdout.contains(&uuid) && all.stdout.contains("Complete"),
        "{}",
        all.stdout
    );

    let args = ["submit", "--", "sleep", "600"];
    let long = cluster.longshore(&args).succeeded().text().to_owned();
    cluster.api().until_state(&long, "Running");
    assert_eq!(
        cluster.longshore(&["cancel", &long]).succeeded().text(),
        long
    );
    cluster.api().until_state(&long, "Cancelled");
    let none = cluster.longshore(&["cancel", "tests-dz642-000000000000000", &long]);
    assert_eq!(none.code(), Some(1), "{none:?}");
    assert!(
        none.stderr.contains("tests-dz642-000000000000000"),
        "{}",
        none.stderr
    );
}

#[test]
fn follow_returns_exit_status_and_error() {
    let cluster = TestCluster::start();
    for status in [0, 1, 42, 255] {
        let script = format!("exit {status}");
        let output = cluster.longshore(&["submit", "--follow", "--", "sh", "-c", &script]);
        assert_eq!(output.code(), Some(status), "{output:?}");
    }
    let output = cluster.longshore(&["submit", "--follow", "--vcpus", "64", "--", "true"]);
    assert_eq!(output.code(), Some(1), "{output:?}");
    for part in ["was cancelled", "vcpus", "large"] {
        let text = output.stderr.to_lowercase();
        assert!(text.contains(part), "{part}: {}", output.stderr);
    }
    let output = cluster.longshore(&["submit", "--follow", "--", "/no/such/program"]);
    assert_ne!(output.code(), Some(0), "{output:?}");
    let text = format!("{}{}", output.stdout, output.stderr);
    assert!(text.contains("/no/such/program"), "{text}");
}

#[test]
fn container_stops_at_time_limit() {
    let cluster = TestCluster::start();
    let args = [
        "submit",
        "--follow",
        "--max-run-time",
        "1",
        "--",
        "sleep",
        "600",
    ];
    let output = cluster.longshore(&args);
    assert_eq!(output.code(), Some(1), "{output:?}");
    assert!(output.stderr.contains("was cancelled"), "{}", output.stderr);
}

#[test]
fn user_token_reaches_own_containers_until_revoked() {
    let mut cluster = TestCluster::prepare(Setup::default());
    cluster.start_queue();
    let create = |args: &[&str]| {
        let output = cluster
            .longshore(&[&["token", "create"], args].concat())
            .succeeded();
        output.text().to_owned()
    };
    let alice = create(&["--role", "user", "alice"]);
    let bob = create(&["bob"]);
    let as_user = |token: &str, args: &[&str]| -> CommandOutput {
        run(cluster.command(args).env("ARVADOS_API_TOKEN", token))
    };
    let submit = ["submit", "--", "true"];
    let of_alice = as_user(&alice, &submit).succeeded().text().to_owned();
    let of_bob = as_user(&bob, &submit).succeeded().text().to_owned();
    let seen = as_user(&alice, &["ps"]).succeeded().stdout;
    assert!(
        seen.contains(&of_alice) && !seen.contains(&of_bob),
        "{seen}"
    );
    for args in [["cancel", &of_bob], ["logs", &of_bob]] {
        let output = as_user(&alice, &args);
        assert_eq!(output.code(), Some(1), "{output:?}");
        assert!(output.stderr.contains("404"), "{}", output.stderr);
    }
    assert_eq!(cluster.api().record(&of_bob)["priority"], 500);
    // Dispatcher operations are forbidden for users.
    let path = format!("/arvados/v1/containers/{of_alice}/lock");
    assert_eq!(
        cluster.api().with_token(&*alice).form(&path, "").status,
        403
    );
    let all = cluster.longshore(&["ps"]).succeeded().stdout;
    assert!(all.contains(&of_alice) && all.contains(&of_bob), "{all}");

    let list = cluster
        .longshore(&["token", "list", "--json"])
        .succeeded()
        .stdout;
    assert!(!list.contains(&alice), "the list shows the token");
    let tokens: Vec<Value> = list
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let of = |owner: &str| tokens.iter().find(|token| token["owner"] == owner).unwrap();
    assert_eq!(of("alice")["role"], "user");
    let uuid = of("alice")["uuid"].as_str().unwrap();
    let _ = cluster.longshore(&["token", "revoke", uuid]).succeeded();
    let refused = as_user(&alice, &["ps"]);
    assert_eq!(refused.code(), Some(1), "{refused:?}");
    assert!(refused.stderr.contains("401"), "{}", refused.stderr);
    let _ = as_user(&bob, &["ps"]).succeeded();
    assert_eq!(
        cluster.longshore(&["token", "revoke", uuid]).code(),
        Some(1)
    );
}
