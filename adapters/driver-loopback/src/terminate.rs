//! Finding and ending every process of one VM.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};

use crate::store::VmDir;

/// Names the VM's directory to everything that runs on it, and so marks it.
pub(crate) const DIR_VARIABLE: &str = "LONGSHORE_VM_DIR";

/// Between two looks at the processes.
const PAUSE: Duration = Duration::from_millis(5);

/// Rounds in which processes that are seen for the first time are only stopped; later ones kill all
/// the same.
const FREEZING_ROUNDS_MAX: u32 = 8;

/// A process, safe against the reuse of its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) pid: i32,
    /// In clock ticks since the host booted.
    pub(crate) started: u64,
}

impl Identity {
    /// Of the calling process.
    pub(crate) fn own() -> io::Result<Self> {
        let pid = rustix::process::getpid().as_raw_pid();
        look(pid)
            .map(|process| process.identity)
            .ok_or_else(|| io::Error::other("/proc does not show this process"))
    }
}

/// Processes of the VM are still there at the deadline.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndError {
    #[error("{0} processes of the VM do not end; the first has number {1}")]
    StillRunning(usize, i32),
    #[error("the VM's process holds its lock, but is not found among the processes")]
    Hidden,
    #[error("cannot list the processes: {0}")]
    Proc(#[from] io::Error),
}

/// Kills the VM's process and everything that runs on the VM.
///
/// The VM's process is stopped at first, not killed: so it starts nothing more, and yet inherits
/// what its descendants leave behind, which therefore stays in its tree.
pub(crate) fn end_all(dir: &VmDir, patience: Duration) -> Result<(), EndError> {
    let deadline = Instant::now() + patience;
    let mut stopped = BTreeMap::new();
    let mut rounds = 0;
    let mut quiet_rounds = 0;
    // What is just being exec'd has no environment to be seen: nothing found once is not enough.
    while quiet_rounds < 2 {
        let vm = dir.process().ok().flatten();
        let mut found = find(&marker(dir.path()))?;
        // The VM's process is the first to be stopped and the last to be killed.
        found.sort_by_key(|identity| Some(*identity) != vm);
        if found.is_empty() && !dir.is_alive() {
            quiet_rounds += 1;
        } else if Instant::now() >= deadline {
            return Err(match found.first() {
                Some(first) => EndError::StillRunning(found.len(), first.pid),
                None => EndError::Hidden,
            });
        } else {
            quiet_rounds = 0;
            let mut fresh = false;
            for identity in &found {
                if stopped.insert(*identity, ()).is_none() {
                    fresh = true;
                    signal(*identity, Signal::STOP);
                }
            }
            rounds += 1;
            if !fresh || rounds > FREEZING_ROUNDS_MAX {
                for identity in found.iter().rev() {
                    signal(*identity, Signal::KILL);
                }
            }
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Every living process that bears the mark, or descends from one that does; never the caller.
fn find(marker: &[u8]) -> io::Result<Vec<Identity>> {
    let own = rustix::process::getpid().as_raw_pid();
    let mut children: BTreeMap<i32, Vec<Identity>> = BTreeMap::new();
    let mut open = Vec::new();
    for process in all()? {
        if process.identity.pid == own {
            continue;
        }
        children
            .entry(process.parent)
            .or_default()
            .push(process.identity);
        if !process.dead && bears(process.identity.pid, marker) {
            open.push(process.identity);
        }
    }
    let mut found = BTreeMap::new();
    while let Some(identity) = open.pop() {
        if found.insert(identity, ()).is_none() {
            open.extend(children.remove(&identity.pid).unwrap_or_default());
        }
    }
    let alive = |identity: &Identity| look(identity.pid).is_some_and(|process| !process.dead);
    Ok(found.into_keys().filter(alive).collect())
}

fn marker(dir: &Path) -> Vec<u8> {
    let mut text = OsString::from(DIR_VARIABLE);
    text.push("=");
    text.push(dir);
    text.into_vec()
}

fn bears(pid: i32, marker: &[u8]) -> bool {
    // What we may not read belongs to somebody else.
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environment| environment.split(|byte| *byte == 0).any(|e| e == marker))
}

/// Sends a signal unless the number has gone to another process by now.
fn signal(identity: Identity, signal: Signal) {
    let Some(pid) = Pid::from_raw(identity.pid) else {
        return;
    };
    let still_the_same = || look(identity.pid).is_some_and(|now| now.identity == identity);
    // A failure means that the process is gone, or shows as one that does not end.
    let _ = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) if still_the_same() => rustix::process::pidfd_send_signal(&handle, signal),
        Err(rustix::io::Errno::NOSYS) if still_the_same() => {
            rustix::process::kill_process(pid, signal)
        }
        _ => return,
    };
}

struct Process {
    identity: Identity,
    parent: i32,
    /// Ended, and only waits for its parent to notice.
    dead: bool,
}

fn all() -> io::Result<Vec<Process>> {
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        processes.extend(pid.and_then(look));
    }
    Ok(processes)
}

fn look(pid: i32) -> Option<Process> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let (parent, started, dead) = parse_stat(&stat)?;
    Some(Process {
        identity: Identity { pid, started },
        parent,
        dead,
    })
}

/// Parent, start and whether it has ended. The program's name, in parentheses, may hold anything.
fn parse_stat(stat: &[u8]) -> Option<(i32, u64, bool)> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let text = std::str::from_utf8(stat.get(after_name..)?).ok()?;
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    let threads: u32 = fields.get(17)?.parse().ok()?;
    // The first thread may have ended while others still run.
    let dead = matches!(*fields.first()?, "Z" | "X" | "x") && threads <= 1;
    Some((
        fields.get(1)?.parse().ok()?,
        fields.get(19)?.parse().ok()?,
        dead,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_process_name_cannot_fool_the_reader() {
        let stat = b"77 (a) Z 1 (b) S 42 77 77 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 9 9";
        assert_eq!(parse_stat(stat), Some((42, 123_456, false)));
        let stat = String::from_utf8_lossy(stat).replace(") S", ") Z");
        assert_eq!(parse_stat(stat.as_bytes()), Some((42, 123_456, true)));
        let threads_left = stat.replace("20 0 1 0", "20 0 2 0");
        assert_eq!(
            parse_stat(threads_left.as_bytes()),
            Some((42, 123_456, false))
        );
        assert_eq!(parse_stat(b"77 (a) Z 42"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    fn a_mark_counts_only_as_a_whole_entry() {
        let mut child = Command::new("sleep")
            .arg("60")
            .env(DIR_VARIABLE, "/x/vms/lo-12")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !bears(pid, &marker(Path::new("/x/vms/lo-12"))) {
            assert!(
                Instant::now() < deadline,
                "the child never showed its environment"
            );
            std::thread::sleep(PAUSE);
        }
        assert!(!bears(pid, &marker(Path::new("/x/vms/lo-1"))));
        assert!(!bears(pid, &marker(Path::new("/x/vms/lo-123"))));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_number_that_went_to_another_process_gets_no_signal() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let identity = look(pid).unwrap().identity;
        let earlier = Identity {
            started: identity.started - 1,
            ..identity
        };
        signal(earlier, Signal::KILL);
        assert!(child.try_wait().unwrap().is_none());
        signal(identity, Signal::KILL);
        assert!(!child.wait().unwrap().success());
    }
}
