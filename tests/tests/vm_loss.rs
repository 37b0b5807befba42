//! VMs that die under their containers, and starts that fail.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use longshore_tests::{Container, Setup, Site, runner, until};

#[test]
fn a_container_whose_vm_dies_is_cancelled_and_told_which_instance_it_was() {
    let site = Site::start_with(Setup::default().set("MaxRunningContainersPerInstance", "1"));
    let api = site.api();
    let lost = api.submit(&site.gated("lost"));
    let kept = api.submit(&site.gated("kept"));
    let instance = site.until_runs(&lost);
    let other = site.until_runs(&kept);
    assert_ne!(instance, other);

    site.kill_vm(&instance);
    let record = api.until_state(&lost, "Cancelled");
    let why = record["runtime_status"]["error"].as_str().unwrap_or("");
    assert!(why.contains(&instance), "{why:?} should name {instance}");
    assert!(why.contains("disappeared"), "{why:?}");
    assert!(record["exit_code"].is_null(), "{record:#}");
    site.until_gone(&instance);

    assert_eq!(site.instance_ids(), [other]);
    let next = api.submit(&Container::sh("echo on another one"));
    assert_eq!(api.exit_code(&next), Some(0));
    site.open_gate();
    assert_eq!(api.exit_code(&kept), Some(0));
    assert_eq!(site.read("ended"), "kept\n");
}

#[test]
fn a_container_whose_vm_dies_while_it_boots_gets_another_vm() {
    let setup = Setup::default().set("BootProbeCommand", "test -e {dir}/boot-gate");
    let site = Site::start_with(setup);
    site.open_gate();
    let api = site.api();
    let uuid = api.submit(&site.gated("once"));
    let first = site.until_instance("a VM boots", |i| i["worker_state"] == "booting");
    site.kill_vm(&first);
    site.until_gone(&first);
    assert_ne!(api.state(&uuid), "Cancelled");
    fs::write(site.path("boot-gate"), "").unwrap();
    assert_eq!(api.exit_code(&uuid), Some(0));
    assert_eq!(site.read("begun"), "once\n");
    assert!(!site.instance_ids().contains(&first));
}

/// A site whose runner does `trouble` instead, the first time that it is to start a container; later
/// it is the real one.
fn site_with_troubled_start(trouble: &str) -> Site {
    let setup = Setup::default()
        .set("DeployRunnerBinary", "\"\"")
        .set("CrunchRunCommand", "{dir}/runner-or-trouble");
    let mut site = Site::prepare(setup);
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in\n*' --detach '*)\n  if mkdir {mark} 2>/dev/null; then\n    \
         {trouble}\n  fi ;;\nesac\nexec {runner} \"$@\"\n",
        mark = site.path("trouble-had").display(),
        runner = runner().display(),
    );
    let path = site.path("runner-or-trouble");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    site.start_queue();
    site.start_dispatcher();
    site
}

#[test]
fn a_container_whose_vm_dies_at_its_start_runs_on_another_one() {
    let site = site_with_troubled_start(
        "kill -9 \"$(sed -n 's/.*\"pid\": *\\([0-9]*\\).*/\\1/p' \"$LONGSHORE_VM_DIR/process.json\")\"; \
         exit 1",
    );
    site.open_gate();
    let api = site.api();
    let uuid = api.submit(&site.gated("once"));
    assert_eq!(api.exit_code(&uuid), Some(0));
    assert!(site.path("trouble-had").exists());
    assert_eq!(site.read("begun"), "once\n");
    assert_eq!(site.vms_made(), 2);
    until("only the second VM is left", || {
        site.instance_ids().len() == 1
    });
}

#[test]
fn a_start_that_fails_is_tried_again() {
    let site = site_with_troubled_start("echo 'out of luck' >&2; exit 1");
    site.open_gate();
    let api = site.api();
    let uuid = api.submit(&site.gated("once"));
    assert_eq!(api.exit_code(&uuid), Some(0));
    assert!(site.path("trouble-had").exists());
    assert_eq!(site.read("begun"), "once\n");
    let log = site.dispatch_log();
    assert!(log.contains("out of luck"), "the log does not tell why");
}

#[test]
fn a_runner_that_ends_without_a_word_is_tried_again() {
    let site = site_with_troubled_start("exit 0");
    site.open_gate();
    let api = site.api();
    let uuid = api.submit(&site.gated("once"));
    assert_eq!(api.exit_code(&uuid), Some(0));
    assert!(site.path("trouble-had").exists());
    assert_eq!(site.read("begun"), "once\n");
}

#[test]
fn a_runner_that_is_killed_leaves_its_container_cancelled_with_the_reason() {
    let site = Site::start();
    let api = site.api();
    let uuid = api.submit(&site.gated("orphan"));
    let instance = site.until_runs(&uuid);
    let runners: Vec<_> = site
        .processes()
        .into_iter()
        .filter(|process| {
            let line = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains("-no-detach") && line.contains(&uuid)
        })
        .collect();
    assert!(!runners.is_empty(), "no process of the runner is found");
    for runner in runners {
        longshore_tests::send(runner, longshore_tests::Signal::KILL);
    }
    let record = api.until_state(&uuid, "Cancelled");
    let why = record["runtime_status"]["error"].as_str().unwrap_or("");
    assert!(why.contains(&instance), "{why:?} should name {instance}");
    assert!(why.contains("exited without reporting"), "{why:?}");
    site.open_gate();
    let next = api.submit(&Container::sh("echo next"));
    assert_eq!(api.exit_code(&next), Some(0));
    assert_eq!(
        site.read("ended"),
        "",
        "the user's process outlived its container"
    );
}
