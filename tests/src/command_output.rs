//! Commands run to completion.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::wait::{TIMEOUT, until_some_within};

/// Result of a command.
#[derive(Debug)]
pub struct CommandOutput {
    /// Exit status.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl CommandOutput {
    /// Exit code; `None` if the command was killed by a signal.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Returns the output if the command succeeded.
    ///
    /// # Panics
    ///
    /// If the command failed.
    #[must_use]
    pub fn succeeded(self) -> Self {
        assert!(self.status.success(), "{self:#?}");
        self
    }

    /// Standard output without surrounding white space.
    #[must_use]
    pub fn text(&self) -> &str {
        self.stdout.trim()
    }
}

/// Runs a command to completion.
///
/// # Panics
///
/// If the command cannot be started or does not end.
#[must_use]
pub fn run(command: &mut Command) -> CommandOutput {
    run_with_input(command, "")
}

/// Runs a command with `input` on standard input to completion.
///
/// # Panics
///
/// If the command cannot be started or does not end.
#[must_use]
pub fn run_with_input(command: &mut Command, input: &str) -> CommandOutput {
    run_for(command, input, TIMEOUT)
}

/// Runs a command to completion with another timeout.
///
/// # Panics
///
/// If the command cannot be started or does not end.
#[must_use]
pub fn run_within(command: &mut Command, timeout: Duration) -> CommandOutput {
    run_for(command, "", timeout)
}

fn run_for(command: &mut Command, input: &str, timeout: Duration) -> CommandOutput {
    // Unlike pipes, files have no limited capacity.
    let [mut stdin, mut stdout, mut stderr] =
        [(); 3].map(|()| tempfile::tempfile().expect("a temporary file"));
    stdin
        .write_all(input.as_bytes())
        .expect("a file is written");
    stdin.rewind().expect("a file is rewound");
    let stdio = |file: &File| Stdio::from(file.try_clone().expect("a file is opened again"));
    let mut child = command
        .stdin(stdio(&stdin))
        .stdout(stdio(&stdout))
        .stderr(stdio(&stderr))
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let what = format!("{command:?} ends");
    let status = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        until_some_within(timeout, &what, || {
            child.try_wait().expect("a child is waited for")
        })
    }));
    let status = status.unwrap_or_else(|panic| {
        let _ = child.kill();
        let _ = child.wait();
        std::panic::resume_unwind(panic)
    });
    CommandOutput {
        status,
        stdout: text(&mut stdout),
        stderr: text(&mut stderr),
    }
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().expect("a file is rewound");
    file.read_to_end(&mut bytes).expect("a file is read");
    String::from_utf8_lossy(&bytes).into_owned()
}
