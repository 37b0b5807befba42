//! Process tree of one container: finds and kills all processes.
//!
//! Processes are identified by three criteria, since user code can evade any single criterion:
//! descent from the supervisor (a subreaper, so that descendants stay below while the supervisor
//! lives), the container's control group, and the inherited lock file.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::cgroup::{self, Mounts};
use crate::lock::LockDir;
use crate::procfs::{self, FileId, Stat};

/// Criteria for the processes of a container.
#[derive(Debug, Clone)]
pub(crate) struct Criteria {
    /// Pid of the supervisor, whose descendants belong to the container. The supervisor itself does
    /// not.
    pub(crate) supervisor: Option<i32>,
    /// Name of the container's control groups.
    pub(crate) cgroup: String,
    /// Lock file inherited by descendants. Not used by the supervisor, since the parent process may
    /// still hold the file. Other processes open the file only under the directory-wide lock, which
    /// is therefore taken for each scan.
    pub(crate) lockfile: Option<(LockDir, FileId)>,
}

/// Kills until no process of the tree is left. Returns the control groups found. After `timeout`
/// returns the pids of the survivors, which are in uninterruptible sleep.
pub(crate) fn kill_all(
    criteria: &Criteria,
    timeout: Duration,
) -> Result<BTreeSet<PathBuf>, Vec<i32>> {
    let deadline = Instant::now() + timeout;
    let mounts = Mounts::here();
    let mut groups = BTreeSet::new();
    loop {
        let members = {
            // Continue without the lock on failure: the holder may be the hung process.
            let _all = criteria
                .lockfile
                .as_ref()
                .map(|(locks, _)| locks.lock_all());
            members(criteria, &mounts, &mut groups)
        };
        if members.is_empty() {
            return Ok(groups);
        }
        if Instant::now() >= deadline {
            return Err(members.into_iter().collect());
        }
        groups.iter().for_each(|dir| cgroup::kill(dir));
        for pid in members.into_iter().filter_map(Pid::from_raw) {
            // An error means that the process has ended; the next scan shows the rest.
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Returns the live processes of the tree, without the supervisor and this process.
fn members(criteria: &Criteria, mounts: &Mounts, groups: &mut BTreeSet<PathBuf>) -> BTreeSet<i32> {
    let me = i32::try_from(std::process::id()).ok();
    let spared = |pid: i32| Some(pid) == me || Some(pid) == criteria.supervisor;
    let all = procfs::all();
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for Stat { pid, parent, .. } in &all {
        children.entry(*parent).or_default().push(*pid);
    }
    let mut open: Vec<i32> = criteria.supervisor.into_iter().collect();
    for Stat { pid, .. } in all.iter().filter(|stat| !spared(stat.pid)) {
        let mut dirs = mounts.groups_of(*pid, &criteria.cgroup);
        let grouped = !dirs.is_empty();
        groups.extend(dirs.drain(..));
        if grouped
            || criteria
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
