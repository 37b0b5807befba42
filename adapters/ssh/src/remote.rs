//! What the core wants of a VM, said to the runner there.

use bytes::Bytes;
use longshore_core::command::Signal;
use longshore_core::ids::ContainerId;
use longshore_core::input::{ProbeReport, RunnerList, SignalReport, VmError};
use longshore_secret::Secret;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::boot::BootAnswer;
use crate::exec::{Exec, ExecError, Exit, Output, excerpt};
use crate::list::parse_list;
use crate::pool::{InstanceKey, Pool, Target};
use crate::script::{self, Deployment, RunnerWords};
use crate::settings::{RemoteSettings, RunnerSource, SettingsError, SshSettings};

/// The VMs of one cloud, with the runner on each. Shared by the tasks that call it.
///
/// Every call ends at its deadline at the latest; the errors mean what [`VmError`] says.
pub struct Remote {
    pool: Pool,
    settings: RemoteSettings,
    runner: RunnerWords,
    /// What to put in place, and its name there; none where the image has it.
    deployment: Option<(Deployment, Bytes)>,
}

impl Remote {
    /// Makes no connection yet.
    ///
    /// # Errors
    /// A setting cannot work.
    pub fn new(ssh: SshSettings, settings: RemoteSettings) -> Result<Self, SettingsError> {
        settings.check()?;
        let pool = Pool::new(ssh)?;
        let (words, deployment) = match &settings.runner {
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
            runner: RunnerWords::new(pool.settings().sudo, words),
            pool,
            settings,
            deployment,
        })
    }

    /// Asks a VM how it is. With `boot` it also runs the boot probe and, once that succeeds, puts the
    /// runner in place; runners that are there already are reported even if the boot probe fails or
    /// hangs.
    ///
    /// # Errors
    /// It could not be asked, or, without `boot`, the runner did not list.
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

    /// Asks a VM that has booted how it is, and tells it what it costs: a price history as the
    /// runner reads it.
    ///
    /// # Errors
    /// As [`Self::probe`]; the VM may have got the prices all the same.
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
                output.complaint()
            )));
        }
        Ok(ProbeReport {
            ready: Ok(()),
            runners: Some(self.parse(&String::from_utf8_lossy(&output.stdout))),
        })
    }

    /// Starts a container's runner, with its configuration (JSON) on its standard input.
    ///
    /// # Errors
    /// After `Unreachable` and `Impostor` nothing was done; after `Lost` and `Failed` the runner may
    /// be there: list before you try again.
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
            // The runner goes on in the background, and may keep a stream open.
            status_is_enough: true,
        };
        let output = self.run(target, exec, deadline).await?;
        if output.is_success() {
            return Ok(());
        }
        Err(VmError::Failed(format!(
            "starting the runner: {}",
            output.complaint()
        )))
    }

    /// Sends a signal to a container's runner and looks whether it is still there.
    ///
    /// # Errors
    /// After `Unreachable` and `Impostor` nothing was done; otherwise it may have got the signal.
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
            Exit::Status(1) if says_still_alive(&output.stderr) => Ok(SignalReport::Alive),
            _ => Err(VmError::Failed(format!(
                "the runner's --kill: {}",
                output.complaint()
            ))),
        }
    }

    /// Runs any command on a VM that has proved its identity, as [`Pool::run`].
    ///
    /// # Errors
    /// See [`ExecError`] for what each means. A non-zero exit status is no error here.
    pub async fn command(
        &self,
        target: &Target,
        exec: &Exec,
        deadline: Instant,
    ) -> Result<Output, ExecError> {
        self.pool.run(target, exec, deadline).await
    }

    /// The host key of an instance that has proved its identity, a line in OpenSSH format.
    #[must_use]
    pub fn host_key(&self, instance: &InstanceKey) -> Option<String> {
        self.pool.host_key(instance)
    }

    /// Drops everything that is known about an instance that is gone.
    pub fn forget(&self, instance: &InstanceKey) {
        self.pool.forget(instance);
    }

    async fn boot_probe(&self, target: &Target, deadline: Instant) -> Result<ProbeReport, VmError> {
        let deployment = self.deployment.as_ref().map(|(deployment, _)| deployment);
        let command = &self.settings.boot_probe_command;
        // A report about a probe that hangs must still come in time to be heard.
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now);
        let probe_max_s = left.mul_f32(0.8).as_secs().max(1);
        let script = script::boot(&self.runner, deployment, command, probe_max_s);
        let (exec, asked_until) = (Exec::new(script), now + left.mul_f32(0.9));
        let (stdout, complaint, ended) = match self.pool.run(target, &exec, asked_until).await {
            Ok(output) => (output.stdout.clone(), output.complaint_of_probe(), true),
            Err(ExecError::Deadline { stdout, stderr }) => {
                let why = format!("not ended by the deadline: {}", excerpt(&stderr));
                (stdout, why, false)
            }
            Err(error) => return Err(error.into()),
        };
        let answer = BootAnswer::parse(&stdout);
        let (Some(present), Some(list)) = (answer.runner_present, self.listed(&answer)) else {
            let why = format!("the boot script: {complaint}");
            return Err(if ended {
                VmError::Failed(why)
            } else {
                VmError::Lost(why)
            });
        };
        match answer.probe {
            Some(0) if present => Ok(list.report()),
            Some(0) => self.deploy(target, deadline).await,
            failed => {
                let why = match failed {
                    Some(124 | 137) => format!("not ended within {probe_max_s} s: {complaint}"),
                    Some(status) => format!("exit status {status}: {complaint}"),
                    None => complaint,
                };
                Ok(ProbeReport {
                    ready: Err(format!("the boot probe command: {why}")),
                    runners: list.runners(),
                })
            }
        }
    }

    /// What the answer says about the list; nothing where it broke off before.
    fn listed(&self, answer: &BootAnswer) -> Option<Listed> {
        match (&answer.list, answer.runner_present) {
            (Some((0, text)), _) => Some(Listed::Runners(self.parse(text))),
            (Some((status, _)), _) => Some(Listed::Failed(*status)),
            (None, Some(false)) => Some(Listed::NoRunner),
            (None, _) => None,
        }
    }

    /// Puts the runner in place and lists.
    async fn deploy(&self, target: &Target, deadline: Instant) -> Result<ProbeReport, VmError> {
        let Some((deployment, binary)) = &self.deployment else {
            return Ok(Listed::NoRunner.report());
        };
        let sudo = self.pool.settings().sudo;
        let exec = Exec {
            command: script::deploy(sudo, &self.runner, deployment),
            stdin: binary.clone(),
            status_is_enough: false,
        };
        let output = self.run(target, exec, deadline).await?;
        let answer = BootAnswer::parse(&output.stdout);
        if answer.runner_present != Some(true) {
            return Ok(ProbeReport {
                ready: Err(format!(
                    "the runner could not be put into {}: {}",
                    deployment.directory,
                    output.complaint()
                )),
                runners: None,
            });
        }
        match self.listed(&answer) {
            Some(list) => Ok(list.report()),
            None => Err(VmError::Lost(format!(
                "the runner's --list: {}",
                output.complaint()
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

/// What is known about the runners of a VM that answers.
enum Listed {
    Runners(RunnerList),
    /// `--list` ended with this status.
    Failed(u32),
    NoRunner,
}

impl Listed {
    /// Of a VM whose boot probe has succeeded.
    fn report(self) -> ProbeReport {
        let ready = match &self {
            Self::Runners(_) => Ok(()),
            Self::Failed(status) => Err(format!("the runner's --list: exit status {status}")),
            Self::NoRunner => Err("the runner is not there".into()),
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
    /// The words of the boot probe, whose own exit status is among the answers.
    fn complaint_of_probe(&self) -> String {
        match (self.is_success(), excerpt(&self.stderr)) {
            (true, words) if words.is_empty() => "it says nothing".into(),
            (true, words) => words,
            (false, _) => self.complaint(),
        }
    }
}

fn says_still_alive(stderr: &[u8]) -> bool {
    String::from_utf8_lossy(stderr).contains("still alive")
}

/// Lends a secret's text without a copy that nobody wipes.
struct SecretBytes(Secret);

impl AsRef<[u8]> for SecretBytes {
    fn as_ref(&self) -> &[u8] {
        self.0.expose().as_bytes()
    }
}
