//! `--kill N UUID`: sends a signal to a container's runner. Signal 9 kills all processes of the
//! container.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::cgroup::{self, Mounts};
use crate::flags::Flags;
use crate::lock::{LockDir, LockError, LockState, Record};
use crate::process_tree::{self, Criteria};
use crate::procfs::{self, FileId};

/// Maximum wait for the end of a runner after a signal.
const GONE_MAX: Duration = Duration::from_secs(1);

/// Maximum wait for the end of all processes. Only uninterruptible sleep takes longer than
/// milliseconds.
const TREE_MAX: Duration = Duration::from_secs(5);

/// Returns 0 if the container's runner is gone, 1 if still alive or unknown.
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
        crate::print_error(&format!("{uuid}: {text}\n"));
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
    if ends_within(pid, start, GONE_MAX) {
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

fn ends_within(pid: i32, start: Option<u64>, within: Duration) -> bool {
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

/// Kills all processes of a container. The supervisor is stopped first and killed last. As long as
/// the supervisor exists, even stopped, orphaned descendants are reparented to the supervisor and
/// can be found; a stopped supervisor can neither start nor report anything.
fn kill_tree(locks: &LockDir, uuid: &str) -> Result<String, String> {
    let path = locks.container(uuid);
    let Some(lockfile) = FileId::of(&path) else {
        return Ok(String::new());
    };
    // An unreadable record does not prevent the kill: the lock file identifies the processes.
    let record = match locks.record(uuid) {
        Ok(None) => return Ok(String::new()),
        Ok(Some(found)) => Some(found),
        Err(LockError::Record { .. }) => None,
        Err(error) => return Err(error.to_string()),
    };
    let supervisor = record.as_ref().and_then(|(record, _)| {
        let known = procfs::is_alive(record.pid, record.start);
        // Without a start time, a runner is identified by holding the lock file: the pid may have
        // been reused.
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
    let mut criteria = Criteria {
        supervisor: supervisor.map(|(pid, _)| pid.as_raw_pid()),
        cgroup: locks.tag(uuid),
        lockfile: Some((locks.clone(), lockfile)),
    };
    // The supervisor is kept while descendants survive, so that the next KILL finds them.
    let mut groups = process_tree::kill_all(&criteria, TREE_MAX).map_err(survivors)?;
    if let Some((pid, start)) = supervisor {
        groups.extend(Mounts::here().groups_made_by(pid.as_raw_pid(), &criteria.cgroup));
        let _ = kill_process(pid, Signal::KILL);
        if !ends_within(pid.as_raw_pid(), start, TREE_MAX) {
            return Err(survivors(vec![pid.as_raw_pid()]));
        }
    }
    // Once more without the supervisor, for processes started before the end of the supervisor.
    criteria.supervisor = None;
    groups.extend(process_tree::kill_all(&criteria, TREE_MAX).map_err(survivors)?);
    groups.iter().for_each(|dir| cgroup::remove(dir));
    remove_scratch(record, &locks.tag(uuid));
    match locks.test(&path).map_err(|e| e.to_string())? {
        LockState::Free | LockState::StartingOrMissing if !path.exists() => {
            Ok("killed with all its processes".to_owned())
        }
        _ => Err(format!(
            "killed all processes found, but {} is still locked",
            path.display()
        )),
    }
}

/// Removes the scratch directory, only if this user wrote the record: the lock directory may be
/// writable for all users.
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
