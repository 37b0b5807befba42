//! Engines running user code. The only engine so far runs plain processes on the VM.

pub(crate) mod exec_helper;
mod process;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;

/// Engine for one run of one container.
pub(crate) trait Engine {
    /// Prepares the container, before `Running` is reported.
    fn prepare(&mut self) -> Result<(), EngineError>;

    /// Starts the user's program.
    fn start(&mut self) -> Result<Started, EngineError>;

    /// Sends TERM to the user's processes.
    fn terminate(&self);

    /// Kills all processes of the container. After `timeout` returns the pids of the survivors.
    fn kill(&self, timeout: Duration) -> Result<(), Vec<i32>>;

    /// Cleans up after the last process. Returns true if a process was killed at the memory limit.
    fn finish(&mut self) -> bool;
}

/// Running program.
pub(crate) struct Started {
    pub(crate) stdout: Box<dyn Read + Send>,
    pub(crate) stderr: Box<dyn Read + Send>,
    /// Blocks until the program has ended. Returns the exit status; 128 + N for signal N.
    pub(crate) wait: Box<dyn FnOnce() -> i32 + Send>,
}

/// Complete description of a run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Program and arguments; never empty.
    pub(crate) command: Vec<String>,
    pub(crate) environment: BTreeMap<String, String>,
    /// Absolute, or relative to the container's own scratch directory.
    pub(crate) cwd: String,
    pub(crate) memory_bytes_max: Option<u64>,
    /// Parent directory of scratch directories.
    pub(crate) scratch_root: PathBuf,
    /// Name of the container's scratch directory and control groups.
    pub(crate) tag: String,
    pub(crate) cgroups: bool,
}

/// Error of an engine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// Error caused by the container, the same on every VM: fix the container.
    #[error("{0}")]
    Container(String),
    /// Error caused by this VM: another VM may succeed. Check disk and memory.
    #[error("{what}: {source}")]
    Node { what: String, source: io::Error },
    /// The engine named by `-runtime-engine` is not part of this program.
    #[error("runtime engine {0:?} is not built yet: use -runtime-engine process")]
    NotBuilt(String),
    /// The engine named by `-runtime-engine` does not exist.
    #[error("runtime engine {0:?} is unknown: use -runtime-engine process")]
    Unknown(String),
}

impl EngineError {
    /// True if the error shows that this VM is unfit for any container.
    pub(crate) fn is_broken_node(&self) -> bool {
        let Self::Node { source, .. } = self else {
            return false;
        };
        let fatal = [
            Errno::NOSPC,
            Errno::DQUOT,
            Errno::ROFS,
            Errno::IO,
            Errno::NFILE,
            Errno::NOMEM,
        ];
        fatal
            .iter()
            .any(|errno| source.raw_os_error() == Some(errno.raw_os_error()))
    }
}

/// Checks that an engine is available.
pub(crate) fn check(name: &str) -> Result<(), EngineError> {
    match name {
        "process" => Ok(()),
        "docker" | "podman" | "singularity" => Err(EngineError::NotBuilt(name.to_owned())),
        _ => Err(EngineError::Unknown(name.to_owned())),
    }
}

/// Creates an engine.
pub(crate) fn make(name: &str, plan: Plan) -> Result<Box<dyn Engine>, EngineError> {
    check(name).map(|()| Box::new(process::Process::new(plan)) as Box<dyn Engine>)
}
