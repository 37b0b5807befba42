//! Finds and terminates every process of a VM.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::procfs::{ProcessId, read_all, read_process};
use crate::store::VmDir;
use rustix::process::{Pid, PidfdFlags, Signal};

/// Environment variable with the directory of the VM, set for every process on the VM. Also marks
/// the processes of the VM.
pub(crate) const DIR_VARIABLE: &str = "LONGSHORE_VM_DIR";

/// Interval between process scans.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Number of scan rounds with SIGSTOP only for newly found processes; later rounds also send
/// SIGKILL.
const FREEZING_ROUNDS_MAX: u32 = 8;

/// Termination incomplete at the deadline.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TerminateError {
    #[error("{0} processes of the VM do not terminate; the first has process id {1}")]
    StillRunning(usize, i32),
    #[error("the VM's lock is held, but no process of the VM was found")]
    Hidden,
    #[error("cannot list the processes: {0}")]
    Proc(#[from] io::Error),
}

/// Kills the VM process and every process on the VM.
///
/// The VM process is first stopped, not killed: a stopped process starts no children, but still
/// inherits orphaned descendants, so that orphans stay in its process tree.
pub(crate) fn terminate_all(dir: &VmDir, timeout: Duration) -> Result<(), TerminateError> {
    let deadline = Instant::now() + timeout;
    let mut stopped = BTreeMap::new();
    let mut rounds = 0;
    let mut quiet_rounds = 0;
    // During an exec the environment of a process is not readable, so a single empty scan is not
    // sufficient.
    while quiet_rounds < 2 {
        let vm = dir.process().ok().flatten();
        let mut processes = find(&marker(dir.path()))?;
        // The VM process is stopped first and killed last.
        processes.sort_by_key(|identity| Some(*identity) != vm);
        if processes.is_empty() && !dir.is_alive() {
            quiet_rounds += 1;
        } else if Instant::now() >= deadline {
            return Err(match processes.first() {
                Some(first) => TerminateError::StillRunning(processes.len(), first.pid),
                None => TerminateError::Hidden,
            });
        } else {
            quiet_rounds = 0;
            let mut fresh = false;
            for identity in &processes {
                if stopped.insert(*identity, ()).is_none() {
                    fresh = true;
                    signal(*identity, Signal::STOP);
                }
            }
            rounds += 1;
            if !fresh || rounds > FREEZING_ROUNDS_MAX {
                for identity in processes.iter().rev() {
                    signal(*identity, Signal::KILL);
                }
            }
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

/// Running processes with the marker in the environment, and all running descendants; without the
/// calling process.
fn find(marker: &[u8]) -> io::Result<Vec<ProcessId>> {
    let own = rustix::process::getpid().as_raw_pid();
    let mut children: BTreeMap<i32, Vec<ProcessId>> = BTreeMap::new();
    let mut open = Vec::new();
    for process in read_all()? {
        if process.identity.pid == own {
            continue;
        }
        children
            .entry(process.parent)
            .or_default()
            .push(process.identity);
        if !process.dead && has_marker(process.identity.pid, marker) {
            open.push(process.identity);
        }
    }
    let mut found = BTreeMap::new();
    while let Some(identity) = open.pop() {
        if found.insert(identity, ()).is_none() {
            open.extend(children.remove(&identity.pid).unwrap_or_default());
        }
    }
    let alive =
        |identity: &ProcessId| read_process(identity.pid).is_some_and(|process| !process.dead);
    Ok(found.into_keys().filter(alive).collect())
}

fn marker(dir: &Path) -> Vec<u8> {
    let mut text = OsString::from(DIR_VARIABLE);
    text.push("=");
    text.push(dir);
    text.into_vec()
}

fn has_marker(pid: i32, marker: &[u8]) -> bool {
    // An unreadable environment belongs to another user.
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environment| environment.split(|byte| *byte == 0).any(|e| e == marker))
}

/// Sends a signal, unless the process id was reused.
fn signal(identity: ProcessId, signal: Signal) {
    let Some(pid) = Pid::from_raw(identity.pid) else {
        return;
    };
    let still_the_same = || read_process(identity.pid).is_some_and(|now| now.identity == identity);
    // A failure means that the process has exited, or shows up as a process without termination.
    let _ = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) if still_the_same() => rustix::process::pidfd_send_signal(&handle, signal),
        Err(rustix::io::Errno::NOSYS) if still_the_same() => {
            rustix::process::kill_process(pid, signal)
        }
        _ => return,
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn marker_matches_whole_entry_only() {
        let mut child = Command::new("sleep")
            .arg("60")
            .env(DIR_VARIABLE, "/x/vms/lo-12")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !has_marker(pid, &marker(Path::new("/x/vms/lo-12"))) {
            assert!(
                Instant::now() < deadline,
                "the environment of the child never became readable"
            );
            std::thread::sleep(POLL_INTERVAL);
        }
        assert!(!has_marker(pid, &marker(Path::new("/x/vms/lo-1"))));
        assert!(!has_marker(pid, &marker(Path::new("/x/vms/lo-123"))));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn signal_reused_pid_is_not_sent() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let identity = read_process(pid).unwrap().identity;
        let earlier = ProcessId {
            started: identity.started - 1,
            ..identity
        };
        signal(earlier, Signal::KILL);
        assert!(child.try_wait().unwrap().is_none());
        signal(identity, Signal::KILL);
        assert!(!child.wait().unwrap().success());
    }
}
