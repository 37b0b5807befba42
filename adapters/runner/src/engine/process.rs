//! Runs the command as a plain process of the VM, in its own process group and control groups.
//!
//! Memory is held by a control group where one can be had: all processes together, the kernel kills
//! when the limit is reached. Elsewhere each process gets the limit as `RLIMIT_DATA`: its private
//! writable memory, so that an allocation fails instead.

use std::fs::{self, DirBuilder};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, wait};

use super::stage::{Failure, Orders};
use super::{Engine, EngineError, Plan, Started};
use crate::cgroup::Groups;
use crate::tree::{self, Marks};

pub(super) struct Process {
    plan: Plan,
    scratch: PathBuf,
    cwd: PathBuf,
    groups: Groups,
    leader: Option<Pid>,
}

impl Process {
    pub(super) fn new(plan: Plan) -> Self {
        let scratch = plan.scratch_root.join(&plan.tag);
        Self {
            plan,
            cwd: PathBuf::new(),
            scratch,
            groups: Groups::default(),
            leader: None,
        }
    }
}

impl Engine for Process {
    fn prepare(&mut self) -> Result<(), EngineError> {
        let root = &self.plan.scratch_root;
        let io = |what: &Path| {
            let what = what.display().to_string();
            move |source: io::Error| EngineError::Node { what, source }
        };
        fs::create_dir_all(root).map_err(io(root))?;
        trusted(root).map_err(|why| io(root)(io::Error::other(why)))?;
        match fs::remove_dir_all(&self.scratch) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io(&self.scratch)(e)),
            _ => {}
        }
        for dir in [
            self.scratch.clone(),
            self.scratch.join("work"),
            self.scratch.join("tmp"),
        ] {
            DirBuilder::new()
                .mode(0o700)
                .create(&dir)
                .map_err(io(&dir))?;
        }
        self.cwd = working_directory(&self.plan.cwd, &self.scratch.join("work"))?;
        if self.plan.cgroups {
            self.groups = Groups::create(&self.plan.tag, self.plan.memory_bytes_max);
        }
        // Whatever user code does, its processes stay below this one until they end.
        let me = rustix::process::getpid();
        rustix::process::set_child_subreaper(Some(me))
            .map_err(|errno| io(Path::new("subreaper"))(errno.into()))
    }

    fn start(&mut self) -> Result<Started, EngineError> {
        let node = |what: &str| {
            let what = what.to_owned();
            move |source: io::Error| EngineError::Node { what, source }
        };
        let data_bytes_max = self
            .plan
            .memory_bytes_max
            .filter(|_| !self.groups.limits_memory());
        let orders = Orders {
            joins: self.groups.joins().collect(),
            data_bytes_max,
        };
        let orders = serde_json::to_string(&orders).map_err(|e| node("orders")(e.into()))?;
        let (mut report, reporter) = io::pipe().map_err(node("pipe"))?;
        let mut stage = Command::new("/proc/self/exe");
        stage.arg(crate::STAGE).arg(orders).args(&self.plan.command);
        stage
            .env_clear()
            .envs(base_environment(&self.scratch))
            .envs(&self.plan.environment);
        stage.current_dir(&self.cwd).process_group(0);
        stage
            .stdin(Stdio::from(reporter))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = match stage.spawn() {
            Ok(child) => child,
            Err(error) if error.raw_os_error() == Some(Errno::TOOBIG.raw_os_error()) => {
                return Err(EngineError::Container(format!(
                    "command and environment are too long: {error}"
                )));
            }
            Err(error) => return Err(node("start a process")(error)),
        };
        // The command holds this process's end of the pipe: without it, the end of the step is seen.
        drop(stage);
        let mut failure = Vec::new();
        let heard = report.read_to_end(&mut failure);
        if heard.is_err() || !failure.is_empty() {
            let _ = child.wait();
            return Err(blame(&failure));
        }
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(node("start a process")(io::Error::other(
                "its output is missing",
            )));
        };
        let leader = Pid::from_child(&child);
        self.leader = Some(leader);
        Ok(Started {
            stdout: Box::new(stdout),
            stderr: Box::new(stderr),
            wait: Box::new(move || await_leader(leader)),
        })
    }

    fn terminate(&self) {
        if let Some(leader) = self.leader {
            let _ = kill_process_group(leader, Signal::TERM);
        }
    }

    fn kill(&self, patience: Duration) -> Result<(), Vec<i32>> {
        let supervisor = i32::try_from(std::process::id()).ok();
        let marks = Marks {
            supervisor,
            cgroup: self.plan.tag.clone(),
            lockfile: None,
        };
        tree::kill_all(&marks, patience).map(drop)
    }

    fn finish(&mut self) -> bool {
        while matches!(wait(WaitOptions::NOHANG), Ok(Some(_))) {}
        let out_of_memory = self.groups.out_of_memory();
        self.groups.remove();
        // Best effort: the container's result counts for more than its leftovers.
        let _ = fs::remove_dir_all(&self.scratch);
        out_of_memory
    }
}

/// Reaps until the user's program has ended; orphans come by too, since this is their subreaper.
fn await_leader(leader: Pid) -> i32 {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == leader => {
                let signalled = status.terminating_signal().map(|signal| 128 + signal);
                return status.exit_status().or(signalled).unwrap_or(255);
            }
            Err(errno) if errno != Errno::INTR => return 255,
            Ok(_) | Err(_) => {}
        }
    }
}

/// The default is below `/tmp`, where anybody may have been faster: scratch space in a place that
/// another user controls could be swapped for a link to somewhere else.
fn trusted(root: &Path) -> Result<(), &'static str> {
    let Ok(meta) = fs::symlink_metadata(root) else {
        return Ok(());
    };
    if meta.is_symlink() {
        return Err("is a symbolic link: name the directory itself");
    }
    let owners = [0, rustix::process::geteuid().as_raw()];
    if owners.contains(&meta.uid()) {
        Ok(())
    } else {
        Err("belongs to another user: chown it, or name another directory")
    }
}

/// An absolute directory must exist; a relative one is made below the container's own.
fn working_directory(cwd: &str, own: &Path) -> Result<PathBuf, EngineError> {
    let wrong = |why: &str| EngineError::Container(format!("cwd {cwd:?}: {why}"));
    let path = Path::new(cwd);
    if path.is_absolute() {
        return if path.is_dir() {
            Ok(path.to_owned())
        } else {
            Err(wrong("is no directory on this machine"))
        };
    }
    if path
        .components()
        .any(|part| !matches!(part, Component::Normal(_) | Component::CurDir))
    {
        return Err(wrong("leads out of the container's scratch directory"));
    }
    let full: PathBuf = own.join(path).components().collect();
    fs::create_dir_all(&full).map_err(|source| EngineError::Node {
        what: full.display().to_string(),
        source,
    })?;
    Ok(full)
}

/// Nothing of the runner's own environment but the search path and the language: what the
/// dispatcher put there is not for user code.
fn base_environment(scratch: &Path) -> Vec<(&'static str, std::ffi::OsString)> {
    let path = std::env::var_os("PATH").filter(|path| !path.is_empty());
    let default = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let mut environment = vec![
        ("PATH", path.unwrap_or_else(|| default.into())),
        ("HOME", scratch.join("work").into()),
        ("TMPDIR", scratch.join("tmp").into()),
    ];
    environment.extend(std::env::var_os("LANG").map(|lang| ("LANG", lang)));
    environment
}

/// Whose fault a failed step is: a program that cannot be executed is the container's.
fn blame(report: &[u8]) -> EngineError {
    let Ok(failure) = serde_json::from_slice::<Failure>(report) else {
        let source = io::Error::other("it ended without a word");
        return EngineError::Node {
            what: "start a process".to_owned(),
            source,
        };
    };
    let source = io::Error::from_raw_os_error(failure.errno);
    let error = EngineError::Node {
        what: failure.text.clone(),
        source,
    };
    if failure.in_program && !error.is_broken_node() {
        EngineError::Container(failure.text)
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_directory_is_made_and_cannot_lead_out() -> io::Result<()> {
        let own = tempfile::tempdir()?;
        let made = working_directory("./a/b", own.path()).map_err(io::Error::other)?;
        assert_eq!(made, own.path().join("a/b"));
        assert!(made.is_dir());
        assert!(working_directory("../x", own.path()).is_err());
        assert!(working_directory("/nowhere/at/all", own.path()).is_err());
        Ok(())
    }

    #[test]
    fn scratch_space_is_not_made_where_somebody_else_could_swap_it() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        assert_eq!(trusted(dir.path()), Ok(()));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/usr", &link)?;
        assert!(trusted(&link).is_err());
        Ok(())
    }

    #[test]
    fn a_missing_program_is_the_containers_fault_and_a_full_disk_the_machines() {
        let report = |errno| {
            serde_json::to_vec(&Failure {
                errno,
                text: "x".to_owned(),
                in_program: true,
            })
            .unwrap_or_default()
        };
        assert!(matches!(blame(&report(2)), EngineError::Container(_)));
        assert!(blame(&report(Errno::NOSPC.raw_os_error())).is_broken_node());
        assert!(matches!(blame(b""), EngineError::Node { .. }));
    }
}
