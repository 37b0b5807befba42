//! Processes of this host: search for processes of VMs, and termination.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::TIMEOUT;

/// Process identity, safe against the reuse of process IDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Process ID.
    pub pid: i32,
    /// Start time, in clock ticks since the host booted.
    pub started: u64,
}

struct Stat {
    process: Process,
    parent: i32,
    ended: bool,
}

impl Process {
    /// Running process with this ID.
    #[must_use]
    pub fn with_pid(pid: i32) -> Option<Self> {
        stat(pid).filter(|s| !s.ended).map(|s| s.process)
    }
}

/// True if the process runs; false for zombies.
#[must_use]
pub fn is_alive(process: Process) -> bool {
    stat(process.pid).is_some_and(|s| s.process == process && !s.ended)
}

/// Sends a signal if the process still runs.
pub fn send(process: Process, signal: Signal) {
    if let Some(pid) = Pid::from_raw(process.pid).filter(|_| is_alive(process)) {
        // A failure means that the process has just ended.
        let _ = kill_process(pid, signal);
    }
}

/// Running processes of the loopback VMs with directory `dir` or a directory below, and all
/// descendants.
#[must_use]
pub fn of_vms(dir: &Path) -> Vec<Process> {
    let below = format!("LONGSHORE_VM_DIR={}/", dir.display());
    let itself = format!("LONGSHORE_VM_DIR={}", dir.display());
    let bears = |pid: i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let mut entries = environment.split(|byte| *byte == 0);
        entries.any(|e| e.starts_with(below.as_bytes()) || e == itself.as_bytes())
    };
    find(bears)
}

/// Running process with all descendants.
#[must_use]
pub fn tree_of(root: Process) -> Vec<Process> {
    find(|pid| pid == root.pid && is_alive(root))
}

fn find(is_root: impl Fn(i32) -> bool) -> Vec<Process> {
    let mut children: BTreeMap<i32, Vec<Process>> = BTreeMap::new();
    let mut open = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc is there").flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let Some(stat) = pid.and_then(stat).filter(|stat| !stat.ended) else {
            continue;
        };
        children.entry(stat.parent).or_default().push(stat.process);
        if is_root(stat.process.pid) {
            open.push(stat.process);
        }
    }
    let mut found = BTreeMap::new();
    while let Some(process) = open.pop() {
        if found.insert(process, ()).is_none() {
            open.extend(children.remove(&process.pid).unwrap_or_default());
        }
    }
    found.into_keys().collect()
}

/// Kills the processes returned by `find` until `find` returns none; each process is first stopped,
/// so that the process cannot start others. Returns the processes still running after the timeout.
#[must_use]
pub fn end(find: impl Fn() -> Vec<Process>) -> Vec<Process> {
    let deadline = Instant::now() + TIMEOUT;
    // A process being started may become visible a little later.
    let mut quiet_rounds = 0;
    while quiet_rounds < 2 {
        let found = find();
        quiet_rounds = if found.is_empty() {
            quiet_rounds + 1
        } else {
            0
        };
        for signal in [Signal::STOP, Signal::KILL] {
            found.iter().for_each(|process| send(*process, signal));
        }
        if Instant::now() >= deadline {
            return found;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Vec::new()
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    // The program name, in parentheses, may contain any characters.
    let (_, rest) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    Some(Stat {
        process: Process {
            pid,
            started: fields.get(19)?.parse().ok()?,
        },
        parent: fields.get(1)?.parse().ok()?,
        ended: matches!(*fields.first()?, "Z" | "X"),
    })
}
