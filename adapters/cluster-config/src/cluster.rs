//! What a cluster's configuration says, as types that cannot be wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use longshore_core::config::Config;
use longshore_secret::Secret;

/// Everything this program takes from the file.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Five characters of `a-z0-9`; the beginning of each container's uuid.
    pub cluster_id: String,
    /// What the decisions depend on. Every type's quota group is `on-demand` or `spot`; a driver
    /// that knows better puts its own in their place.
    pub core: Config,
    /// Token for the containers API, also that of every runner (`SystemRootToken`).
    pub system_root_token: Secret,
    /// Token that the management API expects; empty switches that API off (`ManagementToken`).
    pub management_token: Secret,
    /// Unencrypted SSH key, PEM or OpenSSH, as text; empty if none is configured
    /// (`Containers.DispatchPrivateKey`).
    pub dispatch_private_key: Secret,
    /// Where everybody listens.
    pub services: Services,
    /// What our own servers prove who they are with; absent where none is configured (`TLS`).
    pub tls: Option<TlsFiles>,
    /// The rented VMs.
    pub cloud: CloudVms,
    /// What runs on them.
    pub runner: Runner,
    /// The program's own log.
    pub log: Log,
    /// The containers API.
    pub api: Api,
    /// The built-in queue; absent where the containers API is somebody else's (`Longshore.Queue`).
    pub queue: Option<BuiltinQueue>,
}

/// Where everybody listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Services {
    /// The containers API: `http` or `https`, with a host; ends in a slash
    /// (`Services.Controller.ExternalURL`).
    pub controller_url: String,
    /// `host:port` of the same, for runners; without the port where it is the scheme's own.
    pub controller_host: String,
    /// Our own management API, in the order of the file; the first that can be bound counts
    /// (`Services.DispatchCloud.InternalURLs`).
    pub dispatch_cloud: Vec<InternalUrl>,
    /// Certificates of the containers API are not checked (`TLS.Insecure`).
    pub tls_insecure: bool,
}

/// One address of our own management API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InternalUrl {
    /// As others reach it; ends in a slash.
    pub url: String,
    /// `host:port` to bind: that of `ListenURL`, or else of the URL itself.
    pub listen: String,
    /// Whether TLS is spoken there: the scheme of the same is `https`.
    pub tls: bool,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, our own first (`TLS.Certificate`).
    pub certificate: Pem,
    /// The private key of the first (`TLS.Key`).
    pub key: Pem,
}

/// Where text in PEM format is. Files are read by whoever needs them, since not everybody who may
/// read the configuration may read a private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pem {
    /// In this file.
    File(PathBuf),
    /// In the configuration itself.
    Text(Secret),
}

impl Pem {
    /// The text itself.
    ///
    /// # Errors
    /// If the file cannot be read; the message names it.
    pub fn read(&self) -> Result<Secret, String> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::File(path) => match std::fs::read_to_string(path) {
                Ok(text) => Ok(Secret::new(text)),
                Err(error) => Err(format!("{}: {error}", path.display())),
            },
        }
    }
}

/// The rented VMs: what adapters need to know, the core does not.
#[derive(Clone, PartialEq)]
pub struct CloudVms {
    /// `loopback`, or a driver that may have been left out of this build: `ec2`, `azure`. Whether
    /// it is there is for the program to say, not for the file (`Driver`).
    pub driver: String,
    /// For the driver alone; an object, or null. May hold secrets: never print it
    /// (`DriverParameters`).
    pub driver_parameters: serde_json::Value,
    /// For addresses without a port (`SSHPort`).
    pub ssh_port: u16,
    /// Exit code 0 means that a VM is booted; empty for `true` (`BootProbeCommand`).
    pub boot_probe_command: String,
    /// Appended to the script that a VM runs at boot (`InstanceInitCommand`).
    pub instance_init_command: String,
    /// File that is put on each VM as the runner; empty where images bring it
    /// (`DeployRunnerBinary`).
    pub deploy_runner_binary: String,
    /// Where it is put, on the VM (`DeployRunnerDirectory`).
    pub deploy_runner_directory: String,
    /// Whether the cloud puts the public half of our key on each VM (`DeployPublicKey`).
    pub deploy_public_key: bool,
    /// For everything that is created in the cloud (`ResourceTags`).
    pub resource_tags: BTreeMap<String, String>,
    /// Put before the names of our own tags (`TagKeyPrefix`).
    pub tag_key_prefix: String,
}

impl fmt::Debug for CloudVms {
    /// Leaves the driver's parameters out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudVms")
            .field("driver", &self.driver)
            .field("ssh_port", &self.ssh_port)
            .field("boot_probe_command", &self.boot_probe_command)
            .field("deploy_runner_binary", &self.deploy_runner_binary)
            .field("deploy_runner_directory", &self.deploy_runner_directory)
            .field("deploy_public_key", &self.deploy_public_key)
            .field("resource_tags", &self.resource_tags)
            .field("tag_key_prefix", &self.tag_key_prefix)
            .finish_non_exhaustive()
    }
}

/// What runs on the VMs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runner {
    /// The runner's command where none is deployed (`Containers.CrunchRunCommand`).
    pub crunch_run_command: String,
    /// Further arguments for it (`Containers.CrunchRunArgumentsList`).
    pub crunch_run_arguments: Vec<String>,
    /// What runs containers (`Containers.RuntimeEngine`).
    pub runtime_engine: RuntimeEngine,
}

/// What runs containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuntimeEngine {
    /// Docker.
    Docker,
    /// Singularity or Apptainer.
    Singularity,
    /// None: a process of the VM.
    Process,
}

impl RuntimeEngine {
    /// The runner's word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Singularity => "singularity",
            Self::Process => "process",
        }
    }
}

/// The program's own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// One JSON object a line, or plain text (`SystemLogs.Format`).
    pub format: LogFormat,
    /// The least important level that is shown (`SystemLogs.LogLevel`).
    pub level: LogLevel,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// How important log lines must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Only what somebody must act on.
    Error,
    /// And what somebody should know.
    Warn,
    /// And what happens.
    Info,
    /// And why.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The usual word for it, as log filters take it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// The containers API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Api {
    /// The built-in queue answers with at most so many records; at least 1
    /// (`API.MaxItemsPerResponse`).
    pub max_items_per_response: u32,
    /// Calls to the containers API that may be under way at a time: a quarter of
    /// (`API.MaxConcurrentRequests`), at least 1.
    pub concurrency_max: u32,
    /// The built-in queue cancels a container that was locked so often when it is unlocked; at
    /// least 1 (`Containers.MaxDispatchAttempts`).
    pub max_dispatch_attempts: u32,
}

/// The built-in queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltinQueue {
    /// Its file (`Longshore.Queue.Database`).
    pub database: PathBuf,
    /// `host:port` to bind; by default that of the controller's URL (`Longshore.Queue.Listen`).
    pub listen: String,
}
