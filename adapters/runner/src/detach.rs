//! `--detach`: takes the container's lock and starts a runner in the background.
//!
//! All foreseeable errors are detected before the lock is taken, so that the start command itself
//! fails at once.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::api::{Api, ApiError, RetryLimit};
use crate::config::{Config, ConfigError};
use crate::engine::{self, EngineError};
use crate::flags::Flags;
use crate::lock::{LockDir, LockError, Record};
use crate::run::{self, RunError};
use crate::{logs, procfs};

/// Maximum time from the start of the child until the child handles the signal of `--list`.
const READY_MAX: Duration = Duration::from_secs(10);

/// Socket of the systemd journal. systemd-cat may be installed without a running journal.
const JOURNAL: &str = "/run/systemd/journal/stdout";

/// Error of a detached start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DetachError {
    /// Invalid container uuid.
    #[error(transparent)]
    Uuid(#[from] RunError),
    /// Invalid configuration from the dispatcher.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The API refuses the token, or the certificates cannot be loaded.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The engine is not available.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The container's lock cannot be taken.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The runner could not be started in the background.
    #[error("start the runner: {0}")]
    Start(io::Error),
    /// The runner exited at once: see its log for the reason.
    #[error("the runner ended at once ({status}); see {log}")]
    Died { status: String, log: String },
}

/// Starts `longshore-runner -no-detach ARGS` and publishes the pid in the lock file and on stdout.
pub(crate) fn detach(flags: &Flags, uuid: &str, args: &[OsString]) -> Result<(), DetachError> {
    run::check_uuid(uuid)?;
    engine::check(&flags.runtime_engine)?;
    let config = match (flags.stdin_config, &flags.config) {
        (true, _) => Config::read(io::stdin())?,
        (false, Some(file)) => return Err(ConfigError::File(file.display().to_string()).into()),
        (false, None) => Config::from_environment()?,
    };
    let api = Api::new(&config, flags.ca_certs.as_deref())?;
    // A temporary failure of the API is left to the runner, which retries for longer.
    let is_final =
        |error: &ApiError| matches!(error, ApiError::Refused { .. } | ApiError::Untrusted { .. });
    if let Some(error) = api.container(uuid, RetryLimit::ONCE).err().filter(is_final) {
        return Err(error.into());
    }
    let locks = LockDir::new(&flags.lock_dir);
    let mut claim = locks.claim(uuid)?;
    let (mut child, log) = match spawn(flags, &locks, uuid, args) {
        Ok(spawned) => spawned,
        Err(error) => {
            claim.abandon();
            return Err(DetachError::Start(error));
        }
    };
    let published = hand_over(&mut child, &log, &config, flags.stdin_config).and_then(|pid| {
        let record = Record {
            uuid: uuid.to_owned(),
            pid,
            start: procfs::stat(pid).map(|stat| stat.start),
            scratch: Some(flags.scratch_dir.join(locks.tag(uuid))),
        };
        let line = serde_json::to_string(&record).map_err(|e| DetachError::Start(e.into()))? + "\n";
        claim.publish(&line)?;
        Ok(line)
    });
    match published {
        Ok(line) => {
            // The caller may have closed stdout; only the lock file matters.
            let _ = io::stdout().write_all(line.as_bytes());
            Ok(())
        }
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            claim.abandon();
            Err(error)
        }
    }
}

/// Starts the child with its output in the journal or a log file. Returns the location of the
/// output. The child inherits only the lock from this process, so that the SSH session can end.
fn spawn(
    flags: &Flags,
    locks: &LockDir,
    uuid: &str,
    args: &[OsString],
) -> io::Result<(Child, String)> {
    // Not the path of the binary, because the file may have been replaced since the start. The link
    // is valid while this process lives, which is until the child has started. `/proc/self` would
    // refer to systemd-cat.
    let program = std::path::PathBuf::from(format!("/proc/{}/exe", std::process::id()));
    let (words, output, log) = match systemd_cat() {
        Some(cat) => {
            // Nested twice: the outer systemd-cat logs a failure of the inner one.
            let identify = OsString::from("--identifier=crunch-run");
            let words = [
                cat.clone().into(),
                identify.clone(),
                cat.into(),
                identify,
                program.into(),
            ];
            (
                words.to_vec(),
                None,
                "the journal (journalctl -t crunch-run)".to_owned(),
            )
        }
        None => match logs::open_local(&flags.log_dir, locks.path(), uuid) {
            Ok((path, file)) => (vec![program.into()], Some(file), path.display().to_string()),
            Err(error) => (
                vec![program.into()],
                None,
                format!("nowhere, since the log cannot be opened: {error}"),
            ),
        },
    };
    let sink = |file: &Option<File>| match file {
        Some(file) => file.try_clone().map(Stdio::from),
        None => Ok(Stdio::null()),
    };
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .arg(OsStr::new(crate::NO_DETACH))
        .args(args)
        .process_group(0);
    if words.len() == 1 {
        // Visible process name for operators.
        command.arg0("longshore-runner");
    }
    let input = if flags.stdin_config {
        Stdio::piped()
    } else {
        Stdio::null()
    };
    let child = command
        .stdin(input)
        .stdout(sink(&output)?)
        .stderr(sink(&output)?)
        .spawn()?;
    Ok((child, log))
}

fn systemd_cat() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").filter(|_| Path::new(JOURNAL).exists())?;
    std::env::split_paths(&path)
        .map(|dir| dir.join("systemd-cat"))
        .find(|file| file.is_file())
}

/// Waits until the child handles the signal of `--list`, sends the configuration, and returns the
/// pid. The pid must not be published earlier.
fn hand_over(
    child: &mut Child,
    log: &str,
    config: &Config,
    wanted: bool,
) -> Result<i32, DetachError> {
    let pid = i32::try_from(child.id()).map_err(|e| DetachError::Start(io::Error::other(e)))?;
    let deadline = Instant::now() + READY_MAX;
    while !procfs::handles_signal(pid, Signal::USR2.as_raw()) {
        if let Some(status) = child.try_wait().map_err(DetachError::Start)? {
            return Err(DetachError::Died {
                status: status.to_string(),
                log: log.to_owned(),
            });
        }
        if Instant::now() >= deadline {
            let late = format!("not ready after {} s", READY_MAX.as_secs());
            return Err(DetachError::Start(io::Error::new(
                io::ErrorKind::TimedOut,
                late,
            )));
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    if let Some(mut input) = child.stdin.take().filter(|_| wanted) {
        input
            .write_all(config.document().expose().as_bytes())
            .map_err(DetachError::Start)?;
    }
    Ok(pid)
}
