//! The way of a new user, by the command line alone.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use longshore_tests::{Ran, Setup, Site, run, until};
use serde_json::Value;

#[test]
fn from_init_to_the_first_result() {
    let mut site = Site::init();
    let mode = |name: &str| fs::metadata(site.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("config.yml"), 0o600);
    assert_eq!(mode("dispatch_key"), 0o600);
    let before = [site.read("config.yml"), site.read("dispatch_key")];
    let again = site.longshore(&["init", "--dir", "."]);
    assert_eq!(again.code(), Some(2), "{again:?}");
    assert!(
        again.stderr.contains("config.yml exists already"),
        "{}",
        again.stderr
    );
    assert_eq!([site.read("config.yml"), site.read("dispatch_key")], before);

    site.start_queue();
    site.start_dispatcher();
    assert_eq!(site.read("dispatch.log").matches("warning").count(), 0);
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
    let ran = site.longshore(&args);
    assert_eq!(ran.code(), Some(7), "{ran:?}");
    let mut lines: Vec<&str> = ran.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["err", "out", "red blue"]);
    assert!(ran.stderr.starts_with("local-dz642-"), "{}", ran.stderr);
}

#[test]
fn ps_logs_and_cancel_follow_a_container() {
    let site = Site::start();
    let dir = site.path("").display().to_string();
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
    let uuid = site.longshore(&args).succeeded().text().to_owned();
    site.api().until_state(&uuid, "Running");

    let row = site.longshore(&["ps"]).succeeded();
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
    let json = site.longshore(&["ps", "--json"]).succeeded();
    let record: Value = serde_json::from_str(json.text()).unwrap();
    assert_eq!(
        (&record["uuid"], &record["name"]),
        (&Value::from(&*uuid), &"mine".into())
    );

    until("what it printed is there", || {
        site.longshore(&["logs", &uuid]).succeeded().stdout == "begun\n"
    });
    let mut follow = site.command(&["logs", "-f", &uuid]);
    let followed = std::thread::scope(|scope| {
        let following = scope.spawn(|| run(&mut follow));
        site.open_gate();
        following.join().unwrap().succeeded()
    });
    assert_eq!(followed.stdout, "begun\ndone\n");
    assert_eq!(site.api().exit_code(&uuid), Some(0));
    assert_eq!(
        site.longshore(&["ps"]).succeeded().stdout.lines().count(),
        1
    );
    let all = site.longshore(&["ps", "--all"]).succeeded();
    assert!(
        all.stdout.contains(&uuid) && all.stdout.contains("Complete"),
        "{}",
        all.stdout
    );

    let args = ["submit", "--", "sleep", "600"];
    let long = site.longshore(&args).succeeded().text().to_owned();
    site.api().until_state(&long, "Running");
    assert_eq!(site.longshore(&["cancel", &long]).succeeded().text(), long);
    site.api().until_state(&long, "Cancelled");
    let none = site.longshore(&["cancel", "tests-dz642-000000000000000", &long]);
    assert_eq!(none.code(), Some(1), "{none:?}");
    assert!(
        none.stderr.contains("tests-dz642-000000000000000"),
        "{}",
        none.stderr
    );
}

#[test]
fn follow_passes_every_exit_status_on_and_tells_why_something_was_cancelled() {
    let site = Site::start();
    for status in [0, 1, 42, 255] {
        let script = format!("exit {status}");
        let ran = site.longshore(&["submit", "--follow", "--", "sh", "-c", &script]);
        assert_eq!(ran.code(), Some(status), "{ran:?}");
    }
    let ran = site.longshore(&["submit", "--follow", "--vcpus", "64", "--", "true"]);
    assert_eq!(ran.code(), Some(1), "{ran:?}");
    for part in ["was cancelled", "vcpus", "large"] {
        let said = ran.stderr.to_lowercase();
        assert!(said.contains(part), "{part}: {}", ran.stderr);
    }
    let ran = site.longshore(&["submit", "--follow", "--", "/no/such/program"]);
    assert_ne!(ran.code(), Some(0), "{ran:?}");
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(said.contains("/no/such/program"), "{said}");
}

#[test]
fn a_container_stops_at_its_time_limit() {
    let site = Site::start();
    let args = [
        "submit",
        "--follow",
        "--max-run-time",
        "1",
        "--",
        "sleep",
        "600",
    ];
    let ran = site.longshore(&args);
    assert_eq!(ran.code(), Some(1), "{ran:?}");
    assert!(ran.stderr.contains("was cancelled"), "{}", ran.stderr);
}

#[test]
fn a_users_token_reaches_the_users_own_containers_only_and_ends_when_revoked() {
    let mut site = Site::prepare(Setup::default());
    site.start_queue();
    let create = |args: &[&str]| {
        let ran = site
            .longshore(&[&["token", "create"], args].concat())
            .succeeded();
        ran.text().to_owned()
    };
    let alice = create(&["--role", "user", "alice"]);
    let bob = create(&["bob"]);
    let as_user = |token: &str, args: &[&str]| -> Ran {
        run(site.command(args).env("ARVADOS_API_TOKEN", token))
    };
    let submit = ["submit", "--", "true"];
    let hers = as_user(&alice, &submit).succeeded().text().to_owned();
    let his = as_user(&bob, &submit).succeeded().text().to_owned();
    let seen = as_user(&alice, &["ps"]).succeeded().stdout;
    assert!(seen.contains(&hers) && !seen.contains(&his), "{seen}");
    for args in [["cancel", &his], ["logs", &his]] {
        let ran = as_user(&alice, &args);
        assert_eq!(ran.code(), Some(1), "{ran:?}");
        assert!(ran.stderr.contains("404"), "{}", ran.stderr);
    }
    assert_eq!(site.api().record(&his)["priority"], 500);
    // What belongs to the dispatcher is not for users.
    let path = format!("/arvados/v1/containers/{hers}/lock");
    assert_eq!(site.api().with_token(&*alice).form(&path, "").status, 403);
    let all = site.longshore(&["ps"]).succeeded().stdout;
    assert!(all.contains(&hers) && all.contains(&his), "{all}");

    let list = site
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
    let _ = site.longshore(&["token", "revoke", uuid]).succeeded();
    let refused = as_user(&alice, &["ps"]);
    assert_eq!(refused.code(), Some(1), "{refused:?}");
    assert!(refused.stderr.contains("401"), "{}", refused.stderr);
    let _ = as_user(&bob, &["ps"]).succeeded();
    assert_eq!(site.longshore(&["token", "revoke", uuid]).code(), Some(1));
}
