//! Program under test.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// Executables of a build.
struct Built {
    longshore: PathBuf,
    runner: PathBuf,
}

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Sets the program for all tests of this process, unless a program was set before.
pub fn use_program(path: &Path) {
    PROGRAM.get_or_init(|| path.to_owned());
}

/// Program under test: set by [`use_program`], `LONGSHORE_BIN`, or else the program of this
/// workspace, built if out of date.
#[must_use]
pub fn longshore() -> &'static Path {
    PROGRAM.get_or_init(|| match env::var_os("LONGSHORE_BIN") {
        Some(path) => path.into(),
        None => built().longshore.clone(),
    })
}

/// Runner deployed on VMs by the program: `LONGSHORE_RUNNER`, or else the runner of this workspace.
#[must_use]
pub fn runner() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| match env::var_os("LONGSHORE_RUNNER") {
        Some(path) => path.into(),
        None => built().runner.clone(),
    })
}

/// Builds once in each test process; cheap if the build is up to date.
fn built() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(build)
}

fn build() -> Built {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--package", "longshore", "--bin", "longshore"])
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    // Variables that cargo sets for this test would make build scripts run again.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let own = [
            "CARGO_MANIFEST_DIR",
            "CARGO_MANIFEST_PATH",
            "CARGO_TARGET_TMPDIR",
        ];
        if text.starts_with("CARGO_PKG_") || own.contains(&&*text) {
            cargo.env_remove(&name);
        }
    }
    let output = cargo.output().expect("cargo runs");
    assert!(output.status.success(), "building longshore failed");
    let messages = String::from_utf8_lossy(&output.stdout);
    let messages: Vec<Value> = messages
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let longshore = messages.iter().find_map(|m| m["executable"].as_str());
    let variables = messages
        .iter()
        .filter_map(|m| m["env"].as_array())
        .flatten();
    let runner = variables
        .filter(|pair| pair[0] == "LONGSHORE_RUNNER_FILE")
        .find_map(|pair| pair[1].as_str());
    Built {
        longshore: longshore.expect("cargo names the program").into(),
        runner: runner.expect("the build script names the runner").into(),
    }
}
