//! Exec helper between the supervisor and the user's program: a new process of this binary joins
//! the control groups, sets its own limits, and then executes the user's program.
//!
//! Standard input is a pipe for reporting a failure. On success the pipe is closed without data.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};

/// Settings applied before executing the user's program.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// Files to write `0` to, for joining control groups.
    pub(crate) joins: Vec<PathBuf>,
    /// Limit of private writable memory per process, in bytes.
    pub(crate) data_bytes_max: Option<u64>,
}

/// Failure of the exec helper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// Error number of the operating system; 0 if none.
    pub(crate) errno: i32,
    pub(crate) text: String,
    /// True if executing the user's program failed, after all settings were applied.
    pub(crate) in_program: bool,
}

/// Runs the exec helper. The arguments are the settings as JSON, the user's program and its
/// arguments. Returns only on failure.
pub(crate) fn main(args: Vec<OsString>) -> u8 {
    let report = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3);
    let failure = become_program(args);
    if let (Ok(report), Ok(text)) = (report, serde_json::to_vec(&failure)) {
        let _ = rustix::io::write(report, &text);
    }
    126
}

fn become_program(args: Vec<OsString>) -> Failure {
    let failed = |what: &str, error: &io::Error, in_program| Failure {
        errno: error.raw_os_error().unwrap_or(0),
        text: format!("{what}: {error}"),
        in_program,
    };
    let mut args = args.into_iter();
    let (settings, program) = (
        args.next().unwrap_or_default(),
        args.next().unwrap_or_default(),
    );
    let settings: Settings = match serde_json::from_slice(settings.as_encoded_bytes()) {
        Ok(settings) => settings,
        Err(error) => return failed("settings", &error.into(), false),
    };
    for file in &settings.joins {
        if let Err(error) = std::fs::write(file, "0") {
            return failed(&format!("{}", file.display()), &error, false);
        }
    }
    if settings.data_bytes_max.is_some() {
        let limit = Rlimit {
            current: settings.data_bytes_max,
            maximum: settings.data_bytes_max,
        };
        if let Err(error) = setrlimit(Resource::Data, limit) {
            return failed("limit memory", &error.into(), false);
        }
    }
    let error = Command::new(&program)
        .args(args)
        .stdin(Stdio::null())
        .exec();
    failed(&format!("cannot run {}", program.display()), &error, true)
}
