//! The worker side: runs one container on a VM and reports.
//!
//! The dispatcher starts it over SSH (`--detach --stdin-config UUID`), asks which containers run
//! (`--list`) and stops one (`--kill N UUID`). The detached runner fetches its record, says
//! `Running`, runs the command, streams what it prints, and reports the result. What it promises:
//!
//! - A lock file, inherited by every descendant, tells whether anything of a container lives.
//! - User code never runs unless the API took the `Running` update. The update carries an address that
//!   no other live runner has, so that it can be repeated when its answer was lost.
//! - After `--kill 9` nothing of the container lives: neither supervisor nor user process.
//! - No secret reaches the environment, command line or log of a user process.
//!
//! The binary is small and starts in milliseconds, since it is copied to every VM.

mod api;
mod broken;
mod cgroup;
mod clock;
mod config;
mod container;
mod cost;
mod detach;
mod engine;
mod flags;
mod gateway;
mod kill;
mod list;
mod lock;
mod logs;
mod notice;
mod procfs;
mod run;
mod signals;
mod spot;
mod supervise;
mod tls;
mod tree;

use std::ffi::OsString;
use std::io::Write as _;

use flags::{Flags, Parsed};

/// Marks, as the first argument, the process that a detaching parent started.
const NO_DETACH: &str = "-no-detach";

/// Marks, as the first argument, the step between the supervisor and the user's program.
const STAGE: &str = "-stage";

/// Runs the program with its full argument list, program name first, and returns the exit status:
/// 0 for success, 1 for a failure, 2 for a command line that cannot be understood.
#[must_use]
pub fn main_with(args: Vec<OsString>) -> u8 {
    let mut args = args.into_iter().skip(1).peekable();
    if args.peek().is_some_and(|first| first == STAGE) {
        return engine::stage::main(args.skip(1).collect());
    }
    let detached = args.next_if(|first| first == NO_DETACH).is_some();
    let args: Vec<OsString> = args.collect();
    match flags::parse(&args) {
        Parsed::Help(text) => {
            complain(&text);
            0
        }
        Parsed::Usage(text) => {
            complain(&text);
            2
        }
        Parsed::Flags(flags) => match choose(&flags, &args, detached) {
            Ok(code) => code,
            Err(text) => {
                complain(&text);
                1
            }
        },
    }
}

/// Picks the mode: detach, then kill, then list, then run.
fn choose(flags: &Flags, args: &[OsString], detached: bool) -> Result<u8, String> {
    if flags.version {
        let mut out = std::io::stdout();
        let text = concat!("longshore-runner ", env!("CARGO_PKG_VERSION"), "\n");
        return out
            .write_all(text.as_bytes())
            .map(|()| 0)
            .map_err(|e| format!("stdout: {e}"));
    }
    let uuid = match (&flags.uuid, flags.list) {
        (Some(uuid), _) => uuid.as_str(),
        (None, true) => "",
        (None, false) => {
            complain("a container uuid is missing: give it as the last argument\n");
            return Ok(2);
        }
    };
    if flags.detach && !detached {
        return detach::detach(flags, uuid, args)
            .map(|()| 0)
            .map_err(|e| format!("{uuid}: {e}\n"));
    }
    if let Some(signal) = flags.kill {
        return Ok(kill::kill(flags, uuid, signal));
    }
    if flags.list {
        return list::list(flags)
            .map(|()| 0)
            .map_err(|e| format!("list: {e}\n"));
    }
    run::run(flags, uuid)
        .map(|()| 0)
        .map_err(|e| format!("{uuid} {e}\n"))
}

/// Writes to stderr, and does not mind when nobody reads it any more.
fn complain(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
