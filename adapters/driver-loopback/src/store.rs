//! The state directory: what is where, and who may write when.
//!
//! Every file appears whole (written beside, then renamed). VMs are made and removed in `tmp`, so
//! that what is below `vms` is complete. `state.lock` is held by whoever makes, removes or re-tags;
//! readers need no lock.

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
    StoreError, failed, private_dir, read_if_there, read_json, remove_tree, try_flock, write,
    write_json,
};
use crate::procs::Identity;

/// A process that holds the lock for longer is stuck.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);

/// The state directory.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
}

/// The right to make, remove and re-tag VMs; given back when dropped.
#[derive(Debug)]
pub(crate) struct StoreLock {
    _file: File,
}

impl Store {
    /// Makes the directory if need be.
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

    /// Waits for the lock, half a minute at most.
    pub(crate) fn lock(&self) -> Result<StoreLock, StoreError> {
        let (file, path) = self.lock_file()?;
        let deadline = Instant::now() + LOCK_PATIENCE;
        while !try_flock(&file, FlockOperation::NonBlockingLockExclusive, &path)? {
            if Instant::now() >= deadline {
                return Err(StoreError::Busy(path));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(StoreLock { _file: file })
    }

    /// The lock, if nobody holds it.
    pub(crate) fn try_lock(&self) -> Result<Option<StoreLock>, StoreError> {
        let (file, path) = self.lock_file()?;
        let locked = try_flock(&file, FlockOperation::NonBlockingLockExclusive, &path)?;
        Ok(locked.then_some(StoreLock { _file: file }))
    }

    /// All VMs, of whichever set, ended ones too; and directories that are only halves of one.
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
                Err(error) if error.is_gone() => scan.halves.push(vm),
                Err(error) => return Err(error),
            }
        }
        scan.vms
            .sort_by(|(_, a), (_, b)| (a.created_at_ms, &a.id).cmp(&(b.created_at_ms, &b.id)));
        Ok(scan)
    }

    /// The directory of this VM, if there can be such a VM at all.
    pub(crate) fn vm(&self, id: &str) -> Option<VmDir> {
        is_id(id).then(|| VmDir::new(self.root.join("vms").join(id)))
    }

    /// An empty directory in which a VM can be made ready.
    pub(crate) fn begin(&self, id: &str) -> Result<VmDir, StoreError> {
        let dir = self.root.join("tmp").join(id);
        private_dir(&dir)?;
        Ok(VmDir::new(dir))
    }

    /// Makes a VM visible.
    pub(crate) fn publish(&self, id: &str, ready: &VmDir) -> Result<VmDir, StoreError> {
        let to = self.root.join("vms").join(id);
        fs::rename(&ready.path, &to).map_err(failed("rename", &ready.path))?;
        Ok(VmDir::new(to))
    }

    /// Removes a VM's directory in one step for whoever looks.
    pub(crate) fn remove(&self, _lock: &StoreLock, vm: &VmDir) -> Result<(), StoreError> {
        let name = vm.path.file_name().unwrap_or_default();
        let to = self.root.join("tmp").join(name);
        fs::rename(&vm.path, &to).map_err(failed("rename", &vm.path))?;
        remove_tree(&to)
    }

    /// Removes what an interrupted creation or removal left behind.
    pub(crate) fn sweep(&self, _lock: &StoreLock) -> Result<(), StoreError> {
        let dir = self.root.join("tmp");
        for entry in fs::read_dir(&dir).map_err(failed("list", &dir))? {
            remove_tree(&entry.map_err(failed("list", &dir))?.path())?;
        }
        Ok(())
    }
}

/// What is below `vms`.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// In the order of their creation.
    pub(crate) vms: Vec<(VmDir, VmRecord)>,
    pub(crate) halves: Vec<VmDir>,
}

/// `lo-` and 16 hexadecimal digits.
fn is_id(name: &str) -> bool {
    name.strip_prefix("lo-").is_some_and(|digits| {
        digits.len() == 16
            && digits
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// What never changes about a VM.
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

/// Where a VM is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VmState {
    /// Its process lives.
    Alive,
    /// Somebody began to end it.
    Ending,
    /// Its process died by itself.
    Dead,
    /// It ended at this time, in milliseconds since 1970.
    Terminated(u64),
}

#[derive(Serialize, Deserialize)]
struct Terminated {
    at_ms: u64,
}

/// A VM's directory.
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

    /// With prefixes, as a cloud keeps them; the secret excepted.
    pub(crate) fn tags(&self) -> Result<BTreeMap<String, String>, StoreError> {
        read_json(&self.file("tags.json"))
    }

    pub(crate) fn write_tags(&self, tags: &BTreeMap<String, String>) -> Result<(), StoreError> {
        write_json(&self.file("tags.json"), tags)
    }

    /// Empty once the VM has ended.
    pub(crate) fn secret(&self) -> Result<Secret, StoreError> {
        let text = read_if_there(&self.file("secret"))?;
        Ok(Secret::new(text.unwrap_or_default()))
    }

    pub(crate) fn write_secret(&self, name: &str, secret: &Secret) -> Result<(), StoreError> {
        write(&self.file(name), secret.expose().as_bytes())
    }

    pub(crate) fn address(&self) -> Result<Option<String>, StoreError> {
        read_if_there(&self.file("address"))
    }

    pub(crate) fn write_address(&self, address: &str) -> Result<(), StoreError> {
        write(&self.file("address"), address.as_bytes())
    }

    pub(crate) fn process(&self) -> Result<Option<Identity>, StoreError> {
        let path = self.file("process.json");
        match read_json(&path) {
            Err(error) if error.is_gone() => Ok(None),
            other => other.map(Some),
        }
    }

    pub(crate) fn write_process(&self, process: &Identity) -> Result<(), StoreError> {
        write_json(&self.file("process.json"), process)
    }

    /// The lock that the VM's process holds as long as it lives, taken.
    pub(crate) fn take_life_lock(&self) -> Result<File, StoreError> {
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

    /// Whether the VM's process lives. Asking shares the lock: two who ask do not see each other.
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
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error),
        }
        if self.file("terminating").exists() {
            Ok(VmState::Ending)
        } else if self.is_alive() {
            Ok(VmState::Alive)
        } else {
            Ok(VmState::Dead)
        }
    }

    /// When the VM is taken back as a spot instance is, in seconds since 1970, if anybody wants that.
    pub(crate) fn preempted_at(&self) -> Result<Option<u64>, StoreError> {
        let path = self.file("take-back");
        let Some(text) = read_if_there(&path)? else {
            return Ok(None);
        };
        let at = text.trim().parse();
        at.map(Some).map_err(|_| StoreError::Broken {
            path,
            why: "expected a time in seconds since 1970".to_owned(),
        })
    }

    /// Has the VM taken back at that time.
    pub(crate) fn take_back_at(&self, at_s: u64) -> Result<(), StoreError> {
        write(&self.file("take-back"), format!("{at_s}\n").as_bytes())?;
        self.announce_end(at_s)
    }

    /// Says to the runners on the VM that it is taken back, in the file that their `--list` shows.
    pub(crate) fn announce_end(&self, at_s: u64) -> Result<(), StoreError> {
        let path = self.file("lock").join("crunch-run-preempted");
        if path.exists() {
            return Ok(());
        }
        write(&path, format!("{at_s} terminate\n").as_bytes())
    }

    /// From here on the VM is to end, whoever does it.
    pub(crate) fn mark_ending(&self) -> Result<(), StoreError> {
        write(&self.file("terminating"), b"")
    }

    /// Wipes what an ended VM must not leave behind, then says that it has ended. What cannot be
    /// removed is returned; the VM has ended all the same.
    pub(crate) fn mark_terminated(&self) -> Result<Vec<StoreError>, StoreError> {
        let mut left = Vec::new();
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
                    left.push(failed("remove", &path)(error));
                }
                _ => {}
            }
        }
        for name in ["lock", "scratch", "home"] {
            left.extend(remove_tree(&self.file(name)).err());
        }
        let at_ms = now_ms();
        write_json(&self.file("terminated.json"), &Terminated { at_ms })?;
        Ok(left)
    }
}

/// Milliseconds since 1970, by the host's clock.
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
    fn an_id_cannot_lead_out_of_the_directory() {
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
    fn the_lock_excludes_others_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let held = store.lock().unwrap();
        assert!(store.try_lock().unwrap().is_none());
        drop(held);
        assert!(store.try_lock().unwrap().is_some());
    }

    #[test]
    fn files_are_replaced_whole_and_for_our_user_only() {
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
    fn a_vm_is_alive_as_long_as_its_lock_is_held_however_many_ask() {
        let dir = tempfile::tempdir().unwrap();
        let vm = VmDir::new(dir.path().to_owned());
        assert!(!vm.is_alive());
        let lock = vm.take_life_lock().unwrap();
        assert!(vm.is_alive() && vm.is_alive());
        assert!(vm.take_life_lock().is_err());
        drop(lock);
        assert!(!vm.is_alive());
        assert_eq!(vm.state().unwrap(), VmState::Dead);
    }

    #[test]
    fn a_wrong_file_is_named_and_never_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let vm = store.vm("lo-0123456789abcdef").unwrap();
        private_dir(vm.path()).unwrap();
        assert_eq!(store.scan().unwrap().halves.len(), 1);
        fs::write(vm.file("instance.json"), "{").unwrap();
        let error = CloudError::from(store.scan().unwrap_err());
        assert!(
            matches!(&error, CloudError::Permanent { message } if message.contains("instance.json"))
        );
    }
}
