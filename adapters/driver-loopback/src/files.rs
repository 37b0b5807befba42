//! Atomic file writes, file locks, and removal of directory trees.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use longshore_core::input::CloudError;
use rustix::fs::FlockOperation;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Error of a file operation in the state directory.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{} is invalid ({reason}); remove the directory of the VM", path.display())]
    Invalid { path: PathBuf, reason: String },
    #[error("{} is still locked by another process after the lock timeout; terminate the other process", .0.display())]
    Busy(PathBuf),
    #[error("{} is still mounted; unmount it", .0.display())]
    Mounted(PathBuf),
}

impl StoreError {
    /// True if the file does not exist, for example after a concurrent removal.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

impl From<StoreError> for CloudError {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::Invalid { .. } => Self::Permanent { message },
            StoreError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Self::Permanent { message }
            }
            _ => Self::Transient { message },
        }
    }
}

pub(crate) fn failed<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

/// Creates a directory and its parents, accessible to the current user only.
pub(crate) fn private_dir(dir: &Path) -> Result<(), StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(failed("create", dir))
}

/// Tries to lock the file; returns false if another process holds the lock.
pub(crate) fn try_flock(
    file: &File,
    operation: FlockOperation,
    path: &Path,
) -> Result<bool, StoreError> {
    match rustix::fs::flock(file, operation) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(failed("lock", path)(error.into())),
    }
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, StoreError> {
    let text = fs::read(path).map_err(failed("read", path))?;
    serde_json::from_slice(&text).map_err(|error| StoreError::Invalid {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

pub(crate) fn read_optional(path: &Path) -> Result<Option<String>, StoreError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), StoreError> {
    let text = serde_json::to_vec_pretty(value).map_err(|error| StoreError::Invalid {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    write(path, &text)
}

/// Replaces a file atomically; readable by the current user only.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let unique = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}-{unique}.new", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(content))
        .and_then(|()| fs::rename(&temporary, path));
    written.map_err(|error| {
        let _ = fs::remove_file(&temporary);
        failed("write", path)(error)
    })
}

/// Removes a directory tree; succeeds if the directory does not exist. Refuses to descend into a
/// mount, to protect the mounted data.
pub(crate) fn remove_tree(dir: &Path) -> Result<(), StoreError> {
    if let Some(mount) = mount_below(dir) {
        return Err(StoreError::Mounted(mount));
    }
    let removed = remove_path(dir).or_else(|error| match error.kind() {
        // Jobs may leave directories without write permission for the owner.
        io::ErrorKind::PermissionDenied => {
            make_writable(dir);
            remove_path(dir)
        }
        _ => Err(error),
    });
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", dir)(error)),
        _ => Ok(()),
    }
}

fn remove_path(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

/// Gives the owner full permissions on every directory of the tree.
fn make_writable(dir: &Path) {
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        // A failure here shows up in the second removal attempt.
        let _ = fs::set_permissions(&dir, fs::Permissions::from_mode(0o700));
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
        }
    }
}

fn mount_below(dir: &Path) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(unescape(point)))
        .find(|point| point.starts_with(dir))
}

/// Decodes the octal escapes of mountinfo, such as `\040` for a space.
fn unescape(text: &str) -> String {
    [
        (r"\040", " "),
        (r"\011", "\t"),
        (r"\012", "\n"),
        (r"\134", r"\"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remove_tree_read_only_directory_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let closed = dir.path().join("vm/scratch/closed");
        fs::create_dir_all(closed.join("inner")).unwrap();
        fs::write(closed.join("inner/file"), "x").unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o500)).unwrap();
        remove_tree(&dir.path().join("vm")).unwrap();
        assert!(!dir.path().join("vm").exists());
        remove_tree(&dir.path().join("vm")).unwrap();
    }

    #[test]
    fn mount_below_finds_mounts() {
        assert!(mount_below(Path::new("/")).is_some());
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(mount_below(dir.path()), None);
        assert_eq!(unescape(r"/a\040b"), "/a b");
    }
}
