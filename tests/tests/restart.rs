//! A dispatcher that dies takes nothing with it.

use longshore_tests::{Setup, Site, until};

fn sorted_lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

fn begun(site: &Site) -> usize {
    site.read("begun").lines().count()
}

#[test]
fn after_a_kill_in_mid_run_every_vm_is_adopted_and_every_container_runs_once() {
    let mut site = Site::start_with(Setup::default().set("MaxInstances", "3"));
    let api = site.api();
    let words: Vec<String> = (0..8).map(|i| format!("c{i}")).collect();
    let containers = words.iter().map(|word| api.submit(&site.gated(word)));
    let containers: Vec<String> = containers.collect();
    until("three run", || begun(&site) == 3);
    let instances = site.instance_ids();
    assert_eq!(instances.len(), 3);

    site.kill_dispatcher();
    let states = || containers.iter().map(|uuid| api.state(uuid));
    assert_eq!(states().filter(|state| state == "Running").count(), 3);
    site.start_dispatcher();
    until("the new dispatcher sees all three containers", || {
        let running = |i: &serde_json::Value| i["worker_state"] == "running";
        site.instances().iter().filter(|i| running(i)).count() == 3
    });
    assert_eq!(site.instance_ids(), instances);
    assert_eq!(begun(&site), 3, "a runner was started a second time");

    site.open_gate();
    for (uuid, word) in containers.iter().zip(&words) {
        assert_eq!(api.exit_code(uuid), Some(0));
        assert_eq!(api.log(uuid), format!("through {word}\n"));
    }
    assert_eq!(sorted_lines(&site.read("begun")), words);
    assert_eq!(sorted_lines(&site.read("ended")), words);
    assert_eq!(site.vms_made(), 3, "a VM was made in vain");
}

#[test]
fn kills_at_any_moment_never_let_a_container_run_twice_or_get_lost() {
    let mut site = Site::start_with(Setup::default().set("MaxInstances", "2"));
    site.open_gate();
    let api = site.api();
    let words: Vec<String> = (10..26).map(|i| format!("c{i}")).collect();
    let containers = words.iter().map(|word| api.submit(&site.gated(word)));
    let containers: Vec<String> = containers.collect();
    // Each kill falls into the start of the next container.
    for count in [1, 4, 7, 10] {
        until("more have begun", || begun(&site) >= count);
        site.kill_dispatcher();
        site.start_dispatcher();
    }
    for uuid in &containers {
        assert_eq!(api.exit_code(uuid), Some(0));
    }
    assert_eq!(sorted_lines(&site.read("begun")), words);
    assert_eq!(sorted_lines(&site.read("ended")), words);
    assert!(site.vms_made() <= 2, "{:?}", site.instance_ids());
}
