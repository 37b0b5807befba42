//! Runner: runs one container on a VM and reports to the containers API.
//!
//! The dispatcher starts the runner over SSH (`--detach --stdin-config UUID`), lists the running
//! containers (`--list`) and stops a container (`--kill N UUID`). The detached runner fetches the
//! container record, reports `Running`, runs the command, streams the output, and reports the
//! result. Guarantees:
//!
//! - The lock file of a container is inherited by every descendant and stays locked until all
//!   processes have ended.
//! - User code never runs unless the API accepted the `Running` update. The update contains an
//!   address unique among live runners and can be repeated after a lost response.
//! - After `--kill 9` no process of the container exists, neither supervisor nor user process.
//! - No secret appears in the environment, command line or log of a user process.
//!
//! The binary is copied to every VM, and is therefore small and starts in milliseconds.

mod api;
mod broken_node;
mod cgroup;
mod config;
mod container;
mod cost;
mod detach;
mod ec2_spot;
mod engine;
mod flags;
mod gateway;
mod kill;
mod list;
mod lock;
mod logs;
mod preemption_file;
mod process_tree;
mod procfs;
mod run;
mod signals;
mod supervise;
mod time_format;
mod tls;

use std::ffi::OsString;
use std::io::Write as _;

use flags::{Flags, Parsed};

/// First argument that criteria the process started by a detaching parent.
const NO_DETACH: &str = "-no-detach";

/// First argument that criteria the exec helper, the process between the supervisor and the user's
/// program.
const EXEC_HELPER: &str = "-stage";

/// Runs the program with its full argument list including the program name. Returns the exit
/// status: 0 for success, 1 for a failure, 2 for an invalid command line.
#[must_use]
pub fn main_with(args: Vec<OsString>) -> u8 {
    let mut args = args.into_iter().skip(1).peekable();
    if args.peek().is_some_and(|first| first == EXEC_HELPER) {
        return engine::exec_helper::main(args.skip(1).collect());
    }
    let detached = args.next_if(|first| first == NO_DETACH).is_some();
    let args: Vec<OsString> = args.collect();
    match flags::parse(&args) {
        Parsed::Help(text) => {
            print_error(&text);
            0
        }
        Parsed::Usage(text) => {
            print_error(&text);
            2
        }
        Parsed::Flags(flags) => match choose(&flags, &args, detached) {
            Ok(code) => code,
            Err(text) => {
                print_error(&text);
                1
            }
        },
    }
}

/// Selects the mode: detach, then kill, then list, then run.
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
            print_error("a container uuid is missing: give it as the last argument\n");
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

/// Writes to stderr and ignores errors, because stderr may be closed.
fn print_error(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
