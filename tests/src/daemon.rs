//! Long-running background processes.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::Signal;

use crate::procs::{Process, send};
use crate::wait::until_some;

/// Background process with output to a file. Killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts a process; the output is appended to the file.
    ///
    /// # Panics
    ///
    /// If the process cannot be started.
    #[must_use]
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(log);
        let file = file.unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a file is opened again"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self {
            child,
            log: log.to_owned(),
        }
    }

    /// Process ID and start time.
    ///
    /// # Panics
    ///
    /// If the process has ended.
    #[must_use]
    pub fn process(&self) -> Process {
        let pid = i32::try_from(self.child.id()).ok();
        let process = pid.and_then(Process::with_pid);
        process.expect("the process lives")
    }

    /// Output of this process and of earlier processes with the same file.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Exit status, if the process has ended.
    ///
    /// # Panics
    ///
    /// If the system call fails.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child is waited for")
    }

    /// Sends TERM and waits for the end.
    ///
    /// # Panics
    ///
    /// If the process does not end.
    pub fn terminate(mut self) -> ExitStatus {
        if self.ended().is_none() {
            send(self.process(), Signal::TERM);
        }
        until_some("the process ends after TERM", || self.ended())
    }

    /// Kills the process with SIGKILL, like a crash.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both calls fail only if the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
