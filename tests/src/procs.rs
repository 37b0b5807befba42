//! Processes of this host: finding those of VMs, and ending them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::PATIENCE;

/// A process, safe against the reuse of its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// When it began, in clock ticks since the host booted.
    pub started: u64,
}

struct Stat {
    process: Process,
    parent: i32,
    ended: bool,
}

impl Process {
    /// The living process with this number.
    #[must_use]
    pub fn with_pid(pid: i32) -> Option<Self> {
        stat(pid).filter(|s| !s.ended).map(|s| s.process)
    }
}

/// Whether it lives; one that has ended and waits for its parent does not.
#[must_use]
pub fn is_alive(process: Process) -> bool {
    stat(process.pid).is_some_and(|s| s.process == process && !s.ended)
}

/// Sends a signal, if it still lives.
pub fn send(process: Process, signal: Signal) {
    if let Some(pid) = Pid::from_raw(process.pid).filter(|_| is_alive(process)) {
        // A failure means that it has just ended.
        let _ = kill_process(pid, signal);
    }
}

/// Every living process of a loopback VM whose directory is `dir` or below it, and everything that
/// descends from one.
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

/// A living process with everything that descends from it.
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

/// Kills what `find` finds until it finds nothing; each is stopped first, so that it starts nothing
/// more meanwhile. Returns those that do not end.
#[must_use]
pub fn end(find: impl Fn() -> Vec<Process>) -> Vec<Process> {
    let deadline = Instant::now() + PATIENCE;
    // What is just being started shows a little later.
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
    // The program's name, in parentheses, may hold anything.
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
