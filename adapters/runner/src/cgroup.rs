//! Control groups, one per container: limit the memory, and find and kill the processes.
//!
//! Works with version 2, version 1 or without control groups. A group is created below the runner's
//! own group, so that limits of the runner stay effective. In version 2 the group is created below
//! the nearest ancestor that delegates the memory controller, if any. The runner creates no group
//! inside the group of another supervisor (neither the root nor a systemd unit), because the owner
//! could not remove the group.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Mount points of the control group hierarchies.
#[derive(Debug, Default)]
pub(crate) struct Mounts(Vec<Mount>);

#[derive(Debug)]
struct Mount {
    /// Controller names; empty for version 2.
    controllers: Vec<String>,
    /// Path inside the hierarchy that is visible at the mount point.
    root: String,
    point: PathBuf,
}

impl Mounts {
    /// Reads the mount points of this process.
    pub(crate) fn here() -> Self {
        Self(
            fs::read_to_string("/proc/self/mountinfo")
                .map(|text| parse_mounts(&text))
                .unwrap_or_default(),
        )
    }

    /// Returns the directories of all groups named `leaf` with the process as a member.
    pub(crate) fn groups_of(&self, pid: i32, leaf: &str) -> Vec<PathBuf> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        if !text.contains(leaf) {
            return Vec::new();
        }
        let lines = memberships(&text)
            .filter_map(|(controllers, path)| Some((controllers, truncate_after(path, leaf)?)));
        lines
            .filter_map(|(controllers, path)| self.dir(controllers, path))
            .collect()
    }

    /// Returns the directories of all groups named `leaf` that the process may have created, empty
    /// or not.
    pub(crate) fn groups_made_by(&self, pid: i32, leaf: &str) -> Vec<PathBuf> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let own = memberships(&text).filter_map(|(controllers, path)| {
            let top = self.find(controllers)?.point.clone();
            Some((self.dir(controllers, path)?, top))
        });
        let named = own.flat_map(|(own, top)| {
            let above = own.ancestors().take_while(|dir| dir.starts_with(&top));
            above.map(|dir| dir.join(leaf)).collect::<Vec<_>>()
        });
        named.filter(|dir| dir.is_dir()).collect()
    }

    fn find(&self, controllers: &str) -> Option<&Mount> {
        self.0
            .iter()
            .find(|mount| match controllers.split(',').next() {
                None | Some("") => mount.controllers.is_empty(),
                Some(first) => mount.controllers.iter().any(|known| known == first),
            })
    }

    fn dir(&self, controllers: &str, path: &str) -> Option<PathBuf> {
        let mount = self.find(controllers)?;
        let inside = if mount.root == "/" {
            path
        } else {
            path.strip_prefix(&mount.root)?
        };
        Some(mount.point.join(inside.trim_start_matches('/')))
    }

    /// Returns the directory of this process's own group, if the runner may create a group below.
    fn own(&self, controller: &str) -> Option<(PathBuf, &Mount)> {
        let text = fs::read_to_string("/proc/self/cgroup").ok()?;
        let (controllers, path) = memberships(&text).find(|(controllers, _)| match controller {
            "" => controllers.is_empty(),
            _ => controllers.split(',').any(|known| known == controller),
        })?;
        let unit = [".slice", ".scope", ".service"]
            .iter()
            .any(|kind| path.ends_with(kind));
        (path == "/" || unit).then_some((self.dir(controllers, path)?, self.find(controllers)?))
    }
}

/// Parses the lines of `/proc/PID/cgroup`: controllers (empty for version 2) and path.
fn memberships(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines()
        .filter_map(|line| line.split_once(':')?.1.split_once(':'))
}

/// Truncates the path after the component `leaf`.
fn truncate_after<'a>(path: &'a str, leaf: &str) -> Option<&'a str> {
    let start = path.find(leaf)?;
    let end = start + leaf.len();
    let whole = path[..start].ends_with('/') && (end == path.len() || path[end..].starts_with('/'));
    whole.then_some(&path[..end])
}

fn parse_mounts(text: &str) -> Vec<Mount> {
    text.lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let mut left = left.split(' ').skip(3);
            let (root, point) = (left.next()?.to_owned(), PathBuf::from(left.next()?));
            let mut right = right.split(' ');
            let controllers = match right.next()? {
                "cgroup2" => Vec::new(),
                "cgroup" => right
                    .nth(1)?
                    .split(',')
                    .filter(|o| !matches!(*o, "rw" | "ro"))
                    .map(str::to_owned)
                    .collect(),
                _ => return None,
            };
            Some(Mount {
                controllers,
                root,
                point,
            })
        })
        .collect()
}

/// Groups created for one container.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    dirs: BTreeSet<PathBuf>,
    /// Group with a memory limit, if any.
    memory: Option<PathBuf>,
}

impl Groups {
    /// Creates the groups that the host allows. Limits the memory to `memory_max` bytes if a memory
    /// controller is available.
    pub(crate) fn create(leaf: &str, memory_max: Option<u64>) -> Self {
        let mounts = Mounts::here();
        let mut groups = Self::default();
        if let Some((own, mount)) = mounts.own("") {
            groups.create_v2(&own, &mount.point, leaf, memory_max);
        }
        if let (Some(limit), None) = (memory_max, &groups.memory)
            && let Some((own, _)) = mounts.own("memory")
        {
            let dir = own.join(leaf);
            let limited = make(&dir)
                .and_then(|()| fs::write(dir.join("memory.limit_in_bytes"), limit.to_string()));
            match limited {
                Ok(()) => {
                    // The file is missing without swap accounting: then only the memory is limited.
                    let _ = fs::write(dir.join("memory.memsw.limit_in_bytes"), limit.to_string());
                    groups.memory = Some(dir.clone());
                    groups.dirs.insert(dir);
                }
                Err(_) => remove(&dir),
            }
        }
        if groups.dirs.is_empty()
            && let Some((own, _)) = mounts.own("pids")
            && make(&own.join(leaf)).is_ok()
        {
            groups.dirs.insert(own.join(leaf));
        }
        groups
    }

    fn create_v2(&mut self, own: &Path, top: &Path, leaf: &str, memory_max: Option<u64>) {
        if let Some(limit) = memory_max {
            let passes = |dir: &&Path| {
                let names =
                    fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
                dir.starts_with(top) && names.split_ascii_whitespace().any(|name| name == "memory")
            };
            for parent in own
                .ancestors()
                .take_while(|dir| dir.starts_with(top))
                .filter(passes)
            {
                let dir = parent.join(leaf);
                if make(&dir)
                    .and_then(|()| fs::write(dir.join("memory.max"), limit.to_string()))
                    .is_ok()
                {
                    let _ = fs::write(dir.join("memory.swap.max"), "0");
                    self.memory = Some(dir.clone());
                    self.dirs.insert(dir);
                    return;
                }
                remove(&dir);
            }
        }
        let dir = own.join(leaf);
        if make(&dir).is_ok() {
            self.dirs.insert(dir);
        }
    }

    /// Files for joining the groups: a process joins by writing `0`.
    pub(crate) fn joins(&self) -> impl Iterator<Item = PathBuf> {
        self.dirs.iter().map(|dir| dir.join("cgroup.procs"))
    }

    /// True if the total memory of all processes is limited.
    pub(crate) fn limits_memory(&self) -> bool {
        self.memory.is_some()
    }

    /// True if the kernel killed a process at the memory limit.
    pub(crate) fn out_of_memory(&self) -> bool {
        let Some(dir) = &self.memory else {
            return false;
        };
        let files = ["memory.events", "memory.oom_control"].map(|name| dir.join(name));
        files
            .iter()
            .filter_map(|file| fs::read_to_string(file).ok())
            .any(|text| {
                text.lines()
                    .filter_map(|line| line.strip_prefix("oom_kill "))
                    .any(|count| count.trim() != "0")
            })
    }

    /// Removes the groups. All processes must have ended.
    pub(crate) fn remove(&mut self) {
        self.dirs.iter().for_each(|dir| remove(dir));
        self.dirs.clear();
    }
}

fn make(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        done => done,
    }
}

/// Kills all processes of a version 2 group at once. Does nothing for a version 1 group.
pub(crate) fn kill(dir: &Path) {
    let _ = fs::OpenOptions::new()
        .write(true)
        .open(dir.join("cgroup.kill"))
        .and_then(|mut file| {
            use io::Write as _;
            file.write_all(b"1")
        });
}

/// Removes a group and all groups below, innermost first, as required by the kernel.
pub(crate) fn remove(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(dir);
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "30 24 0:26 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw\n\
        31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        32 24 0:28 /docker/abc /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        33 24 8:1 / / rw - ext4 /dev/sda1 rw\n";

    #[test]
    fn groups_are_found_in_all_hierarchies() {
        let mounts = Mounts(parse_mounts(MOUNTINFO));
        assert_eq!(
            mounts.dir("", "/a"),
            Some("/sys/fs/cgroup/unified/a".into())
        );
        assert_eq!(
            mounts.dir("memory", "/a/b"),
            Some("/sys/fs/cgroup/memory/a/b".into())
        );
        assert_eq!(
            mounts.dir("cpu,cpuacct", "/docker/abc/x"),
            Some("/sys/fs/cgroup/cpu,cpuacct/x".into())
        );
        assert_eq!(mounts.dir("cpu,cpuacct", "/elsewhere"), None);
    }

    #[test]
    fn group_name_matches_whole_component() {
        assert_eq!(truncate_after("/x/leaf/deeper", "leaf"), Some("/x/leaf"));
        assert_eq!(truncate_after("/x/leaf", "leaf"), Some("/x/leaf"));
        assert_eq!(truncate_after("/x/leaf2", "leaf"), None);
        assert_eq!(truncate_after("/x/aleaf", "leaf"), None);
    }

    #[test]
    fn oom_kill_is_detected() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let groups = Groups {
            dirs: BTreeSet::new(),
            memory: Some(dir.path().to_owned()),
        };
        fs::write(dir.path().join("memory.events"), "oom 0\noom_kill 0\n")?;
        assert!(!groups.out_of_memory());
        fs::write(dir.path().join("memory.events"), "oom 1\noom_kill 1\n")?;
        assert!(groups.out_of_memory());
        Ok(())
    }

    #[test]
    fn limit_uses_nearest_delegating_ancestor() -> io::Result<()> {
        let top = tempfile::tempdir()?;
        let own = top.path().join("slice/scope");
        fs::create_dir_all(&own)?;
        fs::write(top.path().join("cgroup.subtree_control"), "cpu memory")?;
        fs::write(top.path().join("slice/cgroup.subtree_control"), "memory")?;
        fs::write(own.join("cgroup.subtree_control"), "")?;
        let mut groups = Groups::default();
        groups.create_v2(&own, top.path(), "leaf", Some(4096));
        assert_eq!(
            fs::read_to_string(top.path().join("slice/leaf/memory.max"))?,
            "4096"
        );
        assert!(groups.limits_memory());
        Ok(())
    }
}
