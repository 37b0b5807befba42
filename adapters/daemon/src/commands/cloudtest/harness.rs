//! Harness of the conformance suite: a configuration, and SSH access to the instances.

use std::io::BufRead as _;
use std::time::Duration;

use async_trait::async_trait;
use longshore_cluster_config::ClusterConfig;
use longshore_core::ids::{CloudId, IntentId};
use longshore_driver::conformance::{Capabilities, CommandError, Harness, Identity, Timeouts};
use longshore_driver::{Cloud as _, CreateSpec, Instance, SharedCloud};
use longshore_ssh::{Exec, ExecError, Output, Remote, Target};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Subject;
use crate::engine::create_spec::CreateRequest;

/// Time limit of an attempt to log in to an instance, or of a boot probe.
const TRY_MAX: Duration = Duration::from_secs(30);
/// Time limit of the user's command, which may install packages.
const COMMAND_MAX: Duration = Duration::from_secs(3600);
/// Number of characters printed of a command's output, from the end.
const SHOWN_CHARS_MAX: usize = 4000;

/// Options of the user.
pub(super) struct HarnessOptions<'a> {
    pub(super) set: &'a str,
    pub(super) command: Option<&'a str>,
    pub(super) pause: bool,
    /// Standard output carries JSON only.
    pub(super) json: bool,
}

/// Implementation of the harness for the command line.
pub(super) struct CliHarness<'a> {
    pub(super) cloud: SharedCloud,
    pub(super) other: SharedCloud,
    pub(super) remote: Remote,
    pub(super) public_key: Option<String>,
    pub(super) cluster: &'a ClusterConfig,
    pub(super) subject: &'a Subject,
    pub(super) options: HarnessOptions<'a>,
    pub(super) stop: CancellationToken,
    pub(super) capabilities: Capabilities,
    pub(super) timeouts: Timeouts,
}

#[async_trait]
impl Harness for CliHarness<'_> {
    fn cloud(&self) -> SharedCloud {
        SharedCloud::clone(&self.cloud)
    }

    fn instance_set_id(&self) -> &str {
        self.options.set
    }

    fn other_set(&self) -> Option<SharedCloud> {
        Some(SharedCloud::clone(&self.other))
    }

    fn spec(&self) -> Result<CreateSpec, String> {
        let mut bits = [0; 16];
        getrandom::fill(&mut bits)
            .map_err(|error| format!("no random numbers from this host: {error}"))?;
        let request = CreateRequest {
            intent: IntentId::new(u128::from_ne_bytes(bits)),
            type_name: &self.subject.type_name,
            offer: &self.subject.offer,
            image: self.subject.image.clone(),
            secret_path: self.cloud.secret_path(),
            init_command: &self.cluster.cloud.instance_init_command,
            public_key: self.public_key.clone(),
        };
        request.spec().map_err(|error| error.to_string())
    }

    async fn verify_identity(&self, instance: &Instance) -> Result<Identity, String> {
        let target = target(instance)?;
        // The SSH layer verifies the instance secret before sending the command.
        let output = self.run(&target, "true", TRY_MAX).await?;
        if !output.is_success() {
            return Err(format!("the command `true`: {}", output.failure_text()));
        }
        Ok(Identity {
            host_key: self.remote.host_key(&target.key()),
        })
    }

    async fn boot_probe(&self, instance: &Instance) -> Result<(), String> {
        let target = target(instance)?;
        let deadline = Instant::now() + TRY_MAX;
        let report = self.remote.probe(&target, true, deadline).await;
        report.map_err(|error| error.to_string())?.ready
    }

    async fn command(&self, instance: &Instance) -> Result<String, CommandError> {
        let Some(command) = self.options.command else {
            return Err(CommandError::NotRequested);
        };
        let target = target(instance).map_err(CommandError::Failed)?;
        let output = tokio::select! {
            output = self.run(&target, command, COMMAND_MAX) => output,
            () = self.stop.cancelled() => Err("stopped".to_owned()),
        };
        let output = output.map_err(CommandError::Failed)?;
        let words = [&output.stdout, &output.stderr].map(|bytes| printable(bytes));
        let words = words.join("\n").trim().to_owned();
        match output.is_success() {
            true => Ok(words),
            false if words.is_empty() => Err(CommandError::Failed(output.exit.to_string())),
            false => Err(CommandError::Failed(format!("{}\n{words}", output.exit))),
        }
    }

    async fn pause(&self, instance: &Instance) -> bool {
        if !self.options.pause {
            return false;
        }
        let hint = self.hint(instance);
        if self.options.json {
            eprintln!("{hint}");
        } else {
            println!("{hint}");
        }
        let (done, pressed) = oneshot::channel();
        // A thread, not a task: a blocked read would keep the runtime from shutting down.
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = std::io::stdin().lock().read_line(&mut line);
            let _ = done.send(());
        });
        tokio::select! {
            _ = pressed => {}
            () = self.stop.cancelled() => {}
        }
        true
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    fn stopped(&self) -> bool {
        self.stop.is_cancelled()
    }
}

impl CliHarness<'_> {
    async fn run(&self, target: &Target, command: &str, max: Duration) -> Result<Output, String> {
        let deadline = Instant::now() + max;
        let done = self
            .remote
            .command(target, &Exec::new(command), deadline)
            .await;
        done.map_err(|error| match &error {
            ExecError::Deadline { stdout, stderr } => {
                format!("{error}: {} {}", printable(stdout), printable(stderr))
            }
            other => other.to_string(),
        })
    }

    fn hint(&self, instance: &Instance) -> String {
        let address = instance.address.as_deref().unwrap_or_default();
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host.trim_matches(['[', ']']), port.to_owned())
            }
            _ => (address, self.cluster.cloud.ssh_port.to_string()),
        };
        format!(
            "{} is up. Log in with the key in DispatchPrivateKey:\n  ssh -p {port} -i KEYFILE {}@{host}\n\
             Press Enter to destroy the instance and continue.",
            instance.id,
            self.cloud.remote_user(),
        )
    }
}

fn target(instance: &Instance) -> Result<Target, String> {
    let address = instance.address.clone();
    Ok(Target {
        cloud: CloudId(0),
        instance: instance.id.clone(),
        address: address.ok_or("the instance has no address any more")?,
        secret: instance.secret.clone(),
    })
}

/// Last part of a command's output, without control characters.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim();
    let skipped = text.chars().count().saturating_sub(SHOWN_CHARS_MAX);
    let plain = |c: &char| !c.is_control() || *c == '\n' || *c == '\t';
    text.chars().skip(skipped).filter(plain).collect()
}
