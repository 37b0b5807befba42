//! A process that runs until it is told to end.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::Signal;

use crate::procs::{Process, send};
use crate::wait::until_some;

/// A process in the background whose output goes to a file. It is killed when the value is dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts it; the file grows over several starts.
    ///
    /// # Panics
    /// If it cannot be started.
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

    /// The process.
    ///
    /// # Panics
    /// If it has ended.
    #[must_use]
    pub fn process(&self) -> Process {
        let pid = i32::try_from(self.child.id()).ok();
        let process = pid.and_then(Process::with_pid);
        process.expect("the process lives")
    }

    /// What it and those before it wrote.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How it ended, if it has.
    ///
    /// # Panics
    /// If the system does not tell.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child is waited for")
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Panics
    /// If it does not end.
    pub fn terminate(mut self) -> ExitStatus {
        if self.ended().is_none() {
            send(self.process(), Signal::TERM);
        }
        until_some("the process ends after TERM", || self.ended())
    }

    /// Kills it, as a crash would.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
