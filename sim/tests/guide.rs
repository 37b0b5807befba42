//! Checks of `docs/simulator.md`: runs its commands and compares their output with the text of the
//! guide. Numbers may differ, because every change of the world changes the runs of all seeds.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use longshore_core::Dispatcher;
use longshore_core::mutants::Mutant;
use longshore_sim::{CoreHook, Fault, cli};

const GUIDE: &str = include_str!("../../docs/simulator.md");

/// Command of the guide and its expected output.
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
                let session = all.last_mut().expect("a command before its output");
                session.lines.push(line.to_owned());
            }
            _ => {}
        }
    }
    all
}

/// Path for an argument: files written by commands are in a scratch directory of the test, files
/// read by commands in the source tree.
fn argument_path(word: &str) -> String {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let scratch: PathBuf = env!("CARGO_TARGET_TMPDIR").into();
    let path = match word {
        "small.jsonl" => scratch.join(format!("guide-{}.jsonl", std::process::id())),
        _ if word.starts_with("sim/tests/") => tree.join(word),
        _ => return word.to_owned(),
    };
    path.display().to_string()
}

/// Runs a command within this process; returns output and exit code.
fn run_command(command: &str) -> (String, u8) {
    let (mutant, words) = match command.split_once(" --example mutants -- ") {
        Some((_, words)) => words.split_once(' ').map(|(name, rest)| (Some(name), rest)),
        None => command
            .strip_prefix("longshore-sim ")
            .map(|rest| (None, rest)),
    }
    .expect("a command of the simulator");
    let hook = mutant.map(|name| {
        let mut all = Mutant::ALL.iter().copied();
        let mutant = all.find(|mutant| mutant.name() == name);
        let mutant = mutant.expect("a known mutant");
        let hook: Arc<CoreHook> = Arc::new(move |core: &mut Dispatcher| core.plant(mutant));
        hook
    });
    let mut all = vec!["longshore-sim".to_owned()];
    all.extend(words.split_whitespace().map(argument_path));
    let mut out = Vec::new();
    let code = cli::run(all, hook, &mut out);
    (String::from_utf8(out).expect("output in UTF-8"), code)
}

/// First seed reported as failed in an output.
fn failed_seed(output: &str) -> Option<String> {
    let mut failed = output.lines().filter_map(|line| line.strip_prefix("seed "));
    let (seed, _) = failed.find_map(|rest| rest.split_once(" failed"))?;
    Some(seed.to_owned())
}

/// Line with numbers masked and columns collapsed, since both may differ.
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
fn guide_commands_print_expected_output() {
    let sessions = sessions();
    assert_eq!(
        sessions.len(),
        5,
        "the plan, and four commands about a mutant"
    );
    let mut failing = None;
    for session in sessions {
        let command = match (&failing, session.command.split_once(" --minimize ")) {
            (Some(seed), Some((before, after))) => {
                let (_, after) = after.split_once(' ').expect("a seed and further arguments");
                format!("{before} --minimize {seed} {after}")
            }
            _ => session.command.clone(),
        };
        let (output, code) = run_command(&command);
        failing = failing.or_else(|| failed_seed(&output));
        let mut printed = output.lines();
        for expected in session.lines.iter().filter(|line| *line != "…") {
            assert!(
                printed.any(|line| masked(line) == masked(expected)),
                "{}: {expected:?} is missing or out of order; exit code {code}, output:\n{output}",
                session.command
            );
        }
    }
    let _gone = std::fs::remove_file(argument_path("small.jsonl"));
}

#[test]
fn guide_lists_every_fault() {
    let missing: Vec<&str> = Fault::ALL
        .iter()
        .map(|fault| fault.name())
        .filter(|name| !GUIDE.contains(&format!("`{name}`")))
        .collect();
    assert!(
        missing.is_empty(),
        "not in the catalogue of faults: {missing:?}"
    );
}

#[test]
fn invalid_workload_rejected() {
    let trace = Path::new(env!("CARGO_TARGET_TMPDIR")).join("wrong.jsonl");
    std::fs::write(&trace, "{\"at\": 0}\n").expect("a writable scratch directory");
    let words = ["longshore-sim", "--seed", "1", "--workload"];
    let words = words.map(str::to_owned).into_iter();
    let words = words.chain([trace.display().to_string()]);
    assert_eq!(cli::run(words, None, &mut Vec::new()), 4);
}
