//! The process behind one VM: boots, then serves SSH until it is killed.

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
use crate::procs::{DIR_VARIABLE, Identity};
use crate::store::{VmDir, VmRecord};
use children::Children;

/// Where a shell finds its commands.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a VM's process ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum VmRunError {
    /// It was not started by the driver, which holds the VM's lock for it: create a VM instead.
    #[error("{} is not a VM that the loopback driver has just made", .0.display())]
    NotOurs(PathBuf),
    /// It has been booted before, and a VM boots once: create another.
    #[error("{} has been booted before", .0.display())]
    BootedBefore(PathBuf),
    /// Its directory cannot be used: the message names the file.
    #[error("{0}")]
    Directory(String),
    /// The system refused something: the message says what.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The public key in its record cannot be read: remove the VM.
    #[error("the public key that may log in makes no sense: {0}")]
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

/// Is the VM with this directory: waits for the boot delay, runs the init script, serves SSH.
///
/// To be called once, at the start of a process that
/// [`LoopbackCloud`](crate::LoopbackCloud) has started for it, within a tokio runtime. It takes over
/// the process: a session of its own, and the care of every orphan below it.
///
/// # Errors
/// If it cannot boot or cannot serve any longer; it does not return otherwise.
pub async fn run_vm(dir: &Path) -> Result<(), VmRunError> {
    let dir = VmDir::new(dir.to_owned());
    if !holds_life_lock(&dir) {
        return Err(VmRunError::NotOurs(dir.path().to_owned()));
    }
    let record = dir.record()?;
    rustix::process::setsid().map_err(system("start a session"))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(system("take over the care of orphans"))?;
    // Whoever started us may ignore these, as nohup and the background jobs of shells do; what is
    // ignored stays so in every command, what is caught does not.
    let _caught = [
        SignalKind::hangup(),
        SignalKind::interrupt(),
        SignalKind::quit(),
    ]
    .map(signal);
    dir.write_process(&Identity::own().map_err(system("find its own start"))?)?;
    let children = Children::watch().map_err(system("watch its children"))?;
    let environment = Environment::new(&dir, &record.remote_user);

    tokio::time::sleep(Duration::from_millis(record.boot_delay_ms)).await;
    init(&dir, &children, &environment).await?;
    server::serve(&dir, &record, children, environment).await
}

/// Whether our standard input is the VM's lock.
fn holds_life_lock(dir: &VmDir) -> bool {
    let input = rustix::fs::fstat(rustix::stdio::stdin());
    let lock = File::open(dir.file("vm.lock")).map(rustix::fs::fstat);
    match (input, lock) {
        (Ok(input), Ok(Ok(lock))) => {
            (input.st_dev, input.st_ino) == (lock.st_dev, lock.st_ino) && dir.is_alive()
        }
        _ => false,
    }
}

/// Runs the init script to its end. As on a real cloud, a script that fails does not stop the boot:
/// whether the VM is fit for use is for probes to find out.
async fn init(
    dir: &VmDir,
    children: &Children,
    environment: &Environment,
) -> Result<(), VmRunError> {
    let script = dir.file("init-script");
    let running = dir.file("init-script.running");
    // It may hold secrets, so it goes once it has run; and what is renamed cannot start twice.
    std::fs::rename(&script, &running).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => VmRunError::BootedBefore(dir.path().to_owned()),
        _ => system("begin the init script")(error),
    })?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(dir.file("init.log"))
        .and_then(|log| Ok((log.try_clone()?, log)));
    let (log, log_too) = log.map_err(system("open init.log"))?;
    let mut command = Command::new("/bin/sh");
    command
        .arg(&running)
        .current_dir(environment.home())
        .env_clear()
        .envs(environment.variables())
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(log_too);
    let started = children
        .spawn(&mut command)
        .map_err(system("run the init script"))?;
    match started.ended.await {
        Ok(status) if status.exit_status() == Some(0) => tracing::info!("init script done"),
        status => tracing::warn!(?status, "init script failed, see init.log"),
    }
    std::fs::remove_file(&running).map_err(system("remove the init script"))
}

/// What everything on the VM finds in its environment.
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

/// What the SSH server needs to know, shared by its connections.
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

    /// Whether whoever proves to have this key may log in.
    fn admits(&self, user: &str, key: &russh::keys::PublicKey) -> bool {
        user == self.user && key.key_data() == self.public_key.key_data()
    }
}
