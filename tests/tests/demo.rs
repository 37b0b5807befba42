//! Demo, and replay of the journal of a demo.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use longshore_tests::{CommandOutput, longshore, of_vms, run};
use serde_json::Value;
use tempfile::TempDir;

/// Run of the demo, shared by several tests.
struct Demo {
    dir: TempDir,
    report: Value,
    took: Duration,
    journal: String,
}

fn demo(dir: &Path, args: &[&str]) -> CommandOutput {
    let mut command = Command::new(longshore());
    command.arg("demo").args(args).env("TMPDIR", dir);
    run(command.env_remove("RUST_LOG"))
}

fn shared_demo() -> &'static Demo {
    static DEMO: OnceLock<Demo> = OnceLock::new();
    DEMO.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        // Builds the program before the measurement.
        let _ = longshore();
        let begun = Instant::now();
        let journals = dir.path().join("journals");
        let args = ["--containers", "60", "--json", "--journal"];
        let output = demo(
            dir.path(),
            &[&args[..], &[journals.to_str().unwrap()]].concat(),
        );
        let took = begun.elapsed();
        let output = output.succeeded();
        let files: Vec<PathBuf> = fs::read_dir(&journals)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(files.len(), 1, "{files:?}");
        Demo {
            journal: fs::read_to_string(&files[0]).unwrap(),
            report: serde_json::from_str(&output.stdout).unwrap(),
            dir,
            took,
        }
    })
}

/// Replays a journal with this text.
fn replay(text: &str, args: &[&str]) -> CommandOutput {
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

/// Number of the first line in the last two thirds of the journal that contains `part`.
fn line_with(text: &str, part: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let found = (lines.len() / 3..lines.len()).find(|i| lines[*i].contains(part));
    found.unwrap_or_else(|| panic!("{part} is not in the journal")) + 1
}

#[test]
fn sixty_containers_end_as_expected_in_time() {
    let Demo { report, took, .. } = shared_demo();
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
    // The container too large for every type was never on a VM; the other two were cancelled while
    // running.
    let cancelled = rows.iter().filter(|row| row["end"] == "cancelled");
    let unplaced = cancelled.filter(|row| row["instance"].is_null());
    let unplaced: Vec<&Value> = unplaced.collect();
    assert_eq!(unplaced.len(), 1, "{report:#}");
    assert!(unplaced[0]["ran_s"].is_null());

    for row in rows.iter().filter(|row| row["end"] == "0") {
        let seconds = row["ran_s"].as_f64().unwrap();
        assert!((0.9..30.0).contains(&seconds), "{row}");
        assert!(row["cost"].as_f64().unwrap() > 0.0, "{row}");
    }
    assert!(report["vms"].as_u64().unwrap() >= 6);
    assert!(report["vm_cost"].as_f64().unwrap() > 0.0);
    let [p50, p99] = ["dispatch_p50_s", "dispatch_p99_s"].map(|key| report[key].as_f64().unwrap());
    assert!(0.0 < p50 && p50 <= p99 && p99 < 5.0, "{p50} {p99}");
}

#[test]
fn demo_leaves_nothing() {
    let demo = shared_demo();
    assert_eq!(of_vms(demo.dir.path()), []);
    let left = fs::read_dir(demo.dir.path()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["journals"]);
}

#[test]
fn demo_prints_table_and_totals() {
    let dir = tempfile::tempdir().unwrap();
    let output = demo(dir.path(), &["--containers", "8"]).succeeded();
    let lines: Vec<&str> = output.stdout.lines().collect();
    let head: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(head, ["CONTAINER", "VM", "WAITED", "RAN", "EXIT", "COST"]);
    let rows: Vec<&&str> = lines
        .iter()
        .filter(|line| line.contains("-dz642-"))
        .collect();
    assert_eq!(rows.len(), 8, "{}", output.stdout);
    assert_eq!(
        rows.iter()
            .filter(|row| row.contains(" cancelled "))
            .count(),
        3
    );
    assert!(
        output.stdout.contains("8 containers in "),
        "{}",
        output.stdout
    );
    assert!(output.stdout.contains("p50 "), "{}", output.stdout);
    assert_eq!(of_vms(dir.path()), []);
}

#[test]
fn interrupted_demo_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(longshore());
    command.args(["demo", "--json"]).env("TMPDIR", dir.path());
    let daemon = longshore_tests::Daemon::start(&mut command, &dir.path().join("log"));
    longshore_tests::until("the demo has VMs", || of_vms(dir.path()).len() > 3);
    let status = daemon.terminate();
    assert_eq!(status.code(), Some(1));
    assert_eq!(of_vms(dir.path()), []);
    let left = fs::read_dir(dir.path()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["log"]);
}

#[test]
fn replay_issues_same_commands() {
    let output = replay(&shared_demo().journal, &["--json"]).succeeded();
    let verdict: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(verdict["same"], true);
    assert_eq!(verdict["cut_off"], false);
    let lines = shared_demo().journal.lines().count() as u64;
    assert_eq!(verdict["steps"].as_u64(), Some(lines - 1));
    // At least a lock and a start for each container except the oversized container.
    assert!(verdict["commands"].as_u64().unwrap() > 59 * 2);
    let output = replay(&shared_demo().journal, &[]).succeeded();
    assert!(output.stdout.contains("all"), "{}", output.stdout);
    assert!(
        output.stdout.contains("commands the same"),
        "{}",
        output.stdout
    );
}

#[test]
fn journal_contains_no_secret() {
    for word in ["BEGIN OPENSSH", "ARVADOS_API_TOKEN", "Token", "secret\":\""] {
        assert!(!shared_demo().journal.contains(word), "{word}");
    }
}

#[test]
fn replay_finds_changed_input() {
    let journal = &shared_demo().journal;
    let line = line_with(journal, "\"priority\":500");
    let change = |text: &str| Some(text.replacen("\"priority\":500", "\"priority\":499", 1));
    let output = replay(&with_line(journal, line, change), &[]);
    assert_eq!(output.code(), Some(1), "{output:?}");
    assert!(
        output.stderr.contains(&format!("line {line}")),
        "{}",
        output.stderr
    );
}

#[test]
fn replay_finds_missing_line() {
    let journal = &shared_demo().journal;
    let line = line_with(journal, "\"inputs\"");
    let output = replay(&with_line(journal, line, |_| None), &[]);
    assert_eq!(output.code(), Some(1), "{output:?}");
    assert!(
        output.stderr.contains(&format!("line {line}")),
        "{}",
        output.stderr
    );
}

#[test]
fn replay_shows_written_and_replayed_command() {
    let journal = &shared_demo().journal;
    let line = line_with(journal, "\"commands\"");
    let change = |text: &str| {
        let mut step: Value = serde_json::from_str(text).unwrap();
        let id = step["commands"][0]["id"].as_u64().unwrap();
        step["commands"][0]["id"] = (id + 1000).into();
        Some(step.to_string())
    };
    let doctored = with_line(journal, line, change);
    let output = replay(&doctored, &["--json"]);
    assert_eq!(output.code(), Some(1), "{output:?}");
    for part in [
        &*format!("line {line}"),
        "first difference",
        "written:",
        "replayed:",
    ] {
        assert!(output.stderr.contains(part), "{part}: {}", output.stderr);
    }
    let verdict: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(verdict["same"], false);
    assert_eq!(verdict["line"].as_u64(), Some(line as u64));
    let [written, replayed] = ["written", "replayed"].map(|key| verdict[key]["id"].as_u64());
    assert_eq!(written, replayed.map(|id| id + 1000));
}

#[test]
fn replay_skips_truncated_last_line() {
    let journal = &shared_demo().journal;
    let output = replay(&journal[..journal.len() - 10], &["--json"]).succeeded();
    let verdict: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(
        (&verdict["same"], &verdict["cut_off"]),
        (&true.into(), &true.into())
    );
    let lines = journal.lines().count() as u64;
    assert_eq!(verdict["steps"].as_u64(), Some(lines - 2));
}

#[test]
fn invalid_journal_is_refused() {
    let other_version = shared_demo()
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
        let output = replay(text, &[]);
        assert_eq!(output.code(), Some(2), "{part}: {output:?}");
        assert!(output.stderr.contains(part), "{part}: {}", output.stderr);
        assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
    }
    let output = run(Command::new(longshore()).args(["replay", "/no/such/file"]));
    assert_eq!(output.code(), Some(2));
    assert!(output.stderr.contains("/no/such/file"), "{}", output.stderr);
    // A file that is not valid UTF-8.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("journal");
    fs::write(&file, [0xff, 0xfe, b'\n']).unwrap();
    let output = run(Command::new(longshore()).arg("replay").arg(&file));
    assert_eq!(output.code(), Some(2), "{output:?}");
}
