//! The driver: [`Cloud`] over the state directory.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use longshore_core::config::InstanceType;
use longshore_core::ids::{InstanceId, QuotaGroup};
use longshore_driver::{Cloud, CloudError, CloudSettings, CreateSpec, Instance, tag};

use crate::files::{StoreError, private_dir};
use crate::params::LoopbackParams;
use crate::procs;
use crate::store::{self, Store, StoreLock, VmDir, VmRecord, VmState};
use crate::vm::Environment;

/// How long `destroy` waits for the last process.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// How long `list` waits for the last process of a VM that somebody else began to end.
const TIDY_PATIENCE: Duration = Duration::from_secs(2);

/// As much as EC2 takes, so that a script that works here works there.
const INIT_SCRIPT_BYTES_MAX: usize = 16 * 1024;

/// The driver cannot work here.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The state directory cannot be made or used: check its owner, or set `StateDir` to another.
    #[error("StateDir: {0}")]
    StateDir(String),
    /// The program that runs VMs is not there: check the installation.
    #[error("cannot find the program that runs loopback VMs, {}: {source}", path.display())]
    Program {
        /// The program.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The name of the user we run as is unknown: `id -un` must print it.
    #[error("`id -un` does not tell our user's name: {0}")]
    User(String),
}

/// A cloud whose VMs live on this host. It has no state but its directory: several of them over the
/// same directory, in one process or in many, see the same VMs.
///
/// Its methods must be called within a tokio runtime.
#[derive(Clone)]
pub struct LoopbackCloud {
    inner: Arc<Inner>,
}

struct Inner {
    settings: CloudSettings,
    params: LoopbackParams,
    store: Store,
    remote_user: String,
}

impl fmt::Debug for LoopbackCloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopbackCloud")
            .field("instance_set_id", &self.inner.settings.instance_set_id)
            .field("params", &self.inner.params)
            .finish_non_exhaustive()
    }
}

impl LoopbackCloud {
    /// Makes the state directory ready.
    ///
    /// # Errors
    /// If that, the VM program or our user's name is out of order.
    pub fn new(settings: CloudSettings, params: LoopbackParams) -> Result<Self, SetupError> {
        let store = Store::open(&params.state_dir)
            .map_err(|error| SetupError::StateDir(error.to_string()))?;
        let program = &params.program.path;
        let found = std::fs::metadata(program).and_then(|file| match file.is_file() {
            true => Ok(()),
            false => Err(io::Error::other("not a file")),
        });
        found.map_err(|source| SetupError::Program {
            path: program.clone(),
            source,
        })?;
        let remote_user = user_name()?;
        Ok(Self {
            inner: Arc::new(Inner {
                settings,
                params,
                store,
                remote_user,
            }),
        })
    }

    /// Destroys every VM of the set and says how many there were.
    ///
    /// # Errors
    /// As `list` and `destroy`; VMs after the one that failed are left.
    pub async fn destroy_all(&self) -> Result<usize, CloudError> {
        let mut count = 0;
        for instance in self.list().await? {
            if !instance.terminated {
                self.destroy(&instance.id).await?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// Takes a VM back as a cloud does with its spot instances: announced at once, to the VM and in
    /// lists; ended by the first list after `notice`. Whoever writes a time in seconds since 1970 into
    /// the file `take-back` in the VM's directory does the same.
    ///
    /// # Errors
    /// `NotFound` where there is no such living VM of this set.
    pub async fn interrupt(
        &self,
        instance: &InstanceId,
        notice: Duration,
    ) -> Result<(), CloudError> {
        let instance = instance.clone();
        self.blocking(move |inner| inner.interrupt(&instance, notice))
            .await
    }

    /// Files and processes are waited for, so this is nothing for the runtime's own threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, CloudError> + Send + 'static,
    ) -> Result<T, CloudError> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || work(&inner))
            .await
            .unwrap_or_else(|error| {
                Err(CloudError::Ambiguous {
                    message: format!("the driver failed: {error}"),
                })
            })
    }
}

#[async_trait]
impl Cloud for LoopbackCloud {
    async fn create(&self, spec: CreateSpec) -> Result<Instance, CloudError> {
        self.blocking(move |inner| inner.create(&spec)).await
    }

    async fn list(&self) -> Result<Vec<Instance>, CloudError> {
        self.blocking(Inner::list).await
    }

    async fn set_tags(
        &self,
        instance: &InstanceId,
        tags: BTreeMap<String, String>,
    ) -> Result<(), CloudError> {
        let instance = instance.clone();
        self.blocking(move |inner| inner.set_tags(&instance, tags))
            .await
    }

    async fn destroy(&self, instance: &InstanceId) -> Result<(), CloudError> {
        let instance = instance.clone();
        self.blocking(move |inner| inner.destroy(&instance)).await
    }

    fn remote_user(&self) -> &str {
        &self.inner.remote_user
    }

    /// Nothing here needs more rights than we have.
    fn sudo(&self) -> bool {
        false
    }

    fn secret_path(&self) -> &str {
        "$LONGSHORE_VM_DIR/instance-secret"
    }

    fn quota_group(&self, instance_type: &InstanceType) -> QuotaGroup {
        QuotaGroup::from(match instance_type.preemptible {
            true => "loopback.spot",
            false => "loopback",
        })
    }
}

impl Inner {
    fn create(&self, spec: &CreateSpec) -> Result<Instance, CloudError> {
        let public_key = checked(spec)?;
        let lock = self.store.lock()?;
        self.sweep(&lock);
        let scan = self.store.scan()?;
        let mut living = 0;
        for (dir, record) in &scan.vms {
            if record.intent == spec.intent
                && let Some(own) = self.own(dir)?
            {
                return self.show(dir, record, own);
            }
            living += u32::from(matches!(dir.state()?, VmState::Alive | VmState::Ending));
        }
        if living >= self.params.instances_max {
            return Err(CloudError::Quota {
                message: format!(
                    "{living} VMs exist on this host; MaxInstances is {}",
                    self.params.instances_max
                ),
            });
        }
        let record = self.record(spec, public_key)?;
        let tags = self.settings.tags_for(spec);
        let dir = self.make(spec, &record, &tags)?;
        tracing::info!(instance = %record.id, instance_type = %record.type_name, "loopback VM made");
        self.show(&dir, &record, tags)
    }

    fn record(&self, spec: &CreateSpec, public_key: &str) -> Result<VmRecord, CloudError> {
        let mut bits = [0; 8];
        getrandom::fill(&mut bits).map_err(|error| CloudError::Transient {
            message: format!("the host gives no random numbers: {error}"),
        })?;
        Ok(VmRecord {
            id: InstanceId::new(format!("lo-{:016x}", u64::from_ne_bytes(bits))),
            intent: spec.intent,
            type_name: spec.type_name.clone(),
            provider_type: spec.instance_type.provider_type.clone(),
            preemptible: spec.instance_type.preemptible,
            image: spec.image.clone(),
            created_at_ms: store::now_ms(),
            remote_user: self.remote_user.clone(),
            public_key: public_key.to_owned(),
            boot_delay_ms: u64::try_from(self.params.boot_delay.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// Makes the directory, then starts the process. Whoever is killed in between leaves a VM whose
    /// process is dead, never one that nobody sees.
    fn make(
        &self,
        spec: &CreateSpec,
        record: &VmRecord,
        tags: &BTreeMap<String, String>,
    ) -> Result<VmDir, CloudError> {
        let id = record.id.as_str();
        let ready = self.store.begin(id)?;
        for name in ["lock", "scratch", "log", "home"] {
            private_dir(&ready.file(name))?;
        }
        ready.write_secret("secret", &spec.secret)?;
        ready.write_secret("init-script", &spec.init_script)?;
        ready.write_tags(tags)?;
        ready.write_record(record)?;
        let life_lock = ready.take_life_lock()?;
        let dir = self.store.publish(id, &ready)?;
        self.start(&dir, record, life_lock).inspect_err(|_| {
            // It never ran, so there is nothing to show as ended.
            let _ = std::fs::remove_dir_all(dir.path());
        })?;
        Ok(dir)
    }

    /// The process gets the lock as its standard input: so the VM counts as alive without a gap, and
    /// for exactly as long as the process lives.
    fn start(
        &self,
        dir: &VmDir,
        record: &VmRecord,
        life_lock: std::fs::File,
    ) -> Result<(), CloudError> {
        let program = &self.params.program;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(dir.file("vm.log"));
        let (log, log_too) = log
            .and_then(|log| Ok((log.try_clone()?, log)))
            .map_err(|error| CloudError::Transient {
                message: format!("cannot open the log of {}: {error}", record.id),
            })?;
        let child = tokio::process::Command::new(&program.path)
            .args(&program.args)
            .arg(dir.path())
            .env_clear()
            .envs(Environment::new(dir, &record.remote_user).variables())
            .current_dir(dir.path())
            .stdin(Stdio::from(life_lock))
            .stdout(Stdio::from(log))
            .stderr(Stdio::from(log_too))
            .spawn();
        let mut child = child.map_err(|error| {
            let message = format!("cannot start {}: {error}", program.path.display());
            match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
                    CloudError::Permanent { message }
                }
                _ => CloudError::Transient { message },
            }
        })?;
        // Only so that the host can forget its number; whether it lives is asked of its lock.
        tokio::spawn(async move { child.wait().await });
        Ok(())
    }

    fn list(&self) -> Result<Vec<Instance>, CloudError> {
        let scan = self.tidy_store()?;
        let mut instances = Vec::new();
        for (dir, record) in &scan.vms {
            match self.list_one(dir, record) {
                Ok(found) => instances.extend(found),
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(instances)
    }

    fn list_one(&self, dir: &VmDir, record: &VmRecord) -> Result<Option<Instance>, StoreError> {
        let Some(tags) = self.own_tags(dir)? else {
            return Ok(None);
        };
        let mut state = dir.state()?;
        if state == VmState::Alive
            && let Some(at_s) = dir.preempted_at()?
        {
            if at_s.saturating_mul(1000) <= store::now_ms() {
                tracing::info!(instance = %record.id, "a loopback VM is taken back");
                dir.mark_ending()?;
                state = VmState::Ending;
            } else {
                dir.announce_end(at_s)?;
            }
        }
        if matches!(state, VmState::Dead | VmState::Ending) {
            if state == VmState::Dead {
                tracing::warn!(instance = %record.id, "the process of a loopback VM has died");
            }
            if let Err(error) = end(dir, record, TIDY_PATIENCE) {
                tracing::warn!(instance = %record.id, %error, "a loopback VM does not end yet");
            }
        }
        self.instance(dir, record, tags).map(Some)
    }

    /// Removes what is not to be shown any longer, if nobody else is at it.
    fn tidy_store(&self) -> Result<store::Scan, CloudError> {
        let mut scan = self.store.scan()?;
        let Some(lock) = self.store.try_lock()? else {
            return Ok(scan);
        };
        self.sweep(&lock);
        // Under the lock nobody is about to make one, so a half stays a half.
        for half in self.store.scan()?.halves {
            self.remove(&lock, &half);
        }
        let shown_ms = u64::try_from(self.params.terminated_shown.as_millis()).unwrap_or(u64::MAX);
        let now = store::now_ms();
        scan.vms.retain(|(dir, _)| {
            let over = matches!(
                dir.state(),
                Ok(VmState::Terminated(at_ms)) if now.saturating_sub(at_ms) > shown_ms
            );
            let remove = over && matches!(self.own_tags(dir), Ok(Some(_)));
            if remove {
                self.remove(&lock, dir);
            }
            !remove
        });
        Ok(scan)
    }

    fn sweep(&self, lock: &StoreLock) {
        if let Err(error) = self.store.sweep(lock) {
            tracing::warn!(%error, "cannot remove what is left of a loopback VM");
        }
    }

    fn remove(&self, lock: &StoreLock, dir: &VmDir) {
        if let Err(error) = self.store.remove(lock, dir) {
            tracing::warn!(%error, "cannot remove what is left of a loopback VM");
        }
    }

    fn set_tags(
        &self,
        instance: &InstanceId,
        tags: BTreeMap<String, String>,
    ) -> Result<(), CloudError> {
        if tags.contains_key(tag::SECRET) {
            return Err(secret_among_tags());
        }
        let missing = |_| CloudError::NotFound {
            message: format!("{instance} is no living VM of this set"),
        };
        let _lock = self.store.lock()?;
        let dir = self
            .store
            .vm(instance.as_str())
            .ok_or(())
            .map_err(missing)?;
        let mut all = self.own(&dir)?.ok_or(()).map_err(missing)?;
        if matches!(dir.state()?, VmState::Terminated(_)) {
            return Err(missing(()));
        }
        all.extend(self.settings.prefixed(tags));
        dir.write_tags(&all)?;
        Ok(())
    }

    fn interrupt(&self, instance: &InstanceId, notice: Duration) -> Result<(), CloudError> {
        let dir = self.store.vm(instance.as_str());
        let own = dir.as_ref().map(|dir| self.own(dir)).transpose()?;
        match dir {
            Some(dir) if own.flatten().is_some() && dir.state()? == VmState::Alive => {
                let at_ms = store::now_ms()
                    .saturating_add(u64::try_from(notice.as_millis()).unwrap_or(u64::MAX));
                Ok(dir.take_back_at(at_ms / 1000)?)
            }
            _ => Err(CloudError::NotFound {
                message: format!("{instance} is no living VM of this set"),
            }),
        }
    }

    fn destroy(&self, instance: &InstanceId) -> Result<(), CloudError> {
        let Some(dir) = self.store.vm(instance.as_str()) else {
            return Ok(());
        };
        match self.destroy_dir(&dir) {
            Err(error) if error.is_gone() => Ok(()),
            Err(EndError::Store(error)) => Err(error.into()),
            Err(EndError::Processes(error)) => Err(CloudError::Transient {
                message: format!("{instance}: {error}"),
            }),
            Ok(()) => Ok(()),
        }
    }

    fn destroy_dir(&self, dir: &VmDir) -> Result<(), EndError> {
        let record = dir.record()?;
        if matches!(dir.state()?, VmState::Terminated(_)) {
            return Ok(());
        }
        dir.mark_ending()?;
        end(dir, &record, END_PATIENCE)?;
        tracing::info!(instance = %record.id, "loopback VM ended");
        Ok(())
    }

    /// The VM's tags, if it is of our set and still there.
    fn own(&self, dir: &VmDir) -> Result<Option<BTreeMap<String, String>>, StoreError> {
        match self.own_tags(dir) {
            Err(error) if error.is_gone() => Ok(None),
            other => other,
        }
    }

    fn own_tags(&self, dir: &VmDir) -> Result<Option<BTreeMap<String, String>>, StoreError> {
        let tags = dir.tags()?;
        let own = self.settings.is_own(&tags);
        Ok(own.then_some(tags))
    }

    fn show(
        &self,
        dir: &VmDir,
        record: &VmRecord,
        tags: BTreeMap<String, String>,
    ) -> Result<Instance, CloudError> {
        // Known to exist, so an error on the way must not say that it does not.
        self.instance(dir, record, tags)
            .map_err(|error| CloudError::Ambiguous {
                message: error.to_string(),
            })
    }

    fn instance(
        &self,
        dir: &VmDir,
        record: &VmRecord,
        tags: BTreeMap<String, String>,
    ) -> Result<Instance, StoreError> {
        let state = dir.state()?;
        let secret = dir.secret()?;
        let address = match state {
            VmState::Alive => dir.address()?,
            _ => None,
        };
        Ok(Instance {
            id: record.id.clone(),
            address,
            terminated: matches!(state, VmState::Terminated(_)),
            preempted: dir.preempted_at()?.is_some(),
            tags: self.settings.ours(tags).tags,
            secret,
        })
    }
}

/// Why a VM has not ended.
#[derive(Debug, thiserror::Error)]
enum EndError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Processes(#[from] procs::EndError),
}

impl EndError {
    fn is_gone(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_gone())
    }
}

/// Ends all that runs there and says so. Several may do it at a time: each step can be repeated.
fn end(dir: &VmDir, record: &VmRecord, patience: Duration) -> Result<(), EndError> {
    procs::end_all(dir, patience)?;
    for error in dir.mark_terminated()? {
        tracing::warn!(instance = %record.id, %error, "an ended loopback VM leaves something behind");
    }
    Ok(())
}

/// The public key, if a VM can be made from this.
fn checked(spec: &CreateSpec) -> Result<&str, CloudError> {
    let refuse = |message: String| Err(CloudError::Permanent { message });
    if spec.tags.contains_key(tag::SECRET) {
        return Err(secret_among_tags());
    }
    let length = spec.init_script.expose().len();
    if length >= INIT_SCRIPT_BYTES_MAX {
        return refuse(format!(
            "the init script has {length} bytes; fewer than {INIT_SCRIPT_BYTES_MAX} are allowed: shorten InstanceInitCommand"
        ));
    }
    let Some(public_key) = spec.public_key.as_deref() else {
        return refuse("a loopback VM needs a public key: set DispatchPrivateKey".to_owned());
    };
    match russh::keys::PublicKey::from_openssh(public_key) {
        Ok(_) => Ok(public_key),
        Err(error) => refuse(format!("the public key is not in OpenSSH format: {error}")),
    }
}

fn secret_among_tags() -> CloudError {
    CloudError::Permanent {
        message: format!("{} cannot be set like another tag", tag::SECRET),
    }
}

/// The operating system's word for who we are; the environment's may be anything.
fn user_name() -> Result<String, SetupError> {
    let output = std::process::Command::new("id")
        .arg("-un")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| SetupError::User(error.to_string()))?;
    let name = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && !name.is_empty() {
        Ok(name)
    } else {
        Err(SetupError::User(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        ))
    }
}
