//! Crashes of the dispatcher neither lose nor repeat containers.

use longshore_tests::{Setup, TestCluster, until};

fn sorted_lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

fn begun(cluster: &TestCluster) -> usize {
    cluster.read("begun").lines().count()
}

#[test]
fn restarted_dispatcher_adopts_instances() {
    let mut cluster = TestCluster::start_with(Setup::default().set("MaxInstances", "3"));
    let api = cluster.api();
    let words: Vec<String> = (0..8).map(|i| format!("c{i}")).collect();
    let containers = words.iter().map(|word| api.submit(&cluster.gated(word)));
    let containers: Vec<String> = containers.collect();
    until("three containers run", || begun(&cluster) == 3);
    let instances = cluster.instance_ids();
    assert_eq!(instances.len(), 3);

    cluster.kill_dispatcher();
    let states = || containers.iter().map(|uuid| api.state(uuid));
    assert_eq!(states().filter(|state| state == "Running").count(), 3);
    cluster.start_dispatcher();
    until("the new dispatcher lists all three containers", || {
        let running = |i: &serde_json::Value| i["worker_state"] == "running";
        cluster.instances().iter().filter(|i| running(i)).count() == 3
    });
    assert_eq!(cluster.instance_ids(), instances);
    assert_eq!(begun(&cluster), 3, "a runner was started twice");

    cluster.open_gate();
    for (uuid, word) in containers.iter().zip(&words) {
        assert_eq!(api.exit_code(uuid), Some(0));
        assert_eq!(api.log(uuid), format!("through {word}\n"));
    }
    assert_eq!(sorted_lines(&cluster.read("begun")), words);
    assert_eq!(sorted_lines(&cluster.read("ended")), words);
    assert_eq!(cluster.vms_made(), 3, "an unneeded VM was created");
}

#[test]
fn repeated_crashes_run_containers_once() {
    let mut cluster = TestCluster::start_with(Setup::default().set("MaxInstances", "2"));
    cluster.open_gate();
    let api = cluster.api();
    let words: Vec<String> = (10..26).map(|i| format!("c{i}")).collect();
    let containers = words.iter().map(|word| api.submit(&cluster.gated(word)));
    let containers: Vec<String> = containers.collect();
    // Each kill coincides with the start of the next container.
    for count in [1, 4, 7, 10] {
        until("more containers have started", || begun(&cluster) >= count);
        cluster.kill_dispatcher();
        cluster.start_dispatcher();
    }
    for uuid in &containers {
        assert_eq!(api.exit_code(uuid), Some(0));
    }
    assert_eq!(sorted_lines(&cluster.read("begun")), words);
    assert_eq!(sorted_lines(&cluster.read("ended")), words);
    assert!(cluster.vms_made() <= 2, "{:?}", cluster.instance_ids());
}
