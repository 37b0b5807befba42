//! Reload of the configuration without a restart.

use longshore_tests::{Setup, TestCluster, until};

#[test]
fn reload_applies_limits_and_keeps_containers() {
    let cluster = TestCluster::start_with(Setup::default().set("MaxInstances", "1"));
    let api = cluster.api();
    let running = api.submit(&cluster.gated("running"));
    let instance = cluster.until_runs(&running);
    let waiting = api.submit(&cluster.gated("waiting"));
    until("the dispatcher lists the waiting container", || {
        cluster.dispatch_log().contains(&format!("{waiting} seen"))
    });
    assert_eq!(cluster.instance_ids(), [&*instance]);

    let larger = Setup::default()
        .set("MaxInstances", "2")
        .set("TimeoutIdle", "1s");
    cluster.reload(larger);
    assert_ne!(cluster.until_runs(&waiting), instance);
    assert_eq!(api.state(&running), "Running");
    cluster.open_gate();
    for uuid in [&running, &waiting] {
        assert_eq!(api.exit_code(uuid), Some(0));
    }
    until("all instances are terminated", || {
        cluster.instance_ids().is_empty()
    });
    assert_eq!(cluster.read("begun"), "running\nwaiting\n");
}

#[test]
fn reload_of_invalid_configuration_changes_nothing() {
    let cluster = TestCluster::start();
    let api = cluster.api();
    let running = api.submit(&cluster.gated("running"));
    let instance = cluster.until_runs(&running);
    let wrong = Setup::default()
        .set("TimeoutIdle", "1s")
        .set("ProbeInterval", "soon");
    cluster.reload(wrong);
    until("the log names the invalid value", || {
        let log = cluster.dispatch_log();
        log.contains("CloudVMs.ProbeInterval") && log.contains("soon")
    });
    cluster.open_gate();
    assert_eq!(api.exit_code(&running), Some(0));
    cluster.until_idle(&instance);
    let next = api.submit(&cluster.gated("next"));
    assert_eq!(api.exit_code(&next), Some(0));
    assert_eq!(cluster.instance_ids(), [instance]);
    assert!(!cluster.dispatch_log().contains("panicked"));
}

#[test]
fn reload_without_type_drains_its_instances() {
    let cluster = TestCluster::start();
    let api = cluster.api();
    let running = api.submit(&cluster.gated("running"));
    let instance = cluster.until_runs(&running);
    cluster.reload(Setup::default().replace("      small:", "      tiny:"));
    until("the instance is draining", || {
        cluster
            .instance(&instance)
            .is_some_and(|i| i["idle_behavior"] == "drain")
    });
    let next = api.submit(&cluster.gated("next"));
    assert_ne!(cluster.until_runs(&next), instance);
    assert_eq!(api.state(&running), "Running");
    cluster.open_gate();
    assert_eq!(api.exit_code(&running), Some(0));
    cluster.until_gone(&instance);
    assert_eq!(api.exit_code(&next), Some(0));
}

#[test]
fn reload_needing_restart_changes_nothing() {
    let cluster = TestCluster::start_with(Setup::default().set("MaxInstances", "1"));
    let api = cluster.api();
    let running = api.submit(&cluster.gated("running"));
    let instance = cluster.until_runs(&running);
    let waiting = api.submit(&cluster.gated("waiting"));
    let larger = || Setup::default().set("MaxInstances", "2");
    cluster.reload(larger().set("LogLevel", "warn"));
    until("the log names the key", || {
        let log = cluster.dispatch_log();
        log.contains("needs a restart: SystemLogs; the old configuration stays in force")
    });
    assert_eq!(cluster.instance_ids(), [&*instance]);
    cluster.reload(larger());
    assert_ne!(cluster.until_runs(&waiting), instance);
    cluster.open_gate();
    for uuid in [&running, &waiting] {
        assert_eq!(api.exit_code(uuid), Some(0));
    }
}
