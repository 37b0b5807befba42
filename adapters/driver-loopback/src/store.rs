//! State directory: layout and locking.
//!
//! Every file is written atomically (to a temporary file, then renamed). VM directories are created
//! and removed in `tmp`, so that every directory in `vms` is complete. Creates, removals and tag
//! changes hold `state.lock`; readers need no lock.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use longshore_core::ids::{ImageId, InstanceId, IntentId, TypeName};
use longshore_secret::Secret;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::files::{
    StoreError, failed, private_dir, read_json, read_optional, remove_tree, try_flock, write,
    write_json,
};
use crate::procfs::ProcessId;

/// Timeout of the store lock. A process that holds the lock for longer is stuck.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// State directory.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
}

/// Store lock, required to create, remove and re-tag VMs; released on drop.
#[derive(Debug)]
pub(crate) struct StoreLock {
    _file: File,
}

impl Store {
    /// Creates the directory if absent.
    pub(crate) fn open(root: &Path) -> Result<Self, StoreError> {
        for dir in [root, &root.join("vms"), &root.join("tmp")] {
            private_dir(dir)?;
        }
        let root = root
            .canonicalize()
            .map_err(failed("find the real path of", root))?;
        Ok(Self { root })
    }

    fn lock_file(&self) -> Result<(File, PathBuf), StoreError> {
        let path = self.root.join("state.lock");
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open", &path))?;
        Ok((file, path))
    }

    /// Waits up to [`LOCK_TIMEOUT`] for the lock.
    pub(crate) fn lock(&self) -> Result<StoreLock, StoreError> {
        let (file, path) = self.lock_file()?;
        let deadline = Instant::now() + LOCK_TIMEOUT;
        while !try_flock(&file, FlockOperation::NonBlockingLockExclusive, &path)? {
            if Instant::now() >= deadline {
                return Err(StoreError::Busy(path));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(StoreLock { _file: file })
    }

    /// Takes the lock if free.
    pub(crate) fn try_lock(&self) -> Result<Option<StoreLock>, StoreError> {
        let (file, path) = self.lock_file()?;
        let locked = try_flock(&file, FlockOperation::NonBlockingLockExclusive, &path)?;
        Ok(locked.then_some(StoreLock { _file: file }))
    }

    /// Reads all VMs of all instance sets, terminated VMs too, and all partial directories.
    pub(crate) fn scan(&self) -> Result<Scan, StoreError> {
        let dir = self.root.join("vms");
        let mut scan = Scan::default();
        for entry in fs::read_dir(&dir).map_err(failed("list", &dir))? {
            let name = entry.map_err(failed("list", &dir))?.file_name();
            let Some(vm) = name.to_str().and_then(|name| self.vm(name)) else {
                continue;
            };
            match vm.record() {
                Ok(record) => scan.vms.push((vm, record)),
                Err(error) if error.is_not_found() => scan.partial.push(vm),
                Err(error) => return Err(error),
            }
        }
        scan.vms
            .sort_by(|(_, a), (_, b)| (a.created_at_ms, &a.id).cmp(&(b.created_at_ms, &b.id)));
        Ok(scan)
    }

    /// Directory of the VM with this id; `None` if the id is malformed.
    pub(crate) fn vm(&self, id: &str) -> Option<VmDir> {
        is_id(id).then(|| VmDir::new(self.root.join("vms").join(id)))
    }

    /// Creates an empty directory for the preparation of a VM.
    pub(crate) fn create_temporary(&self, id: &str) -> Result<VmDir, StoreError> {
        let dir = self.root.join("tmp").join(id);
        private_dir(&dir)?;
        Ok(VmDir::new(dir))
    }

    /// Moves a prepared VM to `vms`.
    pub(crate) fn publish(&self, id: &str, ready: &VmDir) -> Result<VmDir, StoreError> {
        let to = self.root.join("vms").join(id);
        fs::rename(&ready.path, &to).map_err(failed("rename", &ready.path))?;
        Ok(VmDir::new(to))
    }

    /// Removes the directory of a VM. The directory disappears atomically for readers.
    pub(crate) fn remove(&self, _lock: &StoreLock, vm: &VmDir) -> Result<(), StoreError> {
        let name = vm.path.file_name().unwrap_or_default();
        let to = self.root.join("tmp").join(name);
        fs::rename(&vm.path, &to).map_err(failed("rename", &vm.path))?;
        remove_tree(&to)
    }

    /// Removes the temporary directories of interrupted creates and removals.
    pub(crate) fn sweep(&self, _lock: &StoreLock) -> Result<(), StoreError> {
        let dir = self.root.join("tmp");
        for entry in fs::read_dir(&dir).map_err(failed("list", &dir))? {
            remove_tree(&entry.map_err(failed("list", &dir))?.path())?;
        }
        Ok(())
    }
}

/// Content of `vms`.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// In order of creation.
    pub(crate) vms: Vec<(VmDir, VmRecord)>,
    pub(crate) partial: Vec<VmDir>,
}

/// True for `lo-` with 16 hexadecimal digits.
fn is_id(name: &str) -> bool {
    name.strip_prefix("lo-").is_some_and(|digits| {
        digits.len() == 16
            && digits
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// Immutable record of a VM.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct VmRecord {
    pub(crate) id: InstanceId,
    pub(crate) intent: IntentId,
    pub(crate) type_name: TypeName,
    pub(crate) provider_type: String,
    pub(crate) preemptible: bool,
    pub(crate) image: ImageId,
    pub(crate) created_at_ms: u64,
    pub(crate) remote_user: String,
    pub(crate) public_key: String,
    pub(crate) boot_delay_ms: u64,
}

/// State of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VmState {
    /// The VM process runs.
    Alive,
    /// Termination in progress.
    Terminating,
    /// The VM process exited unexpectedly.
    Dead,
    /// Terminated at this Unix time in milliseconds.
    Terminated(u64),
}

#[derive(Serialize, Deserialize)]
struct Terminated {
    at_ms: u64,
}

/// Directory of a VM.
#[derive(Clone, Debug)]
pub(crate) struct VmDir {
    path: PathBuf,
}

impl VmDir {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn record(&self) -> Result<VmRecord, StoreError> {
        read_json(&self.file("instance.json"))
    }

    pub(crate) fn write_record(&self, record: &VmRecord) -> Result<(), StoreError> {
        write_json(&self.file("instance.json"), record)
    }

    /// Tags by complete name, without the secret.
    pub(crate) fn tags(&self) -> Result<BTreeMap<String, String>, StoreError> {
        read_json(&self.file("tags.json"))
    }

    pub(crate) fn write_tags(&self, tags: &BTreeMap<String, String>) -> Result<(), StoreError> {
        write_json(&self.file("tags.json"), tags)
    }

    /// Secret of the VM; empty after termination.
    pub(crate) fn secret(&self) -> Result<Secret, StoreError> {
        let text = read_optional(&self.file("secret"))?;
        Ok(Secret::new(text.unwrap_or_default()))
    }

    pub(crate) fn write_secret(&self, name: &str, secret: &Secret) -> Result<(), StoreError> {
        write(&self.file(name), secret.expose().as_bytes())
    }

    pub(crate) fn address(&self) -> Result<Option<String>, StoreError> {
        read_optional(&self.file("address"))
    }

    pub(crate) fn write_address(&self, address: &str) -> Result<(), StoreError> {
        write(&self.file("address"), address.as_bytes())
    }

    pub(crate) fn process(&self) -> Result<Option<ProcessId>, StoreError> {
        let path = self.file("process.json");
        match read_json(&path) {
            Err(error) if error.is_not_found() => Ok(None),
            other => other.map(Some),
        }
    }

    pub(crate) fn write_process(&self, process: &ProcessId) -> Result<(), StoreError> {
        write_json(&self.file("process.json"), process)
    }

    /// Takes the VM lock, held by the VM process during its lifetime.
    pub(crate) fn take_vm_lock(&self) -> Result<File, StoreError> {
        let path = self.file("vm.lock");
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open", &path))?;
        if try_flock(&file, FlockOperation::NonBlockingLockExclusive, &path)? {
            Ok(file)
        } else {
            Err(StoreError::Busy(path))
        }
    }

    /// True if the VM process runs. Tests the VM lock in shared mode, so that concurrent tests do
    /// not disturb each other.
    pub(crate) fn is_alive(&self) -> bool {
        let path = self.file("vm.lock");
        File::open(&path)
            .map_err(failed("open", &path))
            .and_then(|file| try_flock(&file, FlockOperation::NonBlockingLockShared, &path))
            .is_ok_and(|free| !free)
    }

    pub(crate) fn state(&self) -> Result<VmState, StoreError> {
        let path = self.file("terminated.json");
        match read_json::<Terminated>(&path) {
            Ok(terminated) => return Ok(VmState::Terminated(terminated.at_ms)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        if self.file("terminating").exists() {
            Ok(VmState::Terminating)
        } else if self.is_alive() {
            Ok(VmState::Alive)
        } else {
            Ok(VmState::Dead)
        }
    }

    /// Unix time of the VM's preemption in seconds, if requested.
    pub(crate) fn preempted_at(&self) -> Result<Option<u64>, StoreError> {
        let path = self.file("take-back");
        let Some(text) = read_optional(&path)? else {
            return Ok(None);
        };
        let at = text.trim().parse();
        at.map(Some).map_err(|_| StoreError::Invalid {
            path,
            reason: "expected a Unix time in seconds".to_owned(),
        })
    }

    /// Requests the preemption of the VM at this Unix time.
    pub(crate) fn preempt_at(&self, at_s: u64) -> Result<(), StoreError> {
        write(&self.file("take-back"), format!("{at_s}\n").as_bytes())?;
        self.write_preemption_notice(at_s)
    }

    /// Writes the preemption notice to the file that the runner's `--list` on the VM prints.
    pub(crate) fn write_preemption_notice(&self, at_s: u64) -> Result<(), StoreError> {
        let path = self.file("lock").join("crunch-run-preempted");
        if path.exists() {
            return Ok(());
        }
        write(&path, format!("{at_s} terminate\n").as_bytes())
    }

    /// Marks the start of the termination.
    pub(crate) fn mark_terminating(&self) -> Result<(), StoreError> {
        write(&self.file("terminating"), b"")
    }

    /// Deletes secrets and work data of a VM without processes, then records the termination.
    /// Returns the errors of failed deletions; the VM is terminated in any case.
    pub(crate) fn mark_terminated(&self) -> Result<Vec<StoreError>, StoreError> {
        let mut errors = Vec::new();
        for name in [
            "secret",
            "init-script",
            "init-script.running",
            "instance-secret",
            "address",
            "process.json",
        ] {
            let path = self.file(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    errors.push(failed("remove", &path)(error));
                }
                _ => {}
            }
        }
        for name in ["lock", "scratch", "home"] {
            errors.extend(remove_tree(&self.file(name)).err());
        }
        let at_ms = now_ms();
        write_json(&self.file("terminated.json"), &Terminated { at_ms })?;
        Ok(errors)
    }
}

/// Unix time in milliseconds, from the clock of the host.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    use longshore_core::input::CloudError;

    #[test]
    fn vm_dir_path_traversal_is_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert!(store.vm("lo-0123456789abcdef").is_some());
        for id in [
            "",
            "..",
            "lo-",
            "lo-../../../../etc",
            "lo-0123456789ABCDEF",
            "lo-0123456789abcde/",
        ] {
            assert!(store.vm(id).is_none(), "{id:?}");
        }
    }

    #[test]
    fn store_lock_is_exclusive() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let held = store.lock().unwrap();
        assert!(store.try_lock().unwrap().is_none());
        drop(held);
        assert!(store.try_lock().unwrap().is_some());
    }

    #[test]
    fn write_is_atomic_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let vm = VmDir::new(dir.path().to_owned());
        vm.write_secret("secret", &Secret::new("first and longer"))
            .unwrap();
        vm.write_secret("secret", &Secret::new("second")).unwrap();
        assert_eq!(vm.secret().unwrap(), Secret::new("second"));
        let mode = fs::metadata(vm.file("secret"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn vm_alive_while_lock_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let vm = VmDir::new(dir.path().to_owned());
        assert!(!vm.is_alive());
        let lock = vm.take_vm_lock().unwrap();
        assert!(vm.is_alive() && vm.is_alive());
        assert!(vm.take_vm_lock().is_err());
        drop(lock);
        assert!(!vm.is_alive());
        assert_eq!(vm.state().unwrap(), VmState::Dead);
    }

    #[test]
    fn scan_invalid_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let vm = store.vm("lo-0123456789abcdef").unwrap();
        private_dir(vm.path()).unwrap();
        assert_eq!(store.scan().unwrap().partial.len(), 1);
        fs::write(vm.file("instance.json"), "{").unwrap();
        let error = CloudError::from(store.scan().unwrap_err());
        assert!(
            matches!(&error, CloudError::Permanent { message } if message.contains("instance.json"))
        );
    }
}
