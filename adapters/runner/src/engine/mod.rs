//! What runs user code. One engine so far: plain processes on the VM.

mod process;
pub(crate) mod stage;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;

/// Runs one container, once.
pub(crate) trait Engine {
    /// Makes what the container needs, before anybody is told that it runs.
    fn prepare(&mut self) -> Result<(), EngineError>;

    /// Starts the user's program.
    fn start(&mut self) -> Result<Started, EngineError>;

    /// Asks the user's processes to end.
    fn terminate(&self);

    /// Ends all of the container's processes. Gives up after `patience` and names what survived.
    fn kill(&self, patience: Duration) -> Result<(), Vec<i32>>;

    /// Clears up after the last process, and says whether the memory limit killed one of them.
    fn finish(&mut self) -> bool;
}

/// A program that runs.
pub(crate) struct Started {
    pub(crate) stdout: Box<dyn Read + Send>,
    pub(crate) stderr: Box<dyn Read + Send>,
    /// Blocks until the program has ended and returns its exit status, 128 + N for signal N.
    pub(crate) wait: Box<dyn FnOnce() -> i32 + Send>,
}

/// What to run, complete.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Program and arguments; never empty.
    pub(crate) command: Vec<String>,
    pub(crate) environment: BTreeMap<String, String>,
    /// Absolute, or relative to the container's own scratch directory.
    pub(crate) cwd: String,
    pub(crate) memory_bytes_max: Option<u64>,
    /// Where scratch directories are made.
    pub(crate) scratch_root: PathBuf,
    /// Name of the container's scratch directory and control groups.
    pub(crate) tag: String,
    pub(crate) cgroups: bool,
}

/// Why a container could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// The container's own fault: it fails on every machine. Mend the container.
    #[error("{0}")]
    Container(String),
    /// This machine's fault: another one may manage. Look at its disk and memory.
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
    /// Whether the machine is unfit for any container, as far as one error can tell.
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

/// Whether an engine of that name can be had.
pub(crate) fn check(name: &str) -> Result<(), EngineError> {
    match name {
        "process" => Ok(()),
        "docker" | "podman" | "singularity" => Err(EngineError::NotBuilt(name.to_owned())),
        _ => Err(EngineError::Unknown(name.to_owned())),
    }
}

/// The engine of that name.
pub(crate) fn make(name: &str, plan: Plan) -> Result<Box<dyn Engine>, EngineError> {
    check(name).map(|()| Box::new(process::Process::new(plan)) as Box<dyn Engine>)
}
