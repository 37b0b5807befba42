//! Lock directory with one lock file per container. A lock file stays locked until all processes of
//! the container have ended.
//!
//! Locks are BSD `flock`. Creating and locking, or testing and unlinking, a container's lock file
//! happens only under the directory-wide lock. The file descriptor has no close-on-exec flag, so
//! that every descendant of the runner inherits the descriptor and the lock.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use serde::{Deserialize, Serialize};

/// Timeout for the directory-wide lock, which is held for milliseconds only.
const LOCK_ALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum size of a lock file.
const RECORD_BYTES_MAX: u64 = 64 * 1024;

/// Lock error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// The container's lock is held by an earlier attempt: kill the earlier attempt first.
    #[error("lock {path}: {source}")]
    Held { path: PathBuf, source: io::Error },
    /// A file of the lock directory is unusable: check existence and permissions.
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    /// Timeout of the directory-wide lock: look for a hung runner.
    #[error("{0}: still locked by another process after 10 seconds")]
    Busy(PathBuf),
    /// Invalid content of a lock file: `--kill 9` ends the processes holding the lock.
    #[error("{path}: {why}")]
    Record { path: PathBuf, why: String },
}

impl LockError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

/// Content of a lock file: one JSON line. Other tools write and read only the first two keys.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    #[serde(rename = "UUID")]
    pub(crate) uuid: String,
    #[serde(rename = "PID")]
    pub(crate) pid: i32,
    /// Start time of the process in ticks since boot: protects against a reused pid.
    #[serde(rename = "Start", default, skip_serializing_if = "Option::is_none")]
    pub(crate) start: Option<u64>,
    /// Scratch directory of the container, removed by a KILL.
    #[serde(rename = "Scratch", default, skip_serializing_if = "Option::is_none")]
    pub(crate) scratch: Option<PathBuf>,
}

/// Lock directory or a symbolic link to a lock directory.
#[derive(Debug, Clone)]
pub(crate) struct LockDir(PathBuf);

/// Directory-wide lock, held until dropped.
pub(crate) struct AllLock {
    _file: File,
}

/// Result of testing a lock file.
pub(crate) enum LockState {
    /// The lock is held. Contains the content of the file.
    Held(Result<Record, LockError>),
    /// The lock was free: the file has been removed.
    Free,
    /// The file is empty and locked (the container is starting), or does not exist.
    StartingOrMissing,
}

impl LockDir {
    pub(crate) fn new(dir: &Path) -> Self {
        Self(dir.to_owned())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn container(&self, uuid: &str) -> PathBuf {
        self.0.join(format!("crunch-run-{uuid}.lock"))
    }

    pub(crate) fn broken(&self) -> PathBuf {
        self.0.join("crunch-run-broken")
    }

    pub(crate) fn preempted(&self) -> PathBuf {
        self.0.join("crunch-run-preempted")
    }

    pub(crate) fn prices(&self) -> PathBuf {
        self.0.join("crunch-run-prices.json")
    }

    /// Returns the name of the container's directories and control groups. The name differs between
    /// lock directories, since several simulated VMs may share a host.
    pub(crate) fn tag(&self, uuid: &str) -> String {
        let dir = fs::canonicalize(&self.0).unwrap_or_else(|_| self.0.clone());
        // FNV-1a: independent of the build, since an upgraded runner must find the directories of
        // an older runner.
        let fold = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        let hash = dir
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .fold(0x811c_9dc5, fold);
        format!("longshore-{uuid}-{hash:08x}")
    }

    /// Takes the directory-wide lock.
    pub(crate) fn lock_all(&self) -> Result<AllLock, LockError> {
        let path = self.0.join("crunch-run-all.lock");
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o700)
            .open(&path);
        let file = file.map_err(LockError::io(&path))?;
        let deadline = Instant::now() + LOCK_ALL_TIMEOUT;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(AllLock { _file: file }),
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR)
                    if Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(LockError::Busy(path)),
                Err(errno) => {
                    return Err(LockError::Io {
                        path,
                        source: errno.into(),
                    });
                }
            }
        }
    }

    /// Creates, locks and truncates a container's lock file.
    pub(crate) fn claim(&self, uuid: &str) -> Result<Claim, LockError> {
        let path = self.container(uuid);
        let _all = self.lock_all()?;
        // Without close-on-exec: every descendant keeps the lock.
        let fd = rustix::fs::open(
            &path,
            OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW,
            Mode::from(0o700),
        );
        let file = File::from(fd.map_err(|errno| LockError::Io {
            path: path.clone(),
            source: errno.into(),
        })?);
        if let Err(errno) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            return Err(LockError::Held {
                path,
                source: errno.into(),
            });
        }
        file.set_len(0).map_err(LockError::io(&path))?;
        Ok(Claim {
            dir: self.clone(),
            path,
            file,
        })
    }

    /// Tests a lock file. Removes the file if the lock is free.
    pub(crate) fn test(&self, path: &Path) -> Result<LockState, LockError> {
        let _all = self.lock_all()?;
        let mut file = match OpenOptions::new()
            .read(true)
            .custom_flags(libc_nofollow())
            .open(path)
        {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Ok(LockState::StartingOrMissing);
            }
            Err(e) => return Ok(LockState::Held(Err(LockError::io(path)(e)))),
        };
        if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
            fs::remove_file(path).map_err(LockError::io(path))?;
            return Ok(LockState::Free);
        }
        let record = read_record(&mut file, path);
        Ok(match record {
            Ok(None) => LockState::StartingOrMissing,
            Ok(Some(record)) => LockState::Held(Ok(record)),
            Err(error) => LockState::Held(Err(error)),
        })
    }

    /// Returns the content of a container's lock file; `None` if the file does not exist.
    pub(crate) fn record(&self, uuid: &str) -> Result<Option<(Record, bool)>, LockError> {
        let path = self.container(uuid);
        let _all = self.lock_all()?;
        let mut file = match OpenOptions::new()
            .read(true)
            .custom_flags(libc_nofollow())
            .open(&path)
        {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(LockError::io(&path)(e)),
        };
        let ours = file
            .metadata()
            .is_ok_and(|meta| meta.uid() == rustix::process::geteuid().as_raw());
        let wrong = |why: String| LockError::Record {
            path: path.clone(),
            why,
        };
        let record = read_record(&mut file, &path)?
            .ok_or_else(|| wrong("empty: the container is starting".into()))?;
        if record.uuid != uuid {
            return Err(wrong(format!(
                "is about another container, {}",
                record.uuid
            )));
        }
        if record.pid <= 1 {
            return Err(wrong(format!("PID {} is no runner", record.pid)));
        }
        Ok(Some((record, ours)))
    }
}

fn libc_nofollow() -> i32 {
    i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0)
}

fn read_record(file: &mut File, path: &Path) -> Result<Option<Record>, LockError> {
    let mut text = String::new();
    file.take(RECORD_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(LockError::io(path))?;
    if text.is_empty() {
        return Ok(None);
    }
    let record = serde_json::from_str(&text);
    record.map(Some).map_err(|e| LockError::Record {
        path: path.to_owned(),
        why: e.to_string(),
    })
}

/// Lock of a container, held by this process and every process that inherits the descriptor.
pub(crate) struct Claim {
    dir: LockDir,
    path: PathBuf,
    file: File,
}

impl Claim {
    /// Writes the content of the lock file: from now on the container is listed.
    pub(crate) fn publish(&mut self, line: &str) -> Result<(), LockError> {
        self.file
            .write_all(line.as_bytes())
            .map_err(LockError::io(&self.path))
    }

    /// Removes the lock file after a failed start.
    pub(crate) fn abandon(self) {
        if self.dir.lock_all().is_ok() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_of_other_tool_is_parsed() -> Result<(), serde_json::Error> {
        let record: Record = serde_json::from_str(r#"{"UUID":"u","PID":7}"#)?;
        assert_eq!(
            (record.uuid.as_str(), record.pid, record.start),
            ("u", 7, None)
        );
        Ok(())
    }

    #[test]
    fn held_lock_refuses_second_claim() -> Result<(), LockError> {
        let dir = tempfile::tempdir().map_err(LockError::io(Path::new("tmp")))?;
        let locks = LockDir::new(dir.path());
        let claim = locks.claim("u")?;
        assert!(matches!(locks.claim("u"), Err(LockError::Held { .. })));
        assert!(matches!(
            locks.test(&locks.container("u"))?,
            LockState::StartingOrMissing
        ));
        drop(claim);
        assert!(matches!(
            locks.test(&locks.container("u"))?,
            LockState::Free
        ));
        assert!(!locks.container("u").exists());
        Ok(())
    }

    #[test]
    fn tags_differ_between_lock_directories() {
        let (one, two) = (
            LockDir::new(Path::new("/nowhere/a")),
            LockDir::new(Path::new("/nowhere/b")),
        );
        assert_eq!(one.tag("u"), one.tag("u"));
        assert_ne!(one.tag("u"), two.tag("u"));
    }
}
