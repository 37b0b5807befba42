//! Commands that end by themselves.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::wait::{PATIENCE, until_some_within};

/// What became of a command.
#[derive(Debug)]
pub struct Ran {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Ran {
    /// Its exit status; `None` if a signal ended it.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Itself, if it succeeded.
    ///
    /// # Panics
    /// If it did not.
    #[must_use]
    pub fn succeeded(self) -> Self {
        assert!(self.status.success(), "{self:#?}");
        self
    }

    /// Its standard output without white space around it.
    #[must_use]
    pub fn text(&self) -> &str {
        self.stdout.trim()
    }
}

/// Runs a command to its end.
///
/// # Panics
/// If it cannot be started or does not end.
#[must_use]
pub fn run(command: &mut Command) -> Ran {
    run_with_input(command, "")
}

/// Runs a command with this on its standard input, to its end.
///
/// # Panics
/// If it cannot be started or does not end.
#[must_use]
pub fn run_with_input(command: &mut Command, input: &str) -> Ran {
    run_for(command, input, PATIENCE)
}

/// Runs a command that may take so long, to its end.
///
/// # Panics
/// If it cannot be started or does not end.
#[must_use]
pub fn run_within(command: &mut Command, patience: Duration) -> Ran {
    run_for(command, "", patience)
}

fn run_for(command: &mut Command, input: &str, patience: Duration) -> Ran {
    // Files never fill up, as pipes do.
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
        until_some_within(patience, &what, || {
            child.try_wait().expect("a child is waited for")
        })
    }));
    let status = status.unwrap_or_else(|panic| {
        let _ = child.kill();
        let _ = child.wait();
        std::panic::resume_unwind(panic)
    });
    Ran {
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
