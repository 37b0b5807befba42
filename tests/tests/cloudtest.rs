//! `longshore cloudtest`: test of a cloud account before use.

use longshore_tests::{
    Daemon, Setup, Signal, TestCluster, run_with_input, send, until, until_some,
};
use serde_json::Value;

/// Result of a step.
fn result<'a>(table: &'a str, title: &str) -> &'a str {
    let rest = table.lines().find_map(|line| line.strip_prefix(title));
    let rest = rest.unwrap_or_else(|| panic!("{title} in {table}"));
    rest.split_whitespace().next().unwrap_or_default()
}

/// Running VMs of the cluster, of any instance set.
fn living(cluster: &TestCluster) -> Vec<String> {
    let vms = std::fs::read_dir(cluster.path("vms/vms"));
    let vms = vms.into_iter().flatten().flatten();
    let alive = vms.filter(|vm| !vm.path().join("terminated.json").exists());
    let mut names: Vec<String> = alive
        .map(|vm| vm.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Starts a cloudtest with an endless command; returns the VM of the command.
fn busy(cluster: &TestCluster) -> (Daemon, String) {
    let command = "echo \"$LONGSHORE_VM_DIR\" >\"$LONGSHORE_VM_DIR/busy\"; sleep 1000";
    let mut cloudtest = cluster.command(&["cloudtest", "--command", command]);
    let daemon = Daemon::start(&mut cloudtest, &cluster.path("cloudtest.log"));
    let vm = until_some("the command runs", || {
        let vms = living(cluster);
        let busy = |vm: &String| cluster.path("vms/vms").join(vm).join("busy").exists();
        vms.into_iter().find(busy)
    });
    (daemon, vm)
}

#[test]
fn cloudtest_passes_and_leaves_nothing() {
    let cluster = TestCluster::prepare(Setup::default());
    let done = cluster.longshore(&["cloudtest", "--command", "echo the $(id -un) says hello"]);
    let done = done.succeeded();
    for title in [
        "list instances",
        "no instances left from before",
        "create an instance",
        "instance is listed",
        "instance has all tags",
        "change a tag",
        "instance gets an address",
        "identity verified over SSH",
        "boot probe",
        "command",
        "duplicate create is idempotent",
        "instance sets are isolated",
        "destroy the instance",
        "instance is terminated",
        "repeat the destroy",
        "cleanup",
    ] {
        assert_eq!(
            result(&done.stdout, title),
            "ok",
            "{title}: {}",
            done.stdout
        );
    }
    assert!(done.stdout.contains("says hello"), "{}", done.stdout);
    assert!(
        done.stdout.contains("type small"),
        "cheapest type: {}",
        done.stdout
    );
    assert_eq!(living(&cluster), Vec::<String>::new());
    assert_eq!(cluster.processes(), []);
}

#[test]
fn failed_boot_probe_output_is_shown() {
    let setup = Setup::default()
        .set(
            "BootProbeCommand",
            "\"echo disk not mounted yet >&2; exit 7\"",
        )
        .set("TimeoutBooting", "2s");
    let cluster = TestCluster::prepare(setup);
    let done = cluster.longshore(&["cloudtest", "--command", "true"]);
    assert_eq!(done.code(), Some(1), "{done:#?}");
    let table = &done.stdout;
    assert_eq!(result(table, "identity verified over SSH"), "ok");
    assert_eq!(result(table, "boot probe"), "FAILED");
    assert!(table.contains("exit status 7"), "{table}");
    assert!(table.contains("disk not mounted yet"), "{table}");
    assert!(table.contains("check boot probe:"), "{table}");
    assert_eq!(
        result(table, "command"),
        "-",
        "skipped without a successful boot probe"
    );
    assert_eq!(result(table, "destroy the instance"), "ok");
    assert!(
        done.stderr.contains("failed: boot probe"),
        "{}",
        done.stderr
    );
    assert_eq!(living(&cluster), Vec::<String>::new());
}

#[test]
fn failed_command_output_is_shown() {
    let cluster = TestCluster::prepare(Setup::default());
    let command = "echo looking; echo no such disk >&2; exit 3";
    let done = cluster.longshore(&["cloudtest", "--command", command]);
    assert_eq!(done.code(), Some(1), "{done:#?}");
    assert_eq!(result(&done.stdout, "command"), "FAILED");
    for words in ["exit status 3", "looking", "no such disk", "check command:"] {
        assert!(done.stdout.contains(words), "{words}: {}", done.stdout);
    }
    assert_eq!(living(&cluster), Vec::<String>::new());
}

#[test]
fn refused_create_error_is_shown() {
    // Valid for images that contain the key, but loopback VMs need a public key.
    let setup = Setup::default().replace(
        "Driver: loopback",
        "Driver: loopback\n        DeployPublicKey: false",
    );
    let cluster = TestCluster::prepare(setup);
    let done = cluster.longshore(&["cloudtest"]);
    assert_eq!(done.code(), Some(1), "{done:#?}");
    assert_eq!(result(&done.stdout, "create an instance"), "FAILED");
    let words = "a loopback VM needs a public key";
    assert!(done.stdout.contains(words), "{}", done.stdout);
    assert!(done.stdout.contains("check key:"), "{}", done.stdout);
}

#[test]
fn existing_instances_fail_without_destroy_option() {
    let cluster = TestCluster::prepare(Setup::default());
    let (crashed, left) = busy(&cluster);
    crashed.kill();

    let refused = cluster.longshore(&["cloudtest"]);
    assert_eq!(refused.code(), Some(1), "{refused:#?}");
    assert_eq!(
        result(&refused.stdout, "no instances left from before"),
        "FAILED"
    );
    assert!(refused.stdout.contains(&left), "{}", refused.stdout);
    assert!(
        refused.stdout.contains("--destroy-existing"),
        "{}",
        refused.stdout
    );
    assert_eq!(
        living(&cluster),
        std::slice::from_ref(&left),
        "the instance was not touched"
    );

    // Instances of another instance set are ignored.
    let other = cluster.longshore(&["cloudtest", "--instance-set-id", "user@host"]);
    let _ = other.succeeded();
    assert_eq!(living(&cluster), std::slice::from_ref(&left));

    let done = cluster
        .longshore(&["cloudtest", "--destroy-existing"])
        .succeeded();
    let gone = format!("destroyed {left}");
    assert!(done.stdout.contains(&gone), "{}", done.stdout);
    assert_eq!(living(&cluster), Vec::<String>::new());
    assert_eq!(cluster.processes(), []);
}

#[test]
fn term_destroys_test_instances() {
    let cluster = TestCluster::prepare(Setup::default());
    let (mut cloudtest, vm) = busy(&cluster);
    send(cloudtest.process(), Signal::TERM);
    let status = until_some("the cloudtest ends", || cloudtest.ended());
    assert_eq!(status.code(), Some(1));
    let log = cloudtest.log();
    assert_eq!(result(&log, "destroy the instance"), "ok", "{log}");
    assert_eq!(result(&log, "instance is terminated"), "ok", "{log}");
    assert_eq!(living(&cluster), Vec::<String>::new(), "{vm}");
    until("no processes run", || cluster.processes().is_empty());
}

#[test]
fn pause_prints_ssh_command() {
    let cluster = TestCluster::prepare(Setup::default());
    let mut command = cluster.command(&["cloudtest", "--pause-before-destroy"]);
    let done = run_with_input(&mut command, "\n").succeeded();
    assert_eq!(result(&done.stdout, "pause"), "ok");
    let hint = done.stdout.lines().find(|line| line.contains("ssh -p "));
    let hint = hint.unwrap_or_else(|| panic!("{}", done.stdout));
    assert!(hint.contains("@127.0.0.1"), "{hint}");
}

#[test]
fn running_dispatcher_is_not_disturbed() {
    let cluster = TestCluster::start();
    let uuid = cluster.api().submit(&cluster.gated("work"));
    let vm = cluster.until_runs(&uuid);
    let _ = cluster
        .longshore(&["cloudtest", "--destroy-existing"])
        .succeeded();
    assert_eq!(living(&cluster), [vm]);
    cluster.open_gate();
    cluster.api().until_state(&uuid, "Complete");
}

#[test]
fn json_contains_steps_times_and_advice() {
    let cluster = TestCluster::prepare(Setup::default());
    let args = [
        "cloudtest",
        "--json",
        "--instance-type",
        "large",
        "--image-id",
        "other",
    ];
    let done = cluster.longshore(&[&args[..], &["--command", "exit 9"]].concat());
    assert_eq!(done.code(), Some(1), "{done:#?}");
    let report: Value = serde_json::from_str(&done.stdout).expect("one JSON document");
    assert_eq!(report["passed"], false);
    assert_eq!(report["driver"], "loopback");
    assert_eq!(report["instance_type"], "large");
    assert_eq!(report["image"], "other");
    assert_eq!(report["instance_set_id"], "zzzzz-zzzzz-zzzzzzcloudtest");
    let steps = report["runs"][0]["steps"].as_array().expect("steps");
    let step = |point: &str| {
        let found = steps.iter().find(|step| step["check"] == point);
        found.unwrap_or_else(|| panic!("{point} in {report}"))
    };
    assert_eq!(step("create")["outcome"], "passed");
    assert!(step("create")["seconds"].as_f64().is_some_and(|s| s > 0.0));
    assert_eq!(step("command")["outcome"], "failed");
    assert_eq!(step("command")["message"], "exit status 9");
    assert_eq!(step("command")["hints"][0], "command");
    assert!(
        step("command")["advice"][0]
            .as_str()
            .is_some_and(|a| a.contains("by hand"))
    );
    assert_eq!(step("lost_create")["outcome"], "skipped");
    assert_eq!(steps.len(), 22, "{report}");
}

#[test]
fn invalid_options_create_nothing() {
    let cluster = TestCluster::prepare(Setup::default());
    let done = cluster.longshore(&["cloudtest", "--instance-type", "huge"]);
    assert_eq!(done.code(), Some(2), "{done:#?}");
    assert!(done.stderr.contains("large, small"), "{}", done.stderr);
    // Hash of the root token: the instance set ID of the dispatcher's VMs.
    let mut md5 = std::process::Command::new("md5sum");
    let sum = run_with_input(&mut md5, cluster.root_token()).succeeded();
    let dispatchers = sum.text().split(' ').next().expect("a sum").to_owned();
    let args = ["cloudtest", "--destroy-existing", "--instance-set-id"];
    let done = cluster.longshore(&[&args[..], &[&dispatchers]].concat());
    assert_eq!(done.code(), Some(2), "{done:#?}");
    assert!(
        done.stderr
            .contains("the instance set ID of the dispatcher"),
        "{}",
        done.stderr
    );
    assert_eq!(living(&cluster), Vec::<String>::new());
}
