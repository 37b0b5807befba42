//! Containers that do not want to end.

use std::fs;

use longshore_tests::{Container, Process, Setup, Site, is_alive, until, until_some};

/// Waits until the file `pids` has so many numbers of living processes.
fn processes(site: &Site, count: usize) -> Vec<Process> {
    until_some(&format!("{count} processes run"), || {
        let text = site.read("pids");
        let pids = text.lines().filter_map(|line| line.parse().ok());
        let found: Vec<Process> = pids.filter_map(Process::with_pid).collect();
        (found.len() == count).then_some(found)
    })
}

#[test]
fn a_tree_that_ignores_term_is_killed_to_the_last_process_and_the_vm_stays_usable() {
    let site = Site::start_with(Setup::default().set("LogLevel", "debug"));
    let api = site.api();
    // Each level begins a session of its own below a shell that ends at once, so that its parent is
    // gone; one has lost its environment too.
    let script = format!(
        "trap '' TERM HUP INT\n\
         echo $$ >>{pids}\n\
         if [ $1 -gt 0 ]; then\n\
         (setsid sh {stubborn} $(($1 - 1)) &)\n\
         (setsid env -i sh {stubborn} 0 &)\n\
         fi\n\
         while :; do sleep 0.2; done\n",
        pids = site.path("pids").display(),
        stubborn = site.path("stubborn").display(),
    );
    fs::write(site.path("stubborn"), script).unwrap();
    let script = format!("exec sh {} 2", site.path("stubborn").display());
    let uuid = api.submit(&Container::sh(script));
    let instance = site.until_runs(&uuid);
    let tree = processes(&site, 5);

    api.set_priority(&uuid, 0);
    let record = api.until_state(&uuid, "Cancelled");
    assert!(record["exit_code"].is_null(), "{record:#}");
    until("nothing of the container lives", || {
        !tree.iter().any(|process| is_alive(*process))
    });
    let log = site.dispatch_log();
    for signal in ["Term", "Kill"] {
        assert!(
            log.contains(&format!("{uuid} gets {signal}")),
            "no {signal}"
        );
    }

    let next = api.submit(&Container::sh("echo still fine"));
    assert_eq!(api.exit_code(&next), Some(0));
    assert_eq!(site.instance_ids(), [instance]);
}

#[test]
fn a_container_that_obeys_term_is_not_killed_and_can_tidy_up() {
    let site = Site::start_with(Setup::default().set("LogLevel", "debug"));
    let api = site.api();
    let tidy = site.path("tidy").display().to_string();
    let uuid = api.submit(&Container::sh(format!(
        "trap 'echo bye; : >{tidy}; exit 0' TERM; echo $$ >{}; while :; do sleep 0.05; done",
        site.path("pids").display()
    )));
    let _ = site.until_runs(&uuid);
    let _ = processes(&site, 1);
    api.set_priority(&uuid, 0);
    let _ = api.until_state(&uuid, "Cancelled");
    assert!(site.path("tidy").exists());
    assert!(api.log(&uuid).starts_with("bye\n"), "{}", api.log(&uuid));
    assert!(site.dispatch_log().contains(&format!("{uuid} gets Term")));
    assert!(!site.dispatch_log().contains(&format!("{uuid} gets Kill")));
}

#[test]
fn neighbours_on_the_same_vm_do_not_notice() {
    let setup = Setup::default().replace("VCPUs: 1\n", "VCPUs: 2\n");
    let site = Site::start_with(setup.set("MaxInstances", "1"));
    let api = site.api();
    let neighbour = api.submit(&site.gated("neighbour"));
    let instance = site.until_runs(&neighbour);
    let stubborn = api.submit(&Container::sh("trap '' TERM; while :; do sleep 0.2; done"));
    assert_eq!(site.until_runs(&stubborn), instance);
    api.set_priority(&stubborn, 0);
    let _ = api.until_state(&stubborn, "Cancelled");
    assert_eq!(api.state(&neighbour), "Running");
    site.open_gate();
    assert_eq!(api.exit_code(&neighbour), Some(0));
    assert_eq!(api.log(&neighbour), "through neighbour\n");
}
