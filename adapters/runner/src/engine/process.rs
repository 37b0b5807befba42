//! Engine running the command as a plain process of the VM, in its own process group and control
//! groups.
//!
//! A control group, if available, limits the total memory: the kernel kills a process at the limit.
//! Otherwise `RLIMIT_DATA` limits the private writable memory of each process, and an allocation
//! fails at the limit.

use std::fs::{self, DirBuilder};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, wait};

use super::exec_helper::{Failure, Settings};
use super::{Engine, EngineError, Plan, Started};
use crate::cgroup::Groups;
use crate::process_tree::{self, Criteria};

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
        check_owner(root).map_err(|why| io(root)(io::Error::other(why)))?;
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
        // As a subreaper this process keeps all descendants until they end.
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
        let settings = Settings {
            joins: self.groups.joins().collect(),
            data_bytes_max,
        };
        let settings = serde_json::to_string(&settings).map_err(|e| node("settings")(e.into()))?;
        let (mut report, reporter) = io::pipe().map_err(node("pipe"))?;
        let mut helper = Command::new("/proc/self/exe");
        helper
            .arg(crate::EXEC_HELPER)
            .arg(settings)
            .args(&self.plan.command);
        helper
            .env_clear()
            .envs(base_environment(&self.scratch))
            .envs(&self.plan.environment);
        helper.current_dir(&self.cwd).process_group(0);
        helper
            .stdin(Stdio::from(reporter))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = match helper.spawn() {
            Ok(child) => child,
            Err(error) if error.raw_os_error() == Some(Errno::TOOBIG.raw_os_error()) => {
                return Err(EngineError::Container(format!(
                    "command and environment are too long: {error}"
                )));
            }
            Err(error) => return Err(node("start a process")(error)),
        };
        // `Command` holds this process's end of the pipe, which must be closed to see the end of
        // the helper.
        drop(helper);
        let mut failure = Vec::new();
        let read = report.read_to_end(&mut failure);
        if read.is_err() || !failure.is_empty() {
            let _ = child.wait();
            return Err(helper_error(&failure));
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

    fn kill(&self, timeout: Duration) -> Result<(), Vec<i32>> {
        let supervisor = i32::try_from(std::process::id()).ok();
        let criteria = Criteria {
            supervisor,
            cgroup: self.plan.tag.clone(),
            lockfile: None,
        };
        process_tree::kill_all(&criteria, timeout).map(drop)
    }

    fn finish(&mut self) -> bool {
        while matches!(wait(WaitOptions::NOHANG), Ok(Some(_))) {}
        let out_of_memory = self.groups.out_of_memory();
        self.groups.remove();
        // Best effort: the container's result matters more than leftover files.
        let _ = fs::remove_dir_all(&self.scratch);
        out_of_memory
    }
}

/// Reaps processes until the user's program has ended. Orphans are reaped too, since this process
/// is the subreaper.
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

/// Checks the owner of the scratch root. The default is below `/tmp`, where another user may have
/// created the directory and could replace scratch directories by links.
fn check_owner(root: &Path) -> Result<(), &'static str> {
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

/// Returns the working directory. An absolute directory must exist; a relative directory is created
/// below the container's own.
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

/// Returns the base environment: only the search path and the language of the runner's own
/// environment, because variables set by the dispatcher are not for user code.
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

/// Returns the error of a failed exec helper. A program that cannot be executed is an error of the
/// container.
fn helper_error(report: &[u8]) -> EngineError {
    let Ok(failure) = serde_json::from_slice::<Failure>(report) else {
        let source = io::Error::other("the exec helper ended without a report");
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
    fn relative_working_directory_stays_inside() -> io::Result<()> {
        let own = tempfile::tempdir()?;
        let made = working_directory("./a/b", own.path()).map_err(io::Error::other)?;
        assert_eq!(made, own.path().join("a/b"));
        assert!(made.is_dir());
        assert!(working_directory("../x", own.path()).is_err());
        assert!(working_directory("/nowhere/at/all", own.path()).is_err());
        Ok(())
    }

    #[test]
    fn scratch_root_of_other_user_is_refused() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        assert_eq!(check_owner(dir.path()), Ok(()));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/usr", &link)?;
        assert!(check_owner(&link).is_err());
        Ok(())
    }

    #[test]
    fn helper_errors_are_attributed() {
        let report = |errno| {
            serde_json::to_vec(&Failure {
                errno,
                text: "x".to_owned(),
                in_program: true,
            })
            .unwrap_or_default()
        };
        assert!(matches!(
            helper_error(&report(2)),
            EngineError::Container(_)
        ));
        assert!(helper_error(&report(Errno::NOSPC.raw_os_error())).is_broken_node());
        assert!(matches!(helper_error(b""), EngineError::Node { .. }));
    }
}
