//! The program from outside: tables, exit status, a closed pipe.

use std::fs;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A workspace with one package of one file.
fn tree(source: &str) -> TempDir {
    let dir = TempDir::new().expect("a folder for the test");
    let src = dir.path().join("small/src");
    fs::create_dir_all(&src).expect("folders for the source");
    let manifest = "[package]\nname = \"small\"\n[[bin]]\nname = \"other\"\n";
    fs::write(dir.path().join("small/Cargo.toml"), manifest).expect("a manifest");
    fs::write(src.join("lib.rs"), source).expect("a source file");
    dir
}

fn program(dir: &TempDir, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore-lint"));
    command.args(words).arg("--root").arg(dir.path());
    command
}

fn run(dir: &TempDir, words: &[&str]) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = program(dir, words).output().expect("the program starts");
    let text = [stdout, stderr].concat();
    (status.code(), String::from_utf8(text).expect("text"))
}

const GOOD: &str = "//! A box.\nmod a { use crate::b::B; }\nmod b {}\n";
const BAD: &str = "//! Whether.\n/// What it is.\nmod a { use crate::b::B; }\nmod b { use crate::a::A; }\n\
                   /// Which.\nfn f() {}\n#[test]\nfn a_b_c_d_e_f_g_h_i_j() {}\n";

#[test]
fn program_goals_met_exits_zero() {
    let dir = tree(GOOD);
    for command in ["prose", "circles"] {
        let (code, text) = run(&dir, &[command, "--crate", "small"]);
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("\nsmall "), "{text}");
    }
}

#[test]
fn program_goals_missed_exits_one() {
    let dir = tree(BAD);
    let (code, text) = run(&dir, &["prose", "--worst", "1"]);
    assert_eq!(code, Some(1), "{text}");
    for line in [
        "small/src/lib.rs:2: What it is. (2 of 3 words)",
        "small/src/lib.rs:1: Whether.",
        "small: small/src/lib.rs:8: 10 words in a test name, goal 9: a_b_c_d_e_f_g_h_i_j",
    ] {
        assert!(text.lines().any(|other| other == line), "{line}: {text}");
    }
    let (code, text) = run(&dir, &["circles"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("small: 2 modules in a circle: a, b"),
        "{text}"
    );
}

#[test]
fn program_wrong_input_exits_two() {
    let dir = tree(GOOD);
    for words in [
        &[][..],
        &["rhyme"],
        &["prose", "--worst"],
        &["prose", "--worst", "many"],
        &["prose", "--depth", "1"],
        &["circles", "--worst", "1"],
        &["prose", "--crate", "large"],
    ] {
        let (code, text) = run(&dir, words);
        assert_eq!(code, Some(2), "{words:?}: {text}");
        assert!(text.starts_with("longshore-lint: "), "{text}");
    }
    let (code, text) = run(&tree("fn f() {"), &["prose"]);
    assert_eq!(code, Some(2), "{text}");
    let empty = TempDir::new().expect("a folder for the test");
    assert_eq!(run(&empty, &["prose"]).0, Some(2));
}

#[test]
fn program_help_shows_example() {
    let (code, text) = run(&tree(GOOD), &["--help"]);
    assert_eq!(code, Some(0));
    assert!(text.contains("Example:") && text.contains("Exit status: 0"));
}

#[test]
fn program_closed_pipe_ends_quietly() {
    let mut command = program(&tree(GOOD), &["--help"]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let child = command.stdout(writer).stderr(Stdio::piped()).spawn();
    let output = child.and_then(std::process::Child::wait_with_output);
    let output = output.expect("the program ends");
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty());
}
