//! A queue that dies comes back with everything.

use longshore_tests::{Container, Site, until};

const LINES: usize = 20;

#[test]
fn after_a_kill_in_mid_run_no_result_and_no_line_of_output_is_lost() {
    let mut site = Site::start();
    let api = site.api();
    let containers: Vec<String> = (0..4)
        .map(|i| {
            let script = format!(
                "echo {i} >>{dir}/begun; for n in $(seq {LINES}); do echo \"{i}: line $n\"; sleep 0.1; done; \
                 echo {i} >>{dir}/ended; exit {i}",
                dir = site.path("").display()
            );
            api.submit(&Container::sh(script))
        })
        .collect();
    until("output has arrived", || {
        containers
            .iter()
            .all(|uuid| api.log(uuid).contains("line 3"))
    });
    site.kill_queue();
    until("some containers end while there is no queue", || {
        site.read("ended").lines().count() == 4
    });
    site.start_queue();
    for (i, uuid) in containers.iter().enumerate() {
        assert_eq!(api.exit_code(uuid), Some(i as i64));
        let expected: String = (1..=LINES).map(|n| format!("{i}: line {n}\n")).collect();
        assert_eq!(api.log(uuid), expected);
    }
    let mut begun: Vec<String> = site.read("begun").lines().map(str::to_owned).collect();
    begun.sort();
    assert_eq!(begun, ["0", "1", "2", "3"]);
}

#[test]
fn kills_again_and_again_lose_nothing_and_run_nothing_twice() {
    let mut site = Site::start();
    site.open_gate();
    let api = site.api();
    let mut containers = Vec::new();
    for round in 0..4 {
        let words = (0..4).map(|i| format!("r{round}c{i}"));
        containers.extend(words.map(|word| (api.submit(&site.gated(&word)), word)));
        let begun = || site.read("begun").lines().count();
        until("some of this round have begun", || begun() > round * 4);
        site.kill_queue();
        site.start_queue();
    }
    for (uuid, word) in &containers {
        assert_eq!(api.exit_code(uuid), Some(0));
        assert_eq!(api.log(uuid), format!("through {word}\n"));
    }
    for file in ["begun", "ended"] {
        let text = site.read(file);
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        let words: Vec<&str> = containers.iter().map(|(_, word)| &**word).collect();
        assert_eq!(lines, words, "{file}");
    }
}

#[test]
fn the_dispatcher_waits_for_a_queue_that_is_not_there_yet() {
    let mut site = Site::start();
    let api = site.api();
    site.kill_queue();
    site.stop_dispatcher();
    site.start_dispatcher();
    site.start_queue();
    let uuid = api.submit(&Container::sh("echo here"));
    assert_eq!(api.exit_code(&uuid), Some(0));
}
