//! `--kill N UUID`: signals a container's runner. With 9 everything of the container is ended.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::cgroup::{self, Mounts};
use crate::flags::Flags;
use crate::lock::{LockDir, LockError, Look, Record};
use crate::procfs::{self, FileId};
use crate::tree::{self, Marks};

/// How long a signalled runner may take to be gone.
const GONE_MAX: Duration = Duration::from_secs(1);

/// How long the whole tree may take to die; only uninterruptible sleep takes longer than an instant.
const TREE_MAX: Duration = Duration::from_secs(5);

/// Returns 0 when the container's runner is gone, 1 when it lives or cannot be told.
pub(crate) fn kill(flags: &Flags, uuid: &str, signal: i32) -> u8 {
    let locks = LockDir::new(&flags.lock_dir);
    let outcome = match signal {
        9 => kill_tree(&locks, uuid),
        _ => signal_runner(&locks, uuid, signal),
    };
    let (code, text) = match outcome {
        Ok(text) => (0, text),
        Err(text) => (1, text),
    };
    if !text.is_empty() {
        crate::complain(&format!("{uuid}: {text}\n"));
    }
    code
}

fn signal_runner(locks: &LockDir, uuid: &str, signal: i32) -> Result<String, String> {
    let Some((Record { pid, start, .. }, _)) = locks.record(uuid).map_err(|e| e.to_string())?
    else {
        return Ok(String::new());
    };
    let gone = || Ok(format!("pid {pid}: no such process"));
    let Some(target) = Pid::from_raw(pid).filter(|_| procfs::is_alive(pid, start)) else {
        return gone();
    };
    let mut name = "null signal";
    if signal != 0 {
        let signal = Signal::from_named_raw(signal)
            .ok_or_else(|| format!("signal {signal} is not a known signal"))?;
        name = signal_name(signal);
        if let Err(errno) = kill_process(target, signal) {
            return Ok(format!("pid {pid}: {errno}"));
        }
    }
    if vanishes(pid, start, GONE_MAX) {
        return gone();
    }
    Err(format!(
        "pid {pid}: sent signal {signal} ({name}) but process is still alive"
    ))
}

fn signal_name(signal: Signal) -> &'static str {
    match signal {
        Signal::TERM => "terminated",
        Signal::INT => "interrupt",
        Signal::QUIT => "quit",
        Signal::HUP => "hangup",
        Signal::USR1 => "user defined signal 1",
        Signal::USR2 => "user defined signal 2",
        _ => "signal",
    }
}

fn vanishes(pid: i32, start: Option<u64>, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    loop {
        if !procfs::is_alive(pid, start) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The supervisor is stopped first and killed last: as long as it lives, stopped or not, its orphaned
/// descendants come back to it and can be found; and stopped it can neither start nor report anything.
fn kill_tree(locks: &LockDir, uuid: &str) -> Result<String, String> {
    let path = locks.container(uuid);
    let Some(lockfile) = FileId::of(&path) else {
        return Ok(String::new());
    };
    // A record that cannot be read does not save those who hold the lock.
    let record = match locks.record(uuid) {
        Ok(None) => return Ok(String::new()),
        Ok(Some(found)) => Some(found),
        Err(LockError::Record { .. }) => None,
        Err(error) => return Err(error.to_string()),
    };
    let supervisor = record.as_ref().and_then(|(record, _)| {
        let known = procfs::is_alive(record.pid, record.start);
        // Without a start time, holding the lock file tells the runner from a stranger with its pid.
        let pid = Pid::from_raw(record.pid).filter(|_| known && lockfile.is_open_in(record.pid))?;
        Some((pid, record.start))
    });
    if let Some((pid, start)) = supervisor {
        let _ = kill_process(pid, Signal::STOP);
        let deadline = Instant::now() + GONE_MAX;
        let running = || {
            procfs::stat(pid.as_raw_pid()).is_some_and(|now| !now.is_stopped() && !now.is_dead())
        };
        while procfs::is_alive(pid.as_raw_pid(), start) && running() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let survivors =
        |pids: Vec<i32>| format!("sent KILL, but these processes are still alive: {pids:?}");
    let mut marks = Marks {
        supervisor: supervisor.map(|(pid, _)| pid.as_raw_pid()),
        cgroup: locks.tag(uuid),
        lockfile: Some((locks.clone(), lockfile)),
    };
    // While one of them lives its supervisor is kept, so that the next KILL finds it again.
    let mut groups = tree::kill_all(&marks, TREE_MAX).map_err(survivors)?;
    if let Some((pid, start)) = supervisor {
        groups.extend(Mounts::here().groups_made_by(pid.as_raw_pid(), &marks.cgroup));
        let _ = kill_process(pid, Signal::KILL);
        if !vanishes(pid.as_raw_pid(), start, TREE_MAX) {
            return Err(survivors(vec![pid.as_raw_pid()]));
        }
    }
    // Once more without the supervisor, for what came to life between the last look and its end.
    marks.supervisor = None;
    groups.extend(tree::kill_all(&marks, TREE_MAX).map_err(survivors)?);
    groups.iter().for_each(|dir| cgroup::remove(dir));
    remove_scratch(record, &locks.tag(uuid));
    match locks.look(&path).map_err(|e| e.to_string())? {
        Look::Abandoned | Look::Nothing if !path.exists() => {
            Ok("killed with all its processes".to_owned())
        }
        _ => Err(format!(
            "killed all processes found, but {} is still locked",
            path.display()
        )),
    }
}

/// Only when we wrote the record ourselves: the lock directory may be open to everybody.
fn remove_scratch(record: Option<(Record, bool)>, tag: &str) {
    let Some((
        Record {
            scratch: Some(scratch),
            ..
        },
        true,
    )) = record
    else {
        return;
    };
    let named: PathBuf = scratch;
    if named.file_name().is_some_and(|name| name == tag) {
        let _ = std::fs::remove_dir_all(named);
    }
}
