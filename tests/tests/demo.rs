//! The demo, and the replay of what it did.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use longshore_tests::{Ran, longshore, of_vms, run};
use serde_json::Value;
use tempfile::TempDir;

/// One run of the demo, which several tests look at.
struct Demo {
    dir: TempDir,
    report: Value,
    took: Duration,
    journal: String,
}

fn demo(dir: &Path, args: &[&str]) -> Ran {
    let mut command = Command::new(longshore());
    command.arg("demo").args(args).env("TMPDIR", dir);
    run(command.env_remove("RUST_LOG"))
}

fn the_demo() -> &'static Demo {
    static DEMO: OnceLock<Demo> = OnceLock::new();
    DEMO.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        // Before the clock runs.
        let _ = longshore();
        let begun = Instant::now();
        let journals = dir.path().join("journals");
        let args = ["--containers", "60", "--json", "--journal"];
        let ran = demo(
            dir.path(),
            &[&args[..], &[journals.to_str().unwrap()]].concat(),
        );
        let took = begun.elapsed();
        let ran = ran.succeeded();
        let files: Vec<PathBuf> = fs::read_dir(&journals)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(files.len(), 1, "{files:?}");
        Demo {
            journal: fs::read_to_string(&files[0]).unwrap(),
            report: serde_json::from_str(&ran.stdout).unwrap(),
            dir,
            took,
        }
    })
}

/// Replays a journal with this text.
fn replay(text: &str, args: &[&str]) -> Ran {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("journal");
    fs::write(&file, text).unwrap();
    run(Command::new(longshore()).arg("replay").arg(file).args(args))
}

/// Changes one line, counted from 1.
fn with_line(text: &str, number: usize, change: impl Fn(&str) -> Option<String>) -> String {
    let lines = text.lines().enumerate().filter_map(|(i, line)| {
        if i + 1 == number {
            change(line)
        } else {
            Some(line.to_owned())
        }
    });
    lines.map(|line| line + "\n").collect()
}

/// The number of the first line in the middle of the journal that contains this.
fn line_with(text: &str, part: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let found = (lines.len() / 3..lines.len()).find(|i| lines[*i].contains(part));
    found.unwrap_or_else(|| panic!("{part} stands nowhere")) + 1
}

#[test]
fn sixty_containers_end_as_they_should_within_two_minutes() {
    let Demo { report, took, .. } = the_demo();
    assert!(*took < Duration::from_secs(120), "{took:?}");
    let rows = report["containers"].as_array().unwrap();
    assert_eq!(rows.len(), 60);
    assert_eq!(report["unexpected"].as_array().unwrap().len(), 0);
    let ended = |end: &str| rows.iter().filter(|row| row["end"] == end).count();
    assert_eq!(
        (ended("0"), ended("3"), ended("cancelled")),
        (56, 1, 3),
        "{report:#}"
    );
    // The one that fits nowhere was never on a VM; the other two were stopped while they ran.
    let cancelled = rows.iter().filter(|row| row["end"] == "cancelled");
    let nowhere = cancelled.filter(|row| row["instance"].is_null());
    let nowhere: Vec<&Value> = nowhere.collect();
    assert_eq!(nowhere.len(), 1, "{report:#}");
    assert!(nowhere[0]["ran_s"].is_null());

    for row in rows.iter().filter(|row| row["end"] == "0") {
        let ran = row["ran_s"].as_f64().unwrap();
        assert!((0.9..30.0).contains(&ran), "{row}");
        assert!(row["cost"].as_f64().unwrap() > 0.0, "{row}");
    }
    assert!(report["vms"].as_u64().unwrap() >= 6);
    assert!(report["vm_cost"].as_f64().unwrap() > 0.0);
    let [p50, p99] = ["dispatch_p50_s", "dispatch_p99_s"].map(|key| report[key].as_f64().unwrap());
    assert!(0.0 < p50 && p50 <= p99 && p99 < 5.0, "{p50} {p99}");
}

#[test]
fn nothing_of_the_demo_is_left() {
    let demo = the_demo();
    assert_eq!(of_vms(demo.dir.path()), []);
    let left = fs::read_dir(demo.dir.path()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["journals"]);
}

#[test]
fn for_people_it_prints_a_table_and_totals() {
    let dir = tempfile::tempdir().unwrap();
    let ran = demo(dir.path(), &["--containers", "8"]).succeeded();
    let lines: Vec<&str> = ran.stdout.lines().collect();
    let head: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(head, ["CONTAINER", "VM", "WAITED", "RAN", "EXIT", "COST"]);
    let rows: Vec<&&str> = lines
        .iter()
        .filter(|line| line.contains("-dz642-"))
        .collect();
    assert_eq!(rows.len(), 8, "{}", ran.stdout);
    assert_eq!(
        rows.iter()
            .filter(|row| row.contains(" cancelled "))
            .count(),
        3
    );
    assert!(ran.stdout.contains("8 containers in "), "{}", ran.stdout);
    assert!(ran.stdout.contains("p50 "), "{}", ran.stdout);
    assert_eq!(of_vms(dir.path()), []);
}

#[test]
fn a_demo_that_is_interrupted_leaves_nothing_either() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(longshore());
    command.args(["demo", "--json"]).env("TMPDIR", dir.path());
    let daemon = longshore_tests::Daemon::start(&mut command, &dir.path().join("log"));
    longshore_tests::until("it has VMs", || of_vms(dir.path()).len() > 3);
    let status = daemon.terminate();
    assert_eq!(status.code(), Some(1));
    assert_eq!(of_vms(dir.path()), []);
    let left = fs::read_dir(dir.path()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["log"]);
}

#[test]
fn a_replay_brings_the_same_commands() {
    let ran = replay(&the_demo().journal, &["--json"]).succeeded();
    let verdict: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(verdict["same"], true);
    assert_eq!(verdict["cut_off"], false);
    let lines = the_demo().journal.lines().count() as u64;
    assert_eq!(verdict["steps"].as_u64(), Some(lines - 1));
    // Lock and start at least, for each container that fits somewhere.
    assert!(verdict["commands"].as_u64().unwrap() > 59 * 2);
    let ran = replay(&the_demo().journal, &[]).succeeded();
    assert!(ran.stdout.contains("all"), "{}", ran.stdout);
    assert!(ran.stdout.contains("commands the same"), "{}", ran.stdout);
}

#[test]
fn a_journal_holds_no_secret() {
    for word in ["BEGIN OPENSSH", "ARVADOS_API_TOKEN", "Token", "secret\":\""] {
        assert!(!the_demo().journal.contains(word), "{word}");
    }
}

#[test]
fn a_changed_input_is_found_at_its_line() {
    let journal = &the_demo().journal;
    let line = line_with(journal, "\"priority\":500");
    let change = |text: &str| Some(text.replacen("\"priority\":500", "\"priority\":499", 1));
    let ran = replay(&with_line(journal, line, change), &[]);
    assert_eq!(ran.code(), Some(1), "{ran:?}");
    assert!(
        ran.stderr.contains(&format!("line {line}")),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_lost_line_is_found_where_it_was() {
    let journal = &the_demo().journal;
    let line = line_with(journal, "\"inputs\"");
    let ran = replay(&with_line(journal, line, |_| None), &[]);
    assert_eq!(ran.code(), Some(1), "{ran:?}");
    assert!(
        ran.stderr.contains(&format!("line {line}")),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_changed_command_is_shown_beside_the_right_one() {
    let journal = &the_demo().journal;
    let line = line_with(journal, "\"commands\"");
    let change = |text: &str| {
        let mut step: Value = serde_json::from_str(text).unwrap();
        let id = step["commands"][0]["id"].as_u64().unwrap();
        step["commands"][0]["id"] = (id + 1000).into();
        Some(step.to_string())
    };
    let doctored = with_line(journal, line, change);
    let ran = replay(&doctored, &["--json"]);
    assert_eq!(ran.code(), Some(1), "{ran:?}");
    for part in [
        &*format!("line {line}"),
        "first difference",
        "written:",
        "replayed:",
    ] {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
    let verdict: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(verdict["same"], false);
    assert_eq!(verdict["line"].as_u64(), Some(line as u64));
    let [written, replayed] = ["written", "replayed"].map(|key| verdict[key]["id"].as_u64());
    assert_eq!(written, replayed.map(|id| id + 1000));
}

#[test]
fn a_last_line_that_was_cut_off_is_left_out() {
    let journal = &the_demo().journal;
    let ran = replay(&journal[..journal.len() - 10], &["--json"]).succeeded();
    let verdict: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (&verdict["same"], &verdict["cut_off"]),
        (&true.into(), &true.into())
    );
    let lines = journal.lines().count() as u64;
    assert_eq!(verdict["steps"].as_u64(), Some(lines - 2));
}

#[test]
fn what_is_no_journal_is_refused() {
    let other_version = the_demo()
        .journal
        .replacen("\"version\":1", "\"version\":99", 1);
    let cases = [
        ("", "empty"),
        ("what is this?\n", "line 1"),
        ("{\"a\": 1}\n", "line 1"),
        ("\u{0}\u{1}\u{2}\n", "line 1"),
        (&*other_version, "format 99"),
    ];
    for (text, part) in cases {
        let ran = replay(text, &[]);
        assert_eq!(ran.code(), Some(2), "{part}: {ran:?}");
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    }
    let ran = run(Command::new(longshore()).args(["replay", "/no/such/file"]));
    assert_eq!(ran.code(), Some(2));
    assert!(ran.stderr.contains("/no/such/file"), "{}", ran.stderr);
    // Not even text.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("journal");
    fs::write(&file, [0xff, 0xfe, b'\n']).unwrap();
    let ran = run(Command::new(longshore()).arg("replay").arg(&file));
    assert_eq!(ran.code(), Some(2), "{ran:?}");
}
