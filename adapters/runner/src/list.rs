//! `--list`: which containers live here.

use std::fs;
use std::io::{self, Write as _};

use rustix::process::{Pid, Signal, kill_process};

use crate::cost;
use crate::flags::Flags;
use crate::lock::{LockDir, LockError, Look, Record};
use crate::notice::Notice;
use crate::procfs;

/// Prints one line for each container that lives here, `UUID stale` when only descendants of its
/// runner do, `broken` when this machine is unfit for work, and `preempted` with a Unix time when the
/// cloud has announced that it takes this machine back then.
pub(crate) fn list(flags: &Flags) -> Result<(), LockError> {
    let locks = LockDir::new(&flags.lock_dir);
    let complain = |text: String| crate::complain(&(text + "\n"));
    if flags.stdin_prices
        && let Err(why) = cost::update(&locks.prices(), io::stdin())
    {
        complain(why);
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
            && let Some(notice) = Notice::read(&locks)
        {
            out += &format!("preempted {}\n", notice.at);
        }
        let uuid = name
            .strip_prefix("crunch-run-")
            .and_then(|rest| rest.strip_suffix(".lock"));
        let Some(_) = uuid.filter(|uuid| *uuid != "all") else {
            continue;
        };
        match locks.look(&locks.path().join(name))? {
            Look::Held(Ok(record)) if ping(&record) => out += &format!("{}\n", record.uuid),
            Look::Held(Ok(record)) => out += &format!("{} stale\n", record.uuid),
            Look::Held(Err(error)) => complain(error.to_string()),
            Look::Abandoned | Look::Nothing => {}
        }
    }
    io::stdout()
        .write_all(out.as_bytes())
        .map_err(|source| LockError::Io {
            path: "stdout".into(),
            source,
        })
}

/// Tells the runner to look at the prices again; `false` when there is no such runner any more.
fn ping(record: &Record) -> bool {
    let pid = Pid::from_raw(record.pid).filter(|pid| !pid.is_init());
    procfs::is_alive(record.pid, record.start)
        && pid.is_some_and(|pid| kill_process(pid, Signal::USR2).is_ok())
}
