//! The step between the supervisor and the user's program: a fresh process of this binary joins the
//! control groups, sets limits on itself, and then becomes the user's program.
//!
//! Its standard input is a pipe on which it reports a failure; success closes the pipe silently.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};

/// What the step does before it becomes the user's program.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Orders {
    /// Files to write `0` to.
    pub(crate) joins: Vec<PathBuf>,
    /// Bytes of private writable memory that each process may map.
    pub(crate) data_bytes_max: Option<u64>,
}

/// What went wrong in the step.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// The operating system's error number; 0 when there is none.
    pub(crate) errno: i32,
    pub(crate) text: String,
    /// Whether the user's program could not be executed: everything before went well.
    pub(crate) in_program: bool,
}

/// Runs the step: orders as JSON, then the user's program and its arguments. Returns only on failure.
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
    let (orders, program) = (
        args.next().unwrap_or_default(),
        args.next().unwrap_or_default(),
    );
    let orders: Orders = match serde_json::from_slice(orders.as_encoded_bytes()) {
        Ok(orders) => orders,
        Err(error) => return failed("orders", &error.into(), false),
    };
    for file in &orders.joins {
        if let Err(error) = std::fs::write(file, "0") {
            return failed(&format!("{}", file.display()), &error, false);
        }
    }
    if orders.data_bytes_max.is_some() {
        let limit = Rlimit {
            current: orders.data_bytes_max,
            maximum: orders.data_bytes_max,
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
