//! Content of a cluster's configuration, as types without invalid values.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use longshore_core::config::Config;
use longshore_secret::Secret;

/// Everything read from the file.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Five characters of `a-z0-9`; first part of every container uuid.
    pub cluster_id: String,
    /// Configuration of the core. The quota group of every type is `on-demand` or `spot`; drivers with
    /// finer groups replace it.
    pub core: Config,
    /// Token for the containers API, shared with every runner (`SystemRootToken`).
    pub system_root_token: Secret,
    /// Token of the management API; empty switches the API off (`ManagementToken`).
    pub management_token: Secret,
    /// Unencrypted SSH key, PEM or OpenSSH, as text; empty if none is configured
    /// (`Containers.DispatchPrivateKey`).
    pub dispatch_private_key: Secret,
    /// Addresses of services.
    pub services: Services,
    /// Certificate of our own servers, if configured (`TLS`).
    pub tls: Option<TlsFiles>,
    /// Settings of drivers and VMs.
    pub cloud: CloudVms,
    /// Program on the VMs.
    pub runner: Runner,
    /// Log of this program.
    pub log: Log,
    /// Limits of the containers API.
    pub api: Api,
    /// Built-in queue; absent if another program serves the containers API (`Longshore.Queue`).
    pub queue: Option<BuiltinQueue>,
}

/// Addresses of services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Services {
    /// URL of the containers API: `http` or `https`, with a host; ends in a slash
    /// (`Services.Controller.ExternalURL`).
    pub controller_url: String,
    /// `host:port` of the containers API, for runners; without the default port of the scheme.
    pub controller_host: String,
    /// Addresses of the management API, in the order of the file; the first bindable address is used
    /// (`Services.DispatchCloud.InternalURLs`).
    pub dispatch_cloud: Vec<InternalUrl>,
    /// True if the certificate of the containers API is not checked (`TLS.Insecure`).
    pub tls_insecure: bool,
}

/// Address of the management API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InternalUrl {
    /// URL for clients; ends in a slash.
    pub url: String,
    /// `host:port` to bind: from `ListenURL`, else from the URL itself.
    pub listen: String,
    /// True if the scheme of the bound URL is `https`.
    pub tls: bool,
}

/// Certificate with private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain, the server's own first (`TLS.Certificate`).
    pub certificate: Pem,
    /// Private key of the first certificate (`TLS.Key`).
    pub key: Pem,
}

/// Text in PEM format, or a file with such text. Files are read on use, not on load: some readers of
/// the configuration have no permission for private keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pem {
    /// Path of the file.
    File(PathBuf),
    /// Text in the configuration itself.
    Text(Secret),
}

impl Pem {
    /// Returns the text.
    ///
    /// # Errors
    /// Failure to read the file; the message names the file.
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

/// Settings of drivers and VMs, unknown to the core.
#[derive(Clone, PartialEq)]
pub struct CloudVms {
    /// Name of the driver: `loopback`, `ec2` or `azure`, the last two not in every build. The program
    /// checks if the build has the driver (`Driver`).
    pub driver: String,
    /// Parameters of the driver: an object, or null. May contain secrets: never print them
    /// (`DriverParameters`).
    pub driver_parameters: serde_json::Value,
    /// SSH port for addresses without a port (`SSHPort`).
    pub ssh_port: u16,
    /// Command with exit code 0 on a booted VM; empty for `true` (`BootProbeCommand`).
    pub boot_probe_command: String,
    /// Shell text appended to the boot script of a VM (`InstanceInitCommand`).
    pub instance_init_command: String,
    /// File copied to each VM as the runner; empty if images contain one (`DeployRunnerBinary`).
    pub deploy_runner_binary: String,
    /// Directory of the runner on the VM (`DeployRunnerDirectory`).
    pub deploy_runner_directory: String,
    /// True if the cloud installs our public key on each VM (`DeployPublicKey`).
    pub deploy_public_key: bool,
    /// Tags of everything created in the cloud (`ResourceTags`).
    pub resource_tags: BTreeMap<String, String>,
    /// Prefix of our own tag names (`TagKeyPrefix`).
    pub tag_key_prefix: String,
}

impl fmt::Debug for CloudVms {
    /// Omits the parameters of the driver.
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

/// Program on the VMs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runner {
    /// Command of the runner if none is deployed (`Containers.CrunchRunCommand`).
    pub crunch_run_command: String,
    /// Further arguments of the runner (`Containers.CrunchRunArgumentsList`).
    pub crunch_run_arguments: Vec<String>,
    /// Container engine (`Containers.RuntimeEngine`).
    pub runtime_engine: RuntimeEngine,
}

/// Container engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuntimeEngine {
    /// Docker.
    Docker,
    /// Singularity or Apptainer.
    Singularity,
    /// No engine: containers are processes of the VM.
    Process,
}

impl RuntimeEngine {
    /// Name of the engine in the arguments of the runner.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Singularity => "singularity",
            Self::Process => "process",
        }
    }
}

/// Log of this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// JSON lines or plain text (`SystemLogs.Format`).
    pub format: LogFormat,
    /// Least important level shown (`SystemLogs.LogLevel`).
    pub level: LogLevel,
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// JSON object per line.
    Json,
    /// Plain text for people.
    Text,
}

/// Level of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Problems that need action.
    Error,
    /// Also problems without need for action.
    Warn,
    /// Also events.
    Info,
    /// Also reasons.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// Name of the level in log filters.
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

/// Limits of the containers API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Api {
    /// Maximum number of records in an answer of the built-in queue; at least 1
    /// (`API.MaxItemsPerResponse`).
    pub max_items_per_response: u32,
    /// Maximum number of calls to the containers API in flight: a quarter of
    /// `API.MaxConcurrentRequests`, at least 1.
    pub concurrency_max: u32,
    /// Number of locks after which the built-in queue cancels a container on unlock; at least 1
    /// (`Containers.MaxDispatchAttempts`).
    pub max_dispatch_attempts: u32,
}

/// Settings of the built-in queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltinQueue {
    /// SQLite file (`Longshore.Queue.Database`).
    pub database: PathBuf,
    /// `host:port` to bind; by default from the controller's URL (`Longshore.Queue.Listen`).
    pub listen: String,
}
