//! Crashes of the queue lose no data.

use longshore_tests::{Container, TestCluster, until};

const LINES: usize = 20;

#[test]
fn queue_crash_loses_no_result_or_output() {
    let mut cluster = TestCluster::start();
    let api = cluster.api();
    let containers: Vec<String> = (0..4)
        .map(|i| {
            let script = format!(
                "echo {i} >>{dir}/begun; for n in $(seq {LINES}); do echo \"{i}: line $n\"; sleep 0.1; done; \
                 echo {i} >>{dir}/ended; exit {i}",
                dir = cluster.path("").display()
            );
            api.submit(&Container::sh(script))
        })
        .collect();
    until("output has arrived", || {
        containers
            .iter()
            .all(|uuid| api.log(uuid).contains("line 3"))
    });
    cluster.kill_queue();
    until("containers end without a queue", || {
        cluster.read("ended").lines().count() == 4
    });
    cluster.start_queue();
    for (i, uuid) in containers.iter().enumerate() {
        assert_eq!(api.exit_code(uuid), Some(i as i64));
        let expected: String = (1..=LINES).map(|n| format!("{i}: line {n}\n")).collect();
        assert_eq!(api.log(uuid), expected);
    }
    let mut begun: Vec<String> = cluster.read("begun").lines().map(str::to_owned).collect();
    begun.sort();
    assert_eq!(begun, ["0", "1", "2", "3"]);
}

#[test]
fn repeated_queue_crashes_run_containers_once() {
    let mut cluster = TestCluster::start();
    cluster.open_gate();
    let api = cluster.api();
    let mut containers = Vec::new();
    for round in 0..4 {
        let words = (0..4).map(|i| format!("r{round}c{i}"));
        containers.extend(words.map(|word| (api.submit(&cluster.gated(&word)), word)));
        let begun = || cluster.read("begun").lines().count();
        until("containers of this round have started", || {
            begun() > round * 4
        });
        cluster.kill_queue();
        cluster.start_queue();
    }
    for (uuid, word) in &containers {
        assert_eq!(api.exit_code(uuid), Some(0));
        assert_eq!(api.log(uuid), format!("through {word}\n"));
    }
    for file in ["begun", "ended"] {
        let text = cluster.read(file);
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        let words: Vec<&str> = containers.iter().map(|(_, word)| &**word).collect();
        assert_eq!(lines, words, "{file}");
    }
}

#[test]
fn dispatcher_waits_for_queue() {
    let mut cluster = TestCluster::start();
    let api = cluster.api();
    cluster.kill_queue();
    cluster.stop_dispatcher();
    cluster.start_dispatcher();
    cluster.start_queue();
    let uuid = api.submit(&Container::sh("echo here"));
    assert_eq!(api.exit_code(&uuid), Some(0));
}
