//! The process tree of one container: who belongs to it, and how to end all of it.
//!
//! Three marks are combined, since user code can shake off any one of them: descent from the
//! supervisor (a subreaper, so that nothing leaves its tree while it lives), the container's control
//! group, and the inherited lock file.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::cgroup::{self, Mounts};
use crate::lock::LockDir;
use crate::procfs::{self, FileId, Stat};

/// How a container's processes are recognised.
#[derive(Debug, Clone)]
pub(crate) struct Marks {
    /// The supervisor: its descendants belong to the container, it does not itself.
    pub(crate) supervisor: Option<i32>,
    /// The name of the container's control groups.
    pub(crate) cgroup: String,
    /// The lock file that descendants inherited. Not used by the supervisor, since the parent that
    /// started it may still hold it too. Others open it only under the directory-wide lock, which is
    /// therefore taken for each look.
    pub(crate) lockfile: Option<(LockDir, FileId)>,
}

/// Kills until nothing of the tree lives, and returns the control groups that were seen. After
/// `patience` it gives up and names the survivors, which the kernel holds in uninterruptible sleep.
pub(crate) fn kill_all(marks: &Marks, patience: Duration) -> Result<BTreeSet<PathBuf>, Vec<i32>> {
    let deadline = Instant::now() + patience;
    let mounts = Mounts::here();
    let mut groups = BTreeSet::new();
    loop {
        let members = {
            // A look without the lock is better than none: its holder may be what hangs.
            let _all = marks.lockfile.as_ref().map(|(locks, _)| locks.lock_all());
            members(marks, &mounts, &mut groups)
        };
        if members.is_empty() {
            return Ok(groups);
        }
        if Instant::now() >= deadline {
            return Err(members.into_iter().collect());
        }
        groups.iter().for_each(|dir| cgroup::kill(dir));
        for pid in members.into_iter().filter_map(Pid::from_raw) {
            // It may be gone by now: the next look tells.
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The living members, without the supervisor and this process.
fn members(marks: &Marks, mounts: &Mounts, groups: &mut BTreeSet<PathBuf>) -> BTreeSet<i32> {
    let me = i32::try_from(std::process::id()).ok();
    let spared = |pid: i32| Some(pid) == me || Some(pid) == marks.supervisor;
    let all = procfs::all();
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for Stat { pid, parent, .. } in &all {
        children.entry(*parent).or_default().push(*pid);
    }
    let mut open: Vec<i32> = marks.supervisor.into_iter().collect();
    for Stat { pid, .. } in all.iter().filter(|stat| !spared(stat.pid)) {
        let mut dirs = mounts.groups_of(*pid, &marks.cgroup);
        let grouped = !dirs.is_empty();
        groups.extend(dirs.drain(..));
        if grouped
            || marks
                .lockfile
                .as_ref()
                .is_some_and(|(_, file)| file.is_open_in(*pid))
        {
            open.push(*pid);
        }
    }
    let mut found = BTreeSet::new();
    while let Some(pid) = open.pop() {
        if found.insert(pid) {
            open.extend(
                children
                    .get(&pid)
                    .into_iter()
                    .flatten()
                    .filter(|pid| !spared(**pid)),
            );
        }
    }
    found.retain(|pid| !spared(*pid));
    found
}
