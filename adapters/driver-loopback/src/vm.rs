//! Process of a VM: boots, then serves SSH until killed.

mod children;
mod exec;
mod server;

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::files::StoreError;
use crate::procfs::ProcessId;
use crate::store::{VmDir, VmRecord};
use crate::terminate::DIR_VARIABLE;
use children::Children;

/// Search path for commands on the VM.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Cause of a VM process's exit.
#[derive(Debug, thiserror::Error)]
pub enum VmRunError {
    /// The process was not started by the driver with the VM lock: create a VM instead.
    #[error("{} is not a VM just created by the loopback driver", .0.display())]
    NotOurs(PathBuf),
    /// It was already booted, and a VM boots once: create another.
    #[error("{} was already booted", .0.display())]
    BootedBefore(PathBuf),
    /// The directory of the VM is unusable: the message names the file.
    #[error("{0}")]
    Directory(String),
    /// A system call failed: the message names the operation.
    #[error("cannot {what}: {source}")]
    System {
        /// Failed operation.
        what: &'static str,
        /// Cause.
        source: io::Error,
    },
    /// The public key in the record is invalid: remove the VM.
    #[error("invalid public key in the record of the VM: {0}")]
    PublicKey(String),
}

impl From<StoreError> for VmRunError {
    fn from(error: StoreError) -> Self {
        Self::Directory(error.to_string())
    }
}

fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> VmRunError {
    move |source| VmRunError::System {
        what,
        source: source.into(),
    }
}

/// Runs the VM in this directory: waits for the boot delay, runs the init script, serves SSH.
///
/// To be called once, at the start of a process started by [`LoopbackCloud`](crate::LoopbackCloud),
/// in a tokio runtime. The process becomes leader of a new session and subreaper of all orphaned
/// descendants.
///
/// # Errors
/// A failed boot or a failed SSH server; does not return otherwise.
pub async fn run_vm(dir: &Path) -> Result<(), VmRunError> {
    let dir = VmDir::new(dir.to_owned());
    if !holds_vm_lock(&dir) {
        return Err(VmRunError::NotOurs(dir.path().to_owned()));
    }
    let record = dir.record()?;
    rustix::process::setsid().map_err(system("start a session"))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(system("become the subreaper of orphaned processes"))?;
    // The parent may ignore these signals, like nohup and background jobs of shells do. Commands
    // inherit ignored signals, but not caught signals.
    let _handlers = [
        SignalKind::hangup(),
        SignalKind::interrupt(),
        SignalKind::quit(),
    ]
    .map(signal);
    dir.write_process(&ProcessId::own().map_err(system("read the process id of the VM"))?)?;
    let children = Children::start_reaper().map_err(system("watch child processes"))?;
    let environment = Environment::new(&dir, &record.remote_user);

    tokio::time::sleep(Duration::from_millis(record.boot_delay_ms)).await;
    run_init_script(&dir, &children, &environment).await?;
    server::serve(&dir, &record, children, environment).await
}

/// True if standard input is the VM lock.
fn holds_vm_lock(dir: &VmDir) -> bool {
    let input = rustix::fs::fstat(rustix::stdio::stdin());
    let lock = File::open(dir.file("vm.lock")).map(rustix::fs::fstat);
    match (input, lock) {
        (Ok(input), Ok(Ok(lock))) => {
            (input.st_dev, input.st_ino) == (lock.st_dev, lock.st_ino) && dir.is_alive()
        }
        _ => false,
    }
}

/// Runs the init script. As on a real cloud, a failed script does not stop the boot: probes detect
/// an unusable VM.
async fn run_init_script(
    dir: &VmDir,
    children: &Children,
    environment: &Environment,
) -> Result<(), VmRunError> {
    let script = dir.file("init-script");
    let running = dir.file("init-script.running");
    // Deleted after the run, because the script may contain secrets; the rename prevents a second
    // run.
    std::fs::rename(&script, &running).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => VmRunError::BootedBefore(dir.path().to_owned()),
        _ => system("rename the init script")(error),
    })?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(dir.file("init.log"))
        .and_then(|log| Ok((log.try_clone()?, log)));
    let (stdout, stderr) = log.map_err(system("open init.log"))?;
    let mut command = Command::new("/bin/sh");
    command
        .arg(&running)
        .current_dir(environment.home())
        .env_clear()
        .envs(environment.variables())
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr);
    let started = children
        .spawn(&mut command)
        .map_err(system("run the init script"))?;
    match started.ended.await {
        Ok(status) if status.exit_status() == Some(0) => tracing::info!("init script succeeded"),
        status => tracing::warn!(?status, "init script failed, see init.log"),
    }
    std::fs::remove_file(&running).map_err(system("remove the init script"))
}

/// Environment of every process on the VM.
#[derive(Clone, Debug)]
pub(crate) struct Environment {
    dir: PathBuf,
    user: String,
}

impl Environment {
    pub(crate) fn new(dir: &VmDir, user: &str) -> Self {
        Self {
            dir: dir.path().to_owned(),
            user: user.to_owned(),
        }
    }

    fn home(&self) -> PathBuf {
        self.dir.join("home")
    }

    pub(crate) fn variables(&self) -> [(&'static str, OsString); 9] {
        [
            ("PATH", SEARCH_PATH.into()),
            ("HOME", self.home().into()),
            ("USER", self.user.clone().into()),
            ("LOGNAME", self.user.clone().into()),
            ("SHELL", "/bin/sh".into()),
            (DIR_VARIABLE, self.dir.clone().into()),
            ("LONGSHORE_LOCK_DIR", self.dir.join("lock").into()),
            ("LONGSHORE_SCRATCH_DIR", self.dir.join("scratch").into()),
            ("LONGSHORE_LOG_DIR", self.dir.join("log").into()),
        ]
    }
}

/// State shared by all connections of the SSH server.
struct Vm {
    user: String,
    public_key: russh::keys::PublicKey,
    children: Arc<Children>,
    environment: Environment,
}

impl Vm {
    fn new(
        record: &VmRecord,
        children: Arc<Children>,
        environment: Environment,
    ) -> Result<Self, VmRunError> {
        let public_key = russh::keys::PublicKey::from_openssh(&record.public_key)
            .map_err(|error| VmRunError::PublicKey(error.to_string()))?;
        Ok(Self {
            user: record.remote_user.clone(),
            public_key,
            children,
            environment,
        })
    }

    /// True if a client with this key may log in as this user.
    fn is_authorized(&self, user: &str, key: &russh::keys::PublicKey) -> bool {
        user == self.user && key.key_data() == self.public_key.key_data()
    }
}
