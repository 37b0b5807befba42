//! Operations of the core on VMs, carried out by the runner on each VM.

use bytes::Bytes;
use longshore_core::command::Signal;
use longshore_core::ids::ContainerId;
use longshore_core::input::{ProbeReport, RunnerList, SignalReport, VmError};
use longshore_secret::Secret;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::boot::BootResults;
use crate::exec::{Exec, ExecError, Exit, Output, excerpt};
use crate::list::parse_list;
use crate::pool::{InstanceKey, Pool, Target};
use crate::script::{self, Deployment, RunnerCommands};
use crate::settings::{RemoteSettings, RunnerSource, SettingsError, SshSettings};

/// VMs of one cloud with their runners. Shared between tasks.
///
/// Every call ends by its deadline. Errors have the meaning defined by [`VmError`].
pub struct Remote {
    pool: Pool,
    settings: RemoteSettings,
    runner: RunnerCommands,
    /// Runner binary and its location on the VMs; none if the image contains the runner.
    deployment: Option<(Deployment, Bytes)>,
}

impl Remote {
    /// Returns a remote without connections.
    ///
    /// # Errors
    /// If a setting is invalid.
    pub fn new(ssh: SshSettings, settings: RemoteSettings) -> Result<Self, SettingsError> {
        settings.check()?;
        let pool = Pool::new(ssh)?;
        let (text, deployment) = match &settings.runner {
            RunnerSource::Installed { command } => (command.trim().to_owned(), None),
            RunnerSource::Deploy {
                binary,
                directory,
                name,
            } => {
                let checksum = hex::encode(Sha256::digest(binary));
                let deployment = Deployment {
                    directory: directory.trim_end_matches('/').to_owned(),
                    file: format!("{name}~{checksum}"),
                    checksum,
                };
                (deployment.path(), Some((deployment, binary.clone())))
            }
        };
        Ok(Self {
            runner: RunnerCommands::new(pool.settings().sudo, text),
            pool,
            settings,
            deployment,
        })
    }

    /// Probes a VM. With `boot`, also runs the boot probe command and, if successful, installs the
    /// runner. Running containers are reported even if the boot probe command fails or hangs.
    ///
    /// # Errors
    /// If the VM cannot be probed or, without `boot`, the runner's `--list` fails.
    pub async fn probe(
        &self,
        target: &Target,
        boot: bool,
        deadline: Instant,
    ) -> Result<ProbeReport, VmError> {
        if boot {
            return self.boot_probe(target, deadline).await;
        }
        self.list(target, Exec::new(self.runner.list()), deadline)
            .await
    }

    /// Probes a booted VM and sends the price history of the instance, in the format of the runner.
    ///
    /// # Errors
    /// As for [`Self::probe`]. The VM may have received the prices in spite of an error.
    pub async fn probe_with_prices(
        &self,
        target: &Target,
        prices: Bytes,
        deadline: Instant,
    ) -> Result<ProbeReport, VmError> {
        let exec = Exec {
            stdin: prices,
            ..Exec::new(self.runner.list_with_prices())
        };
        self.list(target, exec, deadline).await
    }

    async fn list(
        &self,
        target: &Target,
        exec: Exec,
        deadline: Instant,
    ) -> Result<ProbeReport, VmError> {
        let output = self.run(target, exec, deadline).await?;
        if !output.is_success() {
            return Err(VmError::Failed(format!(
                "the runner's --list: {}",
                output.failure_text()
            )));
        }
        Ok(ProbeReport {
            ready: Ok(()),
            runners: Some(self.parse(&String::from_utf8_lossy(&output.stdout))),
        })
    }

    /// Starts the runner of a container. The runner reads its configuration (JSON) from standard
    /// input.
    ///
    /// # Errors
    /// After `Unreachable` and `IdentityMismatch` nothing was done. After `Lost` and `Failed` the
    /// runner may be running: list before a retry.
    pub async fn start(
        &self,
        target: &Target,
        container: ContainerId,
        stdin_config: Secret,
        deadline: Instant,
    ) -> Result<(), VmError> {
        let engine = &self.settings.runtime_engine;
        let exec = Exec {
            command: self
                .runner
                .start(container, engine, &self.settings.runner_args),
            stdin: Bytes::from_owner(SecretBytes(stdin_config)),
            // The runner continues in the background and may keep a stream open.
            status_is_enough: true,
        };
        let output = self.run(target, exec, deadline).await?;
        if output.is_success() {
            return Ok(());
        }
        Err(VmError::Failed(format!(
            "starting the runner: {}",
            output.failure_text()
        )))
    }

    /// Sends a signal to the runner of a container and checks if the runner is still alive.
    ///
    /// # Errors
    /// After `Unreachable` and `IdentityMismatch` nothing was done. After other errors the signal
    /// may have been delivered.
    pub async fn signal(
        &self,
        target: &Target,
        container: ContainerId,
        signal: Signal,
        deadline: Instant,
    ) -> Result<SignalReport, VmError> {
        let exec = Exec::new(self.runner.kill(container, signal.number()));
        let output = self.run(target, exec, deadline).await?;
        match output.exit {
            Exit::Status(0) => Ok(SignalReport::Gone),
            Exit::Status(1) if reports_still_alive(&output.stderr) => Ok(SignalReport::Alive),
            _ => Err(VmError::Failed(format!(
                "the runner's --kill: {}",
                output.failure_text()
            ))),
        }
    }

    /// Runs any command on a VM with a verified identity, as [`Pool::run`].
    ///
    /// # Errors
    /// See [`ExecError`] for the meaning of each error. A non-zero exit status is not an error.
    pub async fn command(
        &self,
        target: &Target,
        exec: &Exec,
        deadline: Instant,
    ) -> Result<Output, ExecError> {
        self.pool.run(target, exec, deadline).await
    }

    /// Host key of an instance with a verified identity, a line in OpenSSH format.
    #[must_use]
    pub fn host_key(&self, instance: &InstanceKey) -> Option<String> {
        self.pool.host_key(instance)
    }

    /// Drops all state of a terminated instance.
    pub fn forget(&self, instance: &InstanceKey) {
        self.pool.forget(instance);
    }

    async fn boot_probe(&self, target: &Target, deadline: Instant) -> Result<ProbeReport, VmError> {
        let deployment = self.deployment.as_ref().map(|(deployment, _)| deployment);
        let command = &self.settings.boot_probe_command;
        // Leave time to report a hanging boot probe command before the deadline.
        let now = Instant::now();
        let remaining = deadline.saturating_duration_since(now);
        let probe_max_s = remaining.mul_f32(0.8).as_secs().max(1);
        let script = script::boot(&self.runner, deployment, command, probe_max_s);
        let (exec, script_deadline) = (Exec::new(script), now + remaining.mul_f32(0.9));
        let (stdout, failure_text, ended) =
            match self.pool.run(target, &exec, script_deadline).await {
                Ok(output) => (output.stdout.clone(), output.probe_failure_text(), true),
                Err(ExecError::Deadline { stdout, stderr }) => {
                    let why = format!("not ended by the deadline: {}", excerpt(&stderr));
                    (stdout, why, false)
                }
                Err(error) => return Err(error.into()),
            };
        let results = BootResults::parse(&stdout);
        let (Some(present), Some(list)) = (results.runner_present, self.list_result(&results))
        else {
            let why = format!("the boot script: {failure_text}");
            return Err(if ended {
                VmError::Failed(why)
            } else {
                VmError::Lost(why)
            });
        };
        match results.probe {
            Some(0) if present => Ok(list.report()),
            Some(0) => self.deploy(target, deadline).await,
            failed => {
                let why = match failed {
                    Some(124 | 137) => format!("not ended within {probe_max_s} s: {failure_text}"),
                    Some(status) => format!("exit status {status}: {failure_text}"),
                    None => failure_text,
                };
                Ok(ProbeReport {
                    ready: Err(format!("the boot probe command: {why}")),
                    runners: list.runners(),
                })
            }
        }
    }

    /// Evaluates the list in a script's results; none if the script ended before the list.
    fn list_result(&self, results: &BootResults) -> Option<ListResult> {
        match (&results.list, results.runner_present) {
            (Some((0, text)), _) => Some(ListResult::Runners(self.parse(text))),
            (Some((status, _)), _) => Some(ListResult::Failed(*status)),
            (None, Some(false)) => Some(ListResult::NoRunner),
            (None, _) => None,
        }
    }

    /// Installs the runner and lists the running containers.
    async fn deploy(&self, target: &Target, deadline: Instant) -> Result<ProbeReport, VmError> {
        let Some((deployment, binary)) = &self.deployment else {
            return Ok(ListResult::NoRunner.report());
        };
        let sudo = self.pool.settings().sudo;
        let exec = Exec {
            command: script::deploy(sudo, &self.runner, deployment),
            stdin: binary.clone(),
            status_is_enough: false,
        };
        let output = self.run(target, exec, deadline).await?;
        let results = BootResults::parse(&output.stdout);
        if results.runner_present != Some(true) {
            return Ok(ProbeReport {
                ready: Err(format!(
                    "the runner could not be installed in {}: {}",
                    deployment.directory,
                    output.failure_text()
                )),
                runners: None,
            });
        }
        match self.list_result(&results) {
            Some(list) => Ok(list.report()),
            None => Err(VmError::Lost(format!(
                "the runner's --list: {}",
                output.failure_text()
            ))),
        }
    }

    async fn run(&self, target: &Target, exec: Exec, deadline: Instant) -> Result<Output, VmError> {
        Ok(self.pool.run(target, &exec, deadline).await?)
    }

    fn parse(&self, text: &str) -> RunnerList {
        parse_list(text, &self.settings.cluster_id)
    }
}

/// State of the runner on a responding VM.
enum ListResult {
    Runners(RunnerList),
    /// `--list` failed with an exit status.
    Failed(u32),
    NoRunner,
}

impl ListResult {
    /// Returns the report for a VM whose boot probe command succeeded.
    fn report(self) -> ProbeReport {
        let ready = match &self {
            Self::Runners(_) => Ok(()),
            Self::Failed(status) => Err(format!("the runner's --list: exit status {status}")),
            Self::NoRunner => Err("the runner is not installed".into()),
        };
        ProbeReport {
            ready,
            runners: self.runners(),
        }
    }

    fn runners(self) -> Option<RunnerList> {
        match self {
            Self::Runners(list) => Some(list),
            Self::Failed(_) | Self::NoRunner => None,
        }
    }
}

impl Output {
    /// Error text of the boot probe command, whose exit status is part of the script's results.
    fn probe_failure_text(&self) -> String {
        match (self.is_success(), excerpt(&self.stderr)) {
            (true, text) if text.is_empty() => "no output".into(),
            (true, text) => text,
            (false, _) => self.failure_text(),
        }
    }
}

fn reports_still_alive(stderr: &[u8]) -> bool {
    String::from_utf8_lossy(stderr).contains("still alive")
}

/// Lends the text of a secret without a copy, because a copy would not be wiped.
struct SecretBytes(Secret);

impl AsRef<[u8]> for SecretBytes {
    fn as_ref(&self) -> &[u8] {
        self.0.expose().as_bytes()
    }
}
