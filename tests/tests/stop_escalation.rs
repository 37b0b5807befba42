//! Stop escalation: containers that ignore TERM.

use std::fs;

use longshore_tests::{Container, Process, Setup, TestCluster, is_alive, until, until_some};

/// Waits until the file `pids` contains `count` IDs of running processes.
fn processes(cluster: &TestCluster, count: usize) -> Vec<Process> {
    until_some(&format!("{count} processes run"), || {
        let text = cluster.read("pids");
        let pids = text.lines().filter_map(|line| line.parse().ok());
        let found: Vec<Process> = pids.filter_map(Process::with_pid).collect();
        (found.len() == count).then_some(found)
    })
}

#[test]
fn tree_ignoring_term_is_killed() {
    let cluster = TestCluster::start_with(Setup::default().set("LogLevel", "debug"));
    let api = cluster.api();
    // Each level starts a new session below a shell that exits at once, so that the parent process
    // is gone; one process also runs without the environment.
    let script = format!(
        "trap '' TERM HUP INT\n\
         echo $$ >>{pids}\n\
         if [ $1 -gt 0 ]; then\n\
         (setsid sh {stubborn} $(($1 - 1)) &)\n\
         (setsid env -i sh {stubborn} 0 &)\n\
         fi\n\
         while :; do sleep 0.2; done\n",
        pids = cluster.path("pids").display(),
        stubborn = cluster.path("stubborn").display(),
    );
    fs::write(cluster.path("stubborn"), script).unwrap();
    let script = format!("exec sh {} 2", cluster.path("stubborn").display());
    let uuid = api.submit(&Container::sh(script));
    let instance = cluster.until_runs(&uuid);
    let tree = processes(&cluster, 5);

    api.set_priority(&uuid, 0);
    let record = api.until_state(&uuid, "Cancelled");
    assert!(record["exit_code"].is_null(), "{record:#}");
    until("all processes of the container have ended", || {
        !tree.iter().any(|process| is_alive(*process))
    });
    let log = cluster.dispatch_log();
    for signal in ["Term", "Kill"] {
        assert!(
            log.contains(&format!("{uuid} {signal} sent on")),
            "no {signal}"
        );
    }

    let next = api.submit(&Container::sh("echo still fine"));
    assert_eq!(api.exit_code(&next), Some(0));
    assert_eq!(cluster.instance_ids(), [instance]);
}

#[test]
fn container_obeying_term_is_not_killed() {
    let cluster = TestCluster::start_with(Setup::default().set("LogLevel", "debug"));
    let api = cluster.api();
    let tidy = cluster.path("tidy").display().to_string();
    let uuid = api.submit(&Container::sh(format!(
        "trap 'echo bye; : >{tidy}; exit 0' TERM; echo $$ >{}; while :; do sleep 0.05; done",
        cluster.path("pids").display()
    )));
    let _ = cluster.until_runs(&uuid);
    let _ = processes(&cluster, 1);
    api.set_priority(&uuid, 0);
    let _ = api.until_state(&uuid, "Cancelled");
    assert!(cluster.path("tidy").exists());
    assert!(api.log(&uuid).starts_with("bye\n"), "{}", api.log(&uuid));
    assert!(
        cluster
            .dispatch_log()
            .contains(&format!("{uuid} Term sent on"))
    );
    assert!(
        !cluster
            .dispatch_log()
            .contains(&format!("{uuid} Kill sent on"))
    );
}

#[test]
fn other_containers_on_vm_are_not_affected() {
    let setup = Setup::default().replace("VCPUs: 1\n", "VCPUs: 2\n");
    let cluster = TestCluster::start_with(setup.set("MaxInstances", "1"));
    let api = cluster.api();
    let neighbour = api.submit(&cluster.gated("neighbour"));
    let instance = cluster.until_runs(&neighbour);
    let stubborn = api.submit(&Container::sh("trap '' TERM; while :; do sleep 0.2; done"));
    assert_eq!(cluster.until_runs(&stubborn), instance);
    api.set_priority(&stubborn, 0);
    let _ = api.until_state(&stubborn, "Cancelled");
    assert_eq!(api.state(&neighbour), "Running");
    cluster.open_gate();
    assert_eq!(api.exit_code(&neighbour), Some(0));
    assert_eq!(api.log(&neighbour), "through neighbour\n");
}
