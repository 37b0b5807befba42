//! Leader lock: a lock on a file of this host, which allows a single active dispatcher for each
//! instance set.
//!
//! The operating system releases the lock when the process ends, for any reason, so that the lock
//! needs neither renewal nor cleanup. Dispatchers on other hosts are not excluded.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::Duration;

use crate::error::{CliResult, Context as _};

const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// Held leadership; released when dropped.
#[derive(Debug)]
pub(crate) struct LeaderLock {
    _file: File,
}

/// Waits until no other dispatcher of the instance set holds the lock.
pub(crate) async fn acquire(state_dir: &Path, instance_set_id: &str) -> CliResult<LeaderLock> {
    std::fs::create_dir_all(state_dir).failed(state_dir.display())?;
    let path = state_dir.join(format!("dispatch-{instance_set_id}.lock"));
    let mut open = OpenOptions::new();
    let open = open.create(true).truncate(false).write(true);
    let file = open.open(&path).failed(path.display())?;
    let mut logged = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(LeaderLock { _file: file }),
            Err(TryLockError::WouldBlock) => {
                if !std::mem::replace(&mut logged, true) {
                    tracing::warn!(path = %path.display(), "another dispatcher holds the leader lock: waiting");
                }
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).failed(format!("locking {}", path.display()));
            }
        }
    }
}
