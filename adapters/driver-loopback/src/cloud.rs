//! Driver: [`Cloud`] on the state directory.

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
use crate::store::{self, Store, StoreLock, VmDir, VmRecord, VmState};
use crate::terminate;
use crate::vm::Environment;

/// Timeout of `destroy` for the termination of all processes.
const DESTROY_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout of `list` for the termination of a VM in state `Terminating` or `Dead`.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(2);

/// Size limit of EC2, so that init scripts accepted here are accepted there.
const INIT_SCRIPT_BYTES_MAX: usize = 16 * 1024;

/// Setup problem of the driver.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The state directory cannot be created or used: check its owner, or set `StateDir` to another
    /// directory.
    #[error("StateDir: {0}")]
    StateDir(String),
    /// The VM program is absent: check the installation.
    #[error("cannot find the program that runs loopback VMs, {}: {source}", path.display())]
    Program {
        /// Path of the program.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The name of the current user is unknown: `id -un` must print a name.
    #[error("`id -un` does not print the name of the current user: {0}")]
    User(String),
}

/// Cloud of VMs on this host. All state is in the state directory: any number of drivers on the
/// same directory, in one or several processes, list the same VMs.
///
/// Calls need a tokio runtime.
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
    /// Creates the state directory.
    ///
    /// # Errors
    /// The state directory is unusable, the VM program is absent, or the name of the current user
    /// is unknown.
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

    /// Destroys every VM of the instance set and returns the number of destroyed VMs.
    ///
    /// # Errors
    /// Any error of `list` and `destroy`; VMs after a failed destroy are left.
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

    /// Preempts a VM like a spot instance: the preemption is announced immediately, on the VM and
    /// in lists, and the first list after `notice` terminates the VM. Writing a Unix time in
    /// seconds to the file `take-back` in the directory of the VM has the same effect.
    ///
    /// # Errors
    /// `NotFound` if no running VM of this set has the id.
    pub async fn interrupt(
        &self,
        instance: &InstanceId,
        notice: Duration,
    ) -> Result<(), CloudError> {
        let instance = instance.clone();
        self.blocking(move |inner| inner.interrupt(&instance, notice))
            .await
    }

    /// Runs file and process operations on a thread for blocking work.
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

    /// False: no command on a loopback VM needs root rights.
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
        let public_key = validated_public_key(spec)?;
        let lock = self.store.lock()?;
        self.sweep(&lock);
        let scan = self.store.scan()?;
        let mut running = 0;
        for (dir, record) in &scan.vms {
            if record.intent == spec.intent
                && let Some(own) = self.tags_if_own(dir)?
            {
                return self.listed_instance(dir, record, own);
            }
            running += u32::from(matches!(
                dir.state()?,
                VmState::Alive | VmState::Terminating
            ));
        }
        if running >= self.params.instances_max {
            return Err(CloudError::Quota {
                message: format!(
                    "{running} VMs exist on this host; MaxInstances is {}",
                    self.params.instances_max
                ),
            });
        }
        let record = self.record(spec, public_key)?;
        let tags = self.settings.tags_for(spec);
        let dir = self.create_vm(spec, &record, &tags)?;
        tracing::info!(instance = %record.id, instance_type = %record.type_name, "loopback VM created");
        self.listed_instance(&dir, &record, tags)
    }

    fn record(&self, spec: &CreateSpec, public_key: &str) -> Result<VmRecord, CloudError> {
        let mut bits = [0; 8];
        getrandom::fill(&mut bits).map_err(|error| CloudError::Transient {
            message: format!("no random numbers from this host: {error}"),
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

    /// Creates the directory, then starts the process. A crash in between leaves a listed VM
    /// without a process, never an unlisted VM.
    fn create_vm(
        &self,
        spec: &CreateSpec,
        record: &VmRecord,
        tags: &BTreeMap<String, String>,
    ) -> Result<VmDir, CloudError> {
        let id = record.id.as_str();
        let ready = self.store.create_temporary(id)?;
        for name in ["lock", "scratch", "log", "home"] {
            private_dir(&ready.file(name))?;
        }
        ready.write_secret("secret", &spec.secret)?;
        ready.write_secret("init-script", &spec.init_script)?;
        ready.write_tags(tags)?;
        ready.write_record(record)?;
        let vm_lock = ready.take_vm_lock()?;
        let dir = self.store.publish(id, &ready)?;
        self.start(&dir, record, vm_lock).inspect_err(|_| {
            // The VM never ran, so there is no terminated VM to list.
            let _ = std::fs::remove_dir_all(dir.path());
        })?;
        Ok(dir)
    }

    /// Starts the VM process with the VM lock as standard input, so that the lock is held without a
    /// gap and for exactly the lifetime of the process.
    fn start(
        &self,
        dir: &VmDir,
        record: &VmRecord,
        vm_lock: std::fs::File,
    ) -> Result<(), CloudError> {
        let program = &self.params.program;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(dir.file("vm.log"));
        let (stdout, stderr) =
            log.and_then(|log| Ok((log.try_clone()?, log)))
                .map_err(|error| CloudError::Transient {
                    message: format!("cannot open the log of {}: {error}", record.id),
                })?;
        let child = tokio::process::Command::new(&program.path)
            .args(&program.args)
            .arg(dir.path())
            .env_clear()
            .envs(Environment::new(dir, &record.remote_user).variables())
            .current_dir(dir.path())
            .stdin(Stdio::from(vm_lock))
            .stdout(Stdio::from(stdout))
            .stderr(Stdio::from(stderr))
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
        // Only reaps the process; the lock shows its state.
        tokio::spawn(async move { child.wait().await });
        Ok(())
    }

    fn list(&self) -> Result<Vec<Instance>, CloudError> {
        let scan = self.clean_up_store()?;
        let mut instances = Vec::new();
        for (dir, record) in &scan.vms {
            match self.list_one(dir, record) {
                Ok(found) => instances.extend(found),
                Err(error) if error.is_not_found() => {}
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
                tracing::info!(instance = %record.id, "loopback VM preempted");
                dir.mark_terminating()?;
                state = VmState::Terminating;
            } else {
                dir.write_preemption_notice(at_s)?;
            }
        }
        if matches!(state, VmState::Dead | VmState::Terminating) {
            if state == VmState::Dead {
                tracing::warn!(instance = %record.id, "process of a loopback VM exited unexpectedly");
            }
            if let Err(error) = terminate(dir, record, CLEANUP_TIMEOUT) {
                tracing::warn!(instance = %record.id, %error, "loopback VM is not terminated yet");
            }
        }
        self.instance(dir, record, tags).map(Some)
    }

    /// Removes partial directories, and terminated VMs after the retention time, unless another
    /// process holds the store lock.
    fn clean_up_store(&self) -> Result<store::Scan, CloudError> {
        let mut scan = self.store.scan()?;
        let Some(lock) = self.store.try_lock()? else {
            return Ok(scan);
        };
        self.sweep(&lock);
        // With the lock held no create is in progress, so partial directories stay partial.
        for dir in self.store.scan()?.partial {
            self.remove(&lock, &dir);
        }
        let retention_ms =
            u64::try_from(self.params.terminated_shown.as_millis()).unwrap_or(u64::MAX);
        let now = store::now_ms();
        scan.vms.retain(|(dir, _)| {
            let expired = matches!(
                dir.state(),
                Ok(VmState::Terminated(at_ms)) if now.saturating_sub(at_ms) > retention_ms
            );
            let remove = expired && matches!(self.own_tags(dir), Ok(Some(_)));
            if remove {
                self.remove(&lock, dir);
            }
            !remove
        });
        Ok(scan)
    }

    fn sweep(&self, lock: &StoreLock) {
        if let Err(error) = self.store.sweep(lock) {
            tracing::warn!(%error, "cannot remove the files of a terminated loopback VM");
        }
    }

    fn remove(&self, lock: &StoreLock, dir: &VmDir) {
        if let Err(error) = self.store.remove(lock, dir) {
            tracing::warn!(%error, "cannot remove the files of a terminated loopback VM");
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
            message: format!("{instance} is not a running VM of this instance set"),
        };
        let _lock = self.store.lock()?;
        let dir = self
            .store
            .vm(instance.as_str())
            .ok_or(())
            .map_err(missing)?;
        let mut all = self.tags_if_own(&dir)?.ok_or(()).map_err(missing)?;
        if matches!(dir.state()?, VmState::Terminated(_)) {
            return Err(missing(()));
        }
        all.extend(self.settings.prefixed(tags));
        dir.write_tags(&all)?;
        Ok(())
    }

    fn interrupt(&self, instance: &InstanceId, notice: Duration) -> Result<(), CloudError> {
        let dir = self.store.vm(instance.as_str());
        let own = dir.as_ref().map(|dir| self.tags_if_own(dir)).transpose()?;
        match dir {
            Some(dir) if own.flatten().is_some() && dir.state()? == VmState::Alive => {
                let at_ms = store::now_ms()
                    .saturating_add(u64::try_from(notice.as_millis()).unwrap_or(u64::MAX));
                Ok(dir.preempt_at(at_ms / 1000)?)
            }
            _ => Err(CloudError::NotFound {
                message: format!("{instance} is not a running VM of this instance set"),
            }),
        }
    }

    fn destroy(&self, instance: &InstanceId) -> Result<(), CloudError> {
        let Some(dir) = self.store.vm(instance.as_str()) else {
            return Ok(());
        };
        match self.destroy_dir(&dir) {
            Err(error) if error.is_not_found() => Ok(()),
            Err(DestroyError::Store(error)) => Err(error.into()),
            Err(DestroyError::Processes(error)) => Err(CloudError::Transient {
                message: format!("{instance}: {error}"),
            }),
            Ok(()) => Ok(()),
        }
    }

    fn destroy_dir(&self, dir: &VmDir) -> Result<(), DestroyError> {
        let record = dir.record()?;
        if matches!(dir.state()?, VmState::Terminated(_)) {
            return Ok(());
        }
        dir.mark_terminating()?;
        terminate(dir, &record, DESTROY_TIMEOUT)?;
        tracing::info!(instance = %record.id, "loopback VM terminated");
        Ok(())
    }

    /// Tags of the VM, if the VM exists and belongs to the instance set.
    fn tags_if_own(&self, dir: &VmDir) -> Result<Option<BTreeMap<String, String>>, StoreError> {
        match self.own_tags(dir) {
            Err(error) if error.is_not_found() => Ok(None),
            other => other,
        }
    }

    fn own_tags(&self, dir: &VmDir) -> Result<Option<BTreeMap<String, String>>, StoreError> {
        let tags = dir.tags()?;
        let own = self.settings.is_own(&tags);
        Ok(own.then_some(tags))
    }

    fn listed_instance(
        &self,
        dir: &VmDir,
        record: &VmRecord,
        tags: BTreeMap<String, String>,
    ) -> Result<Instance, CloudError> {
        // The VM exists, so an error must not mean the opposite.
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
            tags: self.settings.own_tags(tags).tags,
            secret,
        })
    }
}

/// Cause of a failed termination.
#[derive(Debug, thiserror::Error)]
enum DestroyError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Processes(#[from] terminate::TerminateError),
}

impl DestroyError {
    fn is_not_found(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_not_found())
    }
}

/// Terminates all processes of the VM and records the termination. Concurrent calls are safe: every
/// step is idempotent.
fn terminate(dir: &VmDir, record: &VmRecord, timeout: Duration) -> Result<(), DestroyError> {
    terminate::terminate_all(dir, timeout)?;
    for error in dir.mark_terminated()? {
        tracing::warn!(instance = %record.id, %error, "cannot remove a file of a terminated loopback VM");
    }
    Ok(())
}

/// Public key of a valid create request.
fn validated_public_key(spec: &CreateSpec) -> Result<&str, CloudError> {
    let reject = |message: String| Err(CloudError::Permanent { message });
    if spec.tags.contains_key(tag::SECRET) {
        return Err(secret_among_tags());
    }
    let length = spec.init_script.expose().len();
    if length >= INIT_SCRIPT_BYTES_MAX {
        return reject(format!(
            "the init script has {length} bytes; fewer than {INIT_SCRIPT_BYTES_MAX} are allowed: shorten InstanceInitCommand"
        ));
    }
    let Some(public_key) = spec.public_key.as_deref() else {
        return reject("a loopback VM needs a public key: set DispatchPrivateKey".to_owned());
    };
    match russh::keys::PublicKey::from_openssh(public_key) {
        Ok(_) => Ok(public_key),
        Err(error) => reject(format!("the public key is not in OpenSSH format: {error}")),
    }
}

fn secret_among_tags() -> CloudError {
    CloudError::Permanent {
        message: format!("{} cannot be set as an ordinary tag", tag::SECRET),
    }
}

/// Name of the current user according to the operating system; environment variables can be wrong.
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
