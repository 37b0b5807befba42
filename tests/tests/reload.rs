//! A new configuration without a restart.

use longshore_tests::{Setup, Site, until};

#[test]
fn after_hup_new_limits_and_timeouts_apply_and_running_work_is_untouched() {
    let site = Site::start_with(Setup::default().set("MaxInstances", "1"));
    let api = site.api();
    let running = api.submit(&site.gated("running"));
    let instance = site.until_runs(&running);
    let waiting = api.submit(&site.gated("waiting"));
    until("the dispatcher knows that it waits", || {
        site.dispatch_log().contains(&format!("{waiting} seen"))
    });
    assert_eq!(site.instance_ids(), [&*instance]);

    let roomier = Setup::default()
        .set("MaxInstances", "2")
        .set("TimeoutIdle", "1s");
    site.reload(roomier);
    assert_ne!(site.until_runs(&waiting), instance);
    assert_eq!(api.state(&running), "Running");
    site.open_gate();
    for uuid in [&running, &waiting] {
        assert_eq!(api.exit_code(uuid), Some(0));
    }
    until("all VMs are given back", || site.instance_ids().is_empty());
    assert_eq!(site.read("begun"), "running\nwaiting\n");
}

#[test]
fn a_wrong_configuration_is_told_of_and_the_old_one_stays() {
    let site = Site::start();
    let api = site.api();
    let running = api.submit(&site.gated("running"));
    let instance = site.until_runs(&running);
    let wrong = Setup::default()
        .set("TimeoutIdle", "1s")
        .set("ProbeInterval", "soon");
    site.reload(wrong);
    until("the log tells what is wrong", || {
        let log = site.dispatch_log();
        log.contains("CloudVMs.ProbeInterval") && log.contains("soon")
    });
    site.open_gate();
    assert_eq!(api.exit_code(&running), Some(0));
    site.until_idle(&instance);
    let next = api.submit(&site.gated("next"));
    assert_eq!(api.exit_code(&next), Some(0));
    assert_eq!(site.instance_ids(), [instance]);
    assert!(!site.dispatch_log().contains("panicked"));
}

#[test]
fn a_vm_of_a_type_that_is_no_longer_configured_is_drained() {
    let site = Site::start();
    let api = site.api();
    let running = api.submit(&site.gated("running"));
    let instance = site.until_runs(&running);
    site.reload(Setup::default().replace("      small:", "      tiny:"));
    until("it is being drained", || {
        site.instance(&instance)
            .is_some_and(|i| i["idle_behavior"] == "drain")
    });
    let next = api.submit(&site.gated("next"));
    assert_ne!(site.until_runs(&next), instance);
    assert_eq!(api.state(&running), "Running");
    site.open_gate();
    assert_eq!(api.exit_code(&running), Some(0));
    site.until_gone(&instance);
    assert_eq!(api.exit_code(&next), Some(0));
}

#[test]
fn what_only_a_restart_takes_over_is_named_and_nothing_else_is_taken_over_either() {
    let site = Site::start_with(Setup::default().set("MaxInstances", "1"));
    let api = site.api();
    let running = api.submit(&site.gated("running"));
    let instance = site.until_runs(&running);
    let waiting = api.submit(&site.gated("waiting"));
    let roomier = || Setup::default().set("MaxInstances", "2");
    site.reload(roomier().set("LogLevel", "warn"));
    until("the log names it", || {
        let log = site.dispatch_log();
        log.contains("needs a restart: SystemLogs; the old configuration stays in force")
    });
    assert_eq!(site.instance_ids(), [&*instance]);
    site.reload(roomier());
    assert_ne!(site.until_runs(&waiting), instance);
    site.open_gate();
    for uuid in [&running, &waiting] {
        assert_eq!(api.exit_code(uuid), Some(0));
    }
}
