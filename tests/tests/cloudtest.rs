//! `longshore cloudtest`: an account is tried before it is used.

use longshore_tests::{Daemon, Setup, Signal, Site, run_with_input, send, until, until_some};
use serde_json::Value;

/// What a step came to.
fn result<'a>(table: &'a str, title: &str) -> &'a str {
    let rest = table.lines().find_map(|line| line.strip_prefix(title));
    let rest = rest.unwrap_or_else(|| panic!("{title} in {table}"));
    rest.split_whitespace().next().unwrap_or_default()
}

/// The VMs of the site that are alive, whoever made them.
fn living(site: &Site) -> Vec<String> {
    let vms = std::fs::read_dir(site.path("vms/vms"));
    let vms = vms.into_iter().flatten().flatten();
    let alive = vms.filter(|vm| !vm.path().join("terminated.json").exists());
    let mut names: Vec<String> = alive
        .map(|vm| vm.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// A cloudtest whose command does not end, and the VM on which it runs.
fn busy(site: &Site) -> (Daemon, String) {
    let command = "echo \"$LONGSHORE_VM_DIR\" >\"$LONGSHORE_VM_DIR/busy\"; sleep 1000";
    let mut cloudtest = site.command(&["cloudtest", "--command", command]);
    let daemon = Daemon::start(&mut cloudtest, &site.path("cloudtest.log"));
    let vm = until_some("the command runs", || {
        let vms = living(site);
        let busy = |vm: &String| site.path("vms/vms").join(vm).join("busy").exists();
        vms.into_iter().find(busy)
    });
    (daemon, vm)
}

#[test]
fn a_fit_account_passes_and_nothing_is_left() {
    let site = Site::prepare(Setup::default());
    let done = site.longshore(&["cloudtest", "--command", "echo the $(id -un) says hello"]);
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
        "the cheapest: {}",
        done.stdout
    );
    assert_eq!(living(&site), Vec::<String>::new());
    assert_eq!(site.processes(), []);
}

#[test]
fn a_vm_that_never_gets_ready_is_told_in_its_own_words() {
    let setup = Setup::default()
        .set(
            "BootProbeCommand",
            "\"echo disk not mounted yet >&2; exit 7\"",
        )
        .set("TimeoutBooting", "2s");
    let site = Site::prepare(setup);
    let done = site.longshore(&["cloudtest", "--command", "true"]);
    assert_eq!(done.code(), Some(1), "{done:#?}");
    let table = &done.stdout;
    assert_eq!(result(table, "identity verified over SSH"), "ok");
    assert_eq!(result(table, "boot probe"), "FAILED");
    assert!(table.contains("exit status 7"), "{table}");
    assert!(table.contains("disk not mounted yet"), "{table}");
    assert!(table.contains("check boot probe:"), "{table}");
    assert_eq!(result(table, "command"), "-", "it is not ready");
    assert_eq!(result(table, "destroy the instance"), "ok");
    assert!(
        done.stderr.contains("failed: boot probe"),
        "{}",
        done.stderr
    );
    assert_eq!(living(&site), Vec::<String>::new());
}

#[test]
fn a_command_that_fails_is_told_in_its_own_words() {
    let site = Site::prepare(Setup::default());
    let command = "echo looking; echo no such disk >&2; exit 3";
    let done = site.longshore(&["cloudtest", "--command", command]);
    assert_eq!(done.code(), Some(1), "{done:#?}");
    assert_eq!(result(&done.stdout, "command"), "FAILED");
    for words in ["exit status 3", "looking", "no such disk", "check command:"] {
        assert!(done.stdout.contains(words), "{words}: {}", done.stdout);
    }
    assert_eq!(living(&site), Vec::<String>::new());
}

#[test]
fn what_the_cloud_refuses_is_told_in_its_own_words() {
    // The peer's choice where images bring the key: these VMs cannot.
    let setup = Setup::default().replace(
        "Driver: loopback",
        "Driver: loopback\n        DeployPublicKey: false",
    );
    let site = Site::prepare(setup);
    let done = site.longshore(&["cloudtest"]);
    assert_eq!(done.code(), Some(1), "{done:#?}");
    assert_eq!(result(&done.stdout, "create an instance"), "FAILED");
    let words = "a loopback VM needs a public key";
    assert!(done.stdout.contains(words), "{}", done.stdout);
    assert!(done.stdout.contains("check key:"), "{}", done.stdout);
}

#[test]
fn leftovers_stop_it_until_it_is_told_to_destroy_them() {
    let site = Site::prepare(Setup::default());
    let (crashed, left) = busy(&site);
    crashed.kill();

    let refused = site.longshore(&["cloudtest"]);
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
        living(&site),
        std::slice::from_ref(&left),
        "nothing was done"
    );

    // Those of another set are nobody's business here.
    let other = site.longshore(&["cloudtest", "--instance-set-id", "somebody@somewhere"]);
    let _ = other.succeeded();
    assert_eq!(living(&site), std::slice::from_ref(&left));

    let done = site
        .longshore(&["cloudtest", "--destroy-existing"])
        .succeeded();
    let gone = format!("destroyed {left}");
    assert!(done.stdout.contains(&gone), "{}", done.stdout);
    assert_eq!(living(&site), Vec::<String>::new());
    assert_eq!(site.processes(), []);
}

#[test]
fn a_stop_destroys_what_was_made() {
    let site = Site::prepare(Setup::default());
    let (mut cloudtest, vm) = busy(&site);
    send(cloudtest.process(), Signal::TERM);
    let status = until_some("it ends", || cloudtest.ended());
    assert_eq!(status.code(), Some(1));
    let log = cloudtest.log();
    assert_eq!(result(&log, "destroy the instance"), "ok", "{log}");
    assert_eq!(result(&log, "instance is terminated"), "ok", "{log}");
    assert_eq!(living(&site), Vec::<String>::new(), "{vm}");
    until("nothing runs", || site.processes().is_empty());
}

#[test]
fn a_pause_tells_how_to_log_in() {
    let site = Site::prepare(Setup::default());
    let mut command = site.command(&["cloudtest", "--pause-before-destroy"]);
    let done = run_with_input(&mut command, "\n").succeeded();
    assert_eq!(result(&done.stdout, "pause"), "ok");
    let hint = done.stdout.lines().find(|line| line.contains("ssh -p "));
    let hint = hint.unwrap_or_else(|| panic!("{}", done.stdout));
    assert!(hint.contains("@127.0.0.1"), "{hint}");
}

#[test]
fn a_dispatcher_at_work_is_not_disturbed() {
    let site = Site::start();
    let uuid = site.api().submit(&site.gated("work"));
    let vm = site.until_runs(&uuid);
    let _ = site
        .longshore(&["cloudtest", "--destroy-existing"])
        .succeeded();
    assert_eq!(living(&site), [vm]);
    site.open_gate();
    site.api().until_state(&uuid, "Complete");
}

#[test]
fn json_has_every_step_with_its_time_and_advice() {
    let site = Site::prepare(Setup::default());
    let args = [
        "cloudtest",
        "--json",
        "--instance-type",
        "large",
        "--image-id",
        "other",
    ];
    let done = site.longshore(&[&args[..], &["--command", "exit 9"]].concat());
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
fn wrong_options_are_told_before_anything_is_made() {
    let site = Site::prepare(Setup::default());
    let done = site.longshore(&["cloudtest", "--instance-type", "huge"]);
    assert_eq!(done.code(), Some(2), "{done:#?}");
    assert!(done.stderr.contains("large, small"), "{}", done.stderr);
    // The hash of the root token: what a dispatcher's VMs bear.
    let mut md5 = std::process::Command::new("md5sum");
    let sum = run_with_input(&mut md5, site.root_token()).succeeded();
    let dispatchers = sum.text().split(' ').next().expect("a sum").to_owned();
    let args = ["cloudtest", "--destroy-existing", "--instance-set-id"];
    let done = site.longshore(&[&args[..], &[&dispatchers]].concat());
    assert_eq!(done.code(), Some(2), "{done:#?}");
    assert!(done.stderr.contains("dispatcher's own"), "{}", done.stderr);
    assert_eq!(living(&site), Vec::<String>::new());
}
