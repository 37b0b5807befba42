//! Failures of VMs with containers, and failed starts.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use longshore_tests::{Container, Setup, TestCluster, runner, until};

#[test]
fn lost_container_error_names_instance() {
    let cluster =
        TestCluster::start_with(Setup::default().set("MaxRunningContainersPerInstance", "1"));
    let api = cluster.api();
    let lost = api.submit(&cluster.gated("lost"));
    let kept = api.submit(&cluster.gated("kept"));
    let instance = cluster.until_runs(&lost);
    let other = cluster.until_runs(&kept);
    assert_ne!(instance, other);

    cluster.kill_vm(&instance);
    let record = api.until_state(&lost, "Cancelled");
    let why = record["runtime_status"]["error"].as_str().unwrap_or("");
    assert!(why.contains(&instance), "{why:?} should name {instance}");
    assert!(why.contains("disappeared"), "{why:?}");
    assert!(record["exit_code"].is_null(), "{record:#}");
    cluster.until_gone(&instance);

    assert_eq!(cluster.instance_ids(), [other]);
    let next = api.submit(&Container::sh("echo on another one"));
    assert_eq!(api.exit_code(&next), Some(0));
    cluster.open_gate();
    assert_eq!(api.exit_code(&kept), Some(0));
    assert_eq!(cluster.read("ended"), "kept\n");
}

#[test]
fn container_of_vm_lost_booting_gets_another() {
    let setup = Setup::default().set("BootProbeCommand", "test -e {dir}/boot-gate");
    let cluster = TestCluster::start_with(setup);
    cluster.open_gate();
    let api = cluster.api();
    let uuid = api.submit(&cluster.gated("once"));
    let first = cluster.until_instance("a VM boots", |i| i["worker_state"] == "booting");
    cluster.kill_vm(&first);
    cluster.until_gone(&first);
    assert_ne!(api.state(&uuid), "Cancelled");
    fs::write(cluster.path("boot-gate"), "").unwrap();
    assert_eq!(api.exit_code(&uuid), Some(0));
    assert_eq!(cluster.read("begun"), "once\n");
    assert!(!cluster.instance_ids().contains(&first));
}

/// Cluster whose runner executes `fault` instead of the first start; afterwards the real runner is
/// used.
fn cluster_with_failing_start(fault: &str) -> TestCluster {
    let setup = Setup::default()
        .set("DeployRunnerBinary", "\"\"")
        .set("CrunchRunCommand", "{dir}/runner-or-fault");
    let mut cluster = TestCluster::prepare(setup);
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in\n*' --detach '*)\n  if mkdir {mark} 2>/dev/null; then\n    \
         {fault}\n  fi ;;\nesac\nexec {runner} \"$@\"\n",
        mark = cluster.path("fault-done").display(),
        runner = runner().display(),
    );
    let path = cluster.path("runner-or-fault");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    cluster.start_queue();
    cluster.start_dispatcher();
    cluster
}

#[test]
fn container_of_vm_lost_at_start_restarts() {
    let cluster = cluster_with_failing_start(
        "kill -9 \"$(sed -n 's/.*\"pid\": *\\([0-9]*\\).*/\\1/p' \"$LONGSHORE_VM_DIR/process.json\")\"; \
         exit 1",
    );
    cluster.open_gate();
    let api = cluster.api();
    let uuid = api.submit(&cluster.gated("once"));
    assert_eq!(api.exit_code(&uuid), Some(0));
    assert!(cluster.path("fault-done").exists());
    assert_eq!(cluster.read("begun"), "once\n");
    assert_eq!(cluster.vms_made(), 2);
    until("only the second VM is left", || {
        cluster.instance_ids().len() == 1
    });
}

#[test]
fn failed_start_is_retried() {
    let cluster = cluster_with_failing_start("echo 'out of luck' >&2; exit 1");
    cluster.open_gate();
    let api = cluster.api();
    let uuid = api.submit(&cluster.gated("once"));
    assert_eq!(api.exit_code(&uuid), Some(0));
    assert!(cluster.path("fault-done").exists());
    assert_eq!(cluster.read("begun"), "once\n");
    let log = cluster.dispatch_log();
    assert!(
        log.contains("out of luck"),
        "the log does not name the reason"
    );
}

#[test]
fn silent_runner_exit_is_retried() {
    let cluster = cluster_with_failing_start("exit 0");
    cluster.open_gate();
    let api = cluster.api();
    let uuid = api.submit(&cluster.gated("once"));
    assert_eq!(api.exit_code(&uuid), Some(0));
    assert!(cluster.path("fault-done").exists());
    assert_eq!(cluster.read("begun"), "once\n");
}

#[test]
fn killed_runner_cancels_container_with_reason() {
    let cluster = TestCluster::start();
    let api = cluster.api();
    let uuid = api.submit(&cluster.gated("orphan"));
    let instance = cluster.until_runs(&uuid);
    let runners: Vec<_> = cluster
        .processes()
        .into_iter()
        .filter(|process| {
            let line = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains("-no-detach") && line.contains(&uuid)
        })
        .collect();
    assert!(!runners.is_empty(), "the runner has no process");
    for runner in runners {
        longshore_tests::send(runner, longshore_tests::Signal::KILL);
    }
    let record = api.until_state(&uuid, "Cancelled");
    let why = record["runtime_status"]["error"].as_str().unwrap_or("");
    assert!(why.contains(&instance), "{why:?} should name {instance}");
    assert!(why.contains("exited without reporting"), "{why:?}");
    cluster.open_gate();
    let next = api.submit(&Container::sh("echo next"));
    assert_eq!(api.exit_code(&next), Some(0));
    assert_eq!(
        cluster.read("ended"),
        "",
        "a process of the container still runs"
    );
}
