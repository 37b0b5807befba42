//! `--list`: lists the containers on this VM.

use std::fs;
use std::io::{self, Write as _};

use rustix::process::{Pid, Signal, kill_process};

use crate::cost;
use crate::flags::Flags;
use crate::lock::{LockDir, LockError, LockState, Record};
use crate::preemption_file::PreemptionNotice;
use crate::procfs;

/// Prints one line per container. The line is `UUID stale` if the runner has ended but a descendant
/// is alive. Also prints `broken` if this VM is unfit for containers, and `preempted` with a Unix
/// time after a preemption notice of the cloud.
pub(crate) fn list(flags: &Flags) -> Result<(), LockError> {
    let locks = LockDir::new(&flags.lock_dir);
    let print_error = |text: String| crate::print_error(&(text + "\n"));
    if flags.stdin_prices
        && let Err(why) = cost::update(&locks.prices(), io::stdin())
    {
        print_error(why);
    }
    let failed = |source| LockError::Io {
        path: locks.path().to_owned(),
        source,
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(locks.path()).map_err(failed)? {
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    names.sort_unstable();
    let mut out = String::new();
    for name in &names {
        if name == "crunch-run-broken" {
            out += "broken\n";
        }
        if name == "crunch-run-preempted"
            && let Some(notice) = PreemptionNotice::read(&locks)
        {
            out += &format!("preempted {}\n", notice.at);
        }
        let uuid = name
            .strip_prefix("crunch-run-")
            .and_then(|rest| rest.strip_suffix(".lock"));
        let Some(_) = uuid.filter(|uuid| *uuid != "all") else {
            continue;
        };
        match locks.test(&locks.path().join(name))? {
            LockState::Held(Ok(record)) if ping(&record) => out += &format!("{}\n", record.uuid),
            LockState::Held(Ok(record)) => out += &format!("{} stale\n", record.uuid),
            LockState::Held(Err(error)) => print_error(error.to_string()),
            LockState::Free | LockState::StartingOrMissing => {}
        }
    }
    io::stdout()
        .write_all(out.as_bytes())
        .map_err(|source| LockError::Io {
            path: "stdout".into(),
            source,
        })
}

/// Signals the runner to read the prices again. Returns false if the runner has ended.
fn ping(record: &Record) -> bool {
    let pid = Pid::from_raw(record.pid).filter(|pid| !pid.is_init());
    procfs::is_alive(record.pid, record.start)
        && pid.is_some_and(|pid| kill_process(pid, Signal::USR2).is_ok())
}
