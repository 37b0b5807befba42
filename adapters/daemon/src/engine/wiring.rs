//! Construction of the components of a dispatcher from the configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use longshore_cluster_config::{ClusterConfig, RuntimeEngine};
use longshore_core::config::Config;
use longshore_driver::{CloudSettings, SharedCloud};
use longshore_driver_loopback::{LoopbackCloud, LoopbackParams, VmProgram};
use longshore_queue_client::{ApiClient, ApiSettings};
use longshore_secret::Secret;
use longshore_ssh::{Remote, RemoteSettings, RunnerSource, SshKey, SshSettings};
use md5::{Digest as _, Md5};

use super::executor::CloudComponents;
use super::runner_config::RunnerConfig;
use crate::cli::LOOPBACK_VM;
use crate::error::{CliError, CliResult, Context as _};

/// Runner built with this program.
const OWN_RUNNER: &[u8] = include_bytes!(env!("LONGSHORE_RUNNER_FILE"));
/// Value with which the peer's configuration selects the program's own runner.
const OWN_RUNNER_PATH: &str = "/proc/self/exe";
const CONNECTS_MAX: usize = 32;

/// Components built from the configuration.
pub(crate) struct Components {
    pub(crate) api: ApiClient,
    pub(crate) cloud: CloudComponents,
    pub(crate) runner: RunnerConfig,
    /// Configuration of the core, completed with data of the driver.
    pub(crate) core: Config,
    /// Tag value that marks the instances of this dispatcher.
    pub(crate) instance_set_id: String,
}

/// Builds the components; `state_dir` is for drivers that store state on this host.
pub(crate) fn build(cluster: &ClusterConfig, state_dir: &Path) -> CliResult<Components> {
    let instance_set_id = instance_set_id(&cluster.system_root_token);
    let cloud = driver(cluster, settings(cluster, &instance_set_id), state_dir)?;
    let (cloud, own_runner) = cloud_components(cluster, cloud)?;
    check_engine(cluster, own_runner)?;
    let core = core_config(cluster, &cloud.cloud, own_runner);
    let runner = RunnerConfig {
        api_host: cluster.services.controller_host.clone(),
        api_url: cluster.services.controller_url.clone(),
        api_token: cluster.system_root_token.clone(),
        api_insecure: cluster.services.tls_insecure,
        ec2: cluster.cloud.driver == "ec2",
    };
    Ok(Components {
        api: api(cluster)?,
        cloud,
        runner,
        core,
        instance_set_id,
    })
}

/// Settings of the driver for an instance set.
pub(crate) fn settings(cluster: &ClusterConfig, instance_set_id: &str) -> CloudSettings {
    CloudSettings {
        instance_set_id: instance_set_id.to_owned(),
        tag_key_prefix: cluster.cloud.tag_key_prefix.clone(),
        resource_tags: cluster.cloud.resource_tags.clone(),
    }
}

/// Driver with SSH access to the VMs; true if the VMs get Longshore's own runner.
pub(crate) fn cloud_components(
    cluster: &ClusterConfig,
    cloud: SharedCloud,
) -> CliResult<(CloudComponents, bool)> {
    let key =
        SshKey::parse(&cluster.dispatch_private_key).usage("Containers.DispatchPrivateKey")?;
    let public_key = cluster
        .cloud
        .deploy_public_key
        .then(|| key.public_line().to_owned());
    let ssh = SshSettings {
        user: cloud.remote_user().to_owned(),
        sudo: cloud.sudo(),
        default_port: cluster.cloud.ssh_port,
        key,
        secret_path: cloud.secret_path().to_owned(),
        connects_max: CONNECTS_MAX,
    };
    let (source, own_runner) = runner_source(cluster)?;
    let remote = RemoteSettings {
        cluster_id: cluster.cluster_id.clone(),
        boot_probe_command: cluster.cloud.boot_probe_command.clone(),
        runner: source,
        runner_args: cluster.runner.crunch_run_arguments.clone(),
        runtime_engine: cluster.runner.runtime_engine.name().to_owned(),
    };
    let components = CloudComponents {
        remote: Remote::new(ssh, remote).usage("Containers.CloudVMs")?,
        cloud,
        public_key,
        init_command: cluster.cloud.instance_init_command.clone(),
    };
    Ok((components, own_runner))
}

/// Configuration of the core, completed with data of the driver and the runner.
fn core_config(cluster: &ClusterConfig, cloud: &SharedCloud, own_runner: bool) -> Config {
    let mut core = cluster.core.clone();
    core.kill_reaches_tree = own_runner;
    for offer in core.types.values_mut() {
        offer.quota_group = cloud.quota_group(offer);
    }
    core
}

/// Configuration of the core that takes effect without a restart: all settings of decisions.
/// `before` is the configuration from which the components were built.
pub(crate) fn reconfigured(
    before: &ClusterConfig,
    cluster: &ClusterConfig,
    cloud: &SharedCloud,
) -> CliResult<Config> {
    let fixed = fixed(before, cluster);
    if !fixed.is_empty() {
        return Err(CliError::usage(format!(
            "changed, and needs a restart: {}; the old configuration stays in force, whole",
            fixed.join(", ")
        )));
    }
    let (_, own_runner) = runner_source(cluster)?;
    Ok(core_config(cluster, cloud, own_runner))
}

/// Keys of changed settings that need a restart.
fn fixed(before: &ClusterConfig, now: &ClusterConfig) -> Vec<&'static str> {
    let key = (&before.dispatch_private_key, &now.dispatch_private_key);
    let calls = (before.api.concurrency_max, now.api.concurrency_max);
    let all = [
        ("the cluster's id", before.cluster_id != now.cluster_id),
        (
            "SystemRootToken",
            before.system_root_token != now.system_root_token,
        ),
        ("Services or TLS.Insecure", before.services != now.services),
        (
            "Containers.CloudVMs (settings of the driver)",
            before.cloud != now.cloud,
        ),
        (
            "Containers (settings of the runner)",
            before.runner != now.runner,
        ),
        ("Containers.DispatchPrivateKey", key.0 != key.1),
        ("SystemLogs", before.log != now.log),
        ("API.MaxConcurrentRequests", calls.0 != calls.1),
    ];
    let changed = all.into_iter().filter(|(_, changed)| *changed);
    changed.map(|(name, _)| name).collect()
}

/// Rejects unsupported engines: Longshore's own runner has a single engine, and an error must come
/// before the first instance is created.
fn check_engine(cluster: &ClusterConfig, own_runner: bool) -> CliResult {
    let engine = cluster.runner.runtime_engine;
    if !own_runner || engine == RuntimeEngine::Process {
        return Ok(());
    }
    Err(CliError::usage(format!(
        "Containers.RuntimeEngine: found {:?}, expected \"process\", the only engine of Longshore's own \
         runner; write RuntimeEngine: process, or name a runner with that engine in \
         Containers.CloudVMs.DeployRunnerBinary",
        engine.name()
    )))
}

/// Client of the containers API with the dispatcher's token.
pub(crate) fn api(cluster: &ClusterConfig) -> CliResult<ApiClient> {
    let settings = ApiSettings {
        base_url: cluster.services.controller_url.clone(),
        token: cluster.system_root_token.clone(),
        insecure: cluster.services.tls_insecure,
        concurrency_max: cluster.api.concurrency_max,
        ca_pem: None,
    };
    ApiClient::new(settings).usage("Services.Controller")
}

/// Configured driver.
pub(crate) fn driver(
    cluster: &ClusterConfig,
    settings: CloudSettings,
    state_dir: &Path,
) -> CliResult<SharedCloud> {
    match cluster.cloud.driver.as_str() {
        "loopback" => Ok(Arc::new(loopback(cluster, settings, state_dir)?)),
        #[cfg(feature = "ec2")]
        "ec2" => Ok(Arc::new(ec2(cluster, settings)?)),
        other => Err(CliError::usage(format!(
            "Containers.CloudVMs.Driver: the driver {other:?} is not in this build; expected one \
             of: {}",
            DRIVERS.join(", ")
        ))),
    }
}

/// Drivers of this build.
const DRIVERS: &[&str] = &[
    "loopback",
    #[cfg(feature = "ec2")]
    "ec2",
];

/// Driver of EC2.
#[cfg(feature = "ec2")]
fn ec2(
    cluster: &ClusterConfig,
    settings: CloudSettings,
) -> CliResult<longshore_driver_ec2::Ec2Cloud> {
    let parameters = &cluster.cloud.driver_parameters;
    let params =
        longshore_driver_ec2::Ec2Params::from_json(parameters).usage("Containers.CloudVMs")?;
    Ok(longshore_driver_ec2::Ec2Cloud::new(settings, params))
}

/// Driver whose VMs are processes on this host, run by this program.
pub(crate) fn loopback(
    cluster: &ClusterConfig,
    settings: CloudSettings,
    state_dir: &Path,
) -> CliResult<LoopbackCloud> {
    let program = VmProgram {
        path: own_program()?,
        args: vec![LOOPBACK_VM.into()],
    };
    let default_dir = state_dir.join("loopback");
    let parameters = &cluster.cloud.driver_parameters;
    let params = LoopbackParams::from_json(parameters, &default_dir, program)
        .usage("Containers.CloudVMs")?;
    LoopbackCloud::new(settings, params).failed("the loopback driver")
}

fn own_program() -> CliResult<PathBuf> {
    std::env::current_exe().failed("the path of this program")
}

/// Source of the runner; true for Longshore's own runner, whose KILL reaches the whole process
/// tree.
fn runner_source(cluster: &ClusterConfig) -> CliResult<(RunnerSource, bool)> {
    let deploy = |binary, name: &str| RunnerSource::Deploy {
        binary,
        directory: cluster.cloud.deploy_runner_directory.clone(),
        name: name.to_owned(),
    };
    Ok(match cluster.cloud.deploy_runner_binary.as_str() {
        "" => {
            let command = cluster.runner.crunch_run_command.clone();
            (RunnerSource::Installed { command }, false)
        }
        OWN_RUNNER_PATH => (
            deploy(Bytes::from_static(OWN_RUNNER), "longshore-runner"),
            true,
        ),
        path => {
            let binary = std::fs::read(path)
                .usage(format!("Containers.CloudVMs.DeployRunnerBinary: {path}"))?;
            (deploy(Bytes::from(binary), "crunch-run"), false)
        }
    })
}

/// Instance set ID as computed by the peer, so that instances of the peer are adopted: the hash of
/// the root token, or the uuid in the middle of a `v2/` token.
pub(crate) fn instance_set_id(token: &Secret) -> String {
    let mut parts = token.expose().split('/');
    match (parts.next(), parts.next()) {
        (Some("v2"), Some(uuid)) => uuid.to_owned(),
        _ => hex::encode(Md5::digest(token.expose().as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_set_id_hides_token() {
        let plain = instance_set_id(&Secret::new("abc"));
        assert_eq!(plain, "900150983cd24fb0d6963f7d28e17f72");
        let v2 = instance_set_id(&Secret::new("v2/zzzzz-gj3su-000000000000000/secret"));
        assert_eq!(v2, "zzzzz-gj3su-000000000000000");
    }
}
