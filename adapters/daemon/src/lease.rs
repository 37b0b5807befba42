//! Only one dispatcher acts for an instance set: a lock on a file of this host.
//!
//! The operating system drops the lock with the process that holds it, however that ends, so there
//! is nothing to renew and nothing to clear up. It does not reach other hosts.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::Duration;

use crate::exit::{Context as _, Outcome};

const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// Leadership, for as long as it is kept.
#[derive(Debug)]
pub(crate) struct Lease {
    _file: File,
}

/// Waits until no other dispatcher acts for this set.
pub(crate) async fn acquire(state_dir: &Path, instance_set_id: &str) -> Outcome<Lease> {
    std::fs::create_dir_all(state_dir).failed(state_dir.display())?;
    let path = state_dir.join(format!("dispatch-{instance_set_id}.lock"));
    let mut open = OpenOptions::new();
    let open = open.create(true).truncate(false).write(true);
    let file = open.open(&path).failed(path.display())?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Lease { _file: file }),
            Err(TryLockError::WouldBlock) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(path = %path.display(), "another dispatcher is at work: waiting");
                }
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).failed(format!("locking {}", path.display()));
            }
        }
    }
}
