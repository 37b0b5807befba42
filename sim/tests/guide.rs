//! Keeps `docs/simulator.md` honest: its commands are run, and print what stands there. Numbers may
//! differ, since every change of the world gives every seed another meaning.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use longshore_core::Dispatcher;
use longshore_core::mutants::Mutant;
use longshore_sim::{CoreHook, Fault, cli};

const GUIDE: &str = include_str!("../../docs/simulator.md");

/// A command of the guide and the lines that stand under it.
struct Session {
    command: String,
    lines: Vec<String>,
}

fn sessions() -> Vec<Session> {
    let mut all: Vec<Session> = Vec::new();
    let mut within = false;
    for line in GUIDE.lines() {
        match line.strip_prefix("$ ") {
            _ if line.starts_with("```") => within = line == "```console",
            Some(command) if within => all.push(Session {
                command: command.to_owned(),
                lines: Vec::new(),
            }),
            None if within => {
                let session = all.last_mut().expect("a command comes first");
                session.lines.push(line.to_owned());
            }
            _ => {}
        }
    }
    all
}

/// Files that commands write lie in a directory of the test's own, those that they read in the tree.
fn place(word: &str) -> String {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let scratch: PathBuf = env!("CARGO_TARGET_TMPDIR").into();
    let path = match word {
        "small.jsonl" => scratch.join(format!("guide-{}.jsonl", std::process::id())),
        _ if word.starts_with("sim/tests/") => tree.join(word),
        _ => return word.to_owned(),
    };
    path.display().to_string()
}

/// Runs a command within this process; its output and exit code.
fn perform(command: &str) -> (String, u8) {
    let (mutant, words) = match command.split_once(" --example planted -- ") {
        Some((_, words)) => words.split_once(' ').map(|(bug, rest)| (Some(bug), rest)),
        None => command
            .strip_prefix("longshore-sim ")
            .map(|rest| (None, rest)),
    }
    .expect("it is a command of the simulator");
    let hand = mutant.map(|name| {
        let bug = Mutant::ALL.iter().copied().find(|bug| bug.name() == name);
        let bug = bug.expect("there is such a bug");
        let hand: Arc<CoreHook> = Arc::new(move |core: &mut Dispatcher| core.plant(bug));
        hand
    });
    let mut all = vec!["longshore-sim".to_owned()];
    all.extend(words.split_whitespace().map(place));
    let mut out = Vec::new();
    let code = cli::run(all, hand, &mut out);
    (String::from_utf8(out).expect("it is text"), code)
}

/// The first seed that an output says has failed.
fn failed_seed(output: &str) -> Option<String> {
    let mut failed = output.lines().filter_map(|line| line.strip_prefix("seed "));
    let (seed, _) = failed.find_map(|rest| rest.split_once(" failed"))?;
    Some(seed.to_owned())
}

/// A line without what may differ: numbers, and where columns begin because of them.
fn masked(line: &str) -> String {
    let mut out = String::new();
    for word in line.split_whitespace() {
        let number = word.chars().any(|c| c.is_ascii_digit());
        out += if number { "#" } else { word };
        out.push(' ');
    }
    out
}

#[test]
fn the_commands_of_the_guide_print_what_stands_there() {
    let sessions = sessions();
    assert_eq!(sessions.len(), 5, "the plan, and the bug in four commands");
    let mut failing = None;
    for session in sessions {
        let command = match (&failing, session.command.split_once(" --minimize ")) {
            (Some(seed), Some((before, after))) => {
                let (_, after) = after.split_once(' ').expect("a seed and more");
                format!("{before} --minimize {seed} {after}")
            }
            _ => session.command.clone(),
        };
        let (output, code) = perform(&command);
        failing = failing.or_else(|| failed_seed(&output));
        let mut printed = output.lines();
        for expected in session.lines.iter().filter(|line| *line != "…") {
            assert!(
                printed.any(|line| masked(line) == masked(expected)),
                "{}: {expected:?} is not there, or not in this order; exit code {code}, output:\n{output}",
                session.command
            );
        }
    }
    let _gone = std::fs::remove_file(place("small.jsonl"));
}

#[test]
fn the_guide_names_every_fault() {
    let missing: Vec<&str> = Fault::ALL
        .iter()
        .map(|fault| fault.name())
        .filter(|name| !GUIDE.contains(&format!("`{name}`")))
        .collect();
    assert!(missing.is_empty(), "not in the catalogue: {missing:?}");
}

#[test]
fn wrong_work_is_refused_with_its_line_and_field() {
    let trace = Path::new(env!("CARGO_TARGET_TMPDIR")).join("wrong.jsonl");
    std::fs::write(&trace, "{\"at\": 0}\n").expect("it can be written");
    let words = ["longshore-sim", "--seed", "1", "--workload"];
    let words = words.map(str::to_owned).into_iter();
    let words = words.chain([trace.display().to_string()]);
    assert_eq!(cli::run(words, None, &mut Vec::new()), 4);
}
