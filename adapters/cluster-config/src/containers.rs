//! The section `Containers`: sizing, runner, private key.

use longshore_core::config::{Config, Sizing};
use longshore_secret::Secret;

use super::cloud_vms;
use super::cluster::{CloudVms, Runner, RuntimeEngine};
use super::reader::{Entry, Section, UnknownKeys};

/// Content of the section.
pub(super) struct Containers {
    /// Configuration of the core, except the types (`InstanceTypes`).
    pub(super) core: Config,
    pub(super) cloud: CloudVms,
    pub(super) runner: Runner,
    pub(super) dispatch_private_key: Secret,
    /// Zero: no preemptible twins of types.
    pub(super) preemptible_price_factor_ppm: u64,
    pub(super) max_dispatch_attempts: u32,
}

/// Reads the section; the caller finishes it.
pub(super) fn containers(section: &Section<'_>) -> Containers {
    let vms = section.section("CloudVMs");
    let mut core = cloud_vms::core(&vms);
    let cloud = cloud_vms::adapters(&vms);
    vms.finish(UnknownKeys::Warn);
    core.sizing = sizing(section, core.sizing);
    core.timeouts.stale_lock =
        section.duration_or_zero("StaleLockTimeout", core.timeouts.stale_lock);
    let runner = runner(section);
    ignore_foreign_keys(section);
    Containers {
        cloud,
        runner,
        dispatch_private_key: section
            .get("DispatchPrivateKey")
            .and_then(|entry| private_key(&entry))
            .unwrap_or_default(),
        preemptible_price_factor_ppm: section
            .millionths_above_zero("PreemptiblePriceFactor", 0)
            .unwrap_or(0),
        max_dispatch_attempts: section.count("MaxDispatchAttempts", 1, 10),
        core,
    }
}

/// Completes `cloud_vms`, the part read from `CloudVMs`.
fn sizing(section: &Section<'_>, cloud_vms: Sizing) -> Sizing {
    let default = Sizing::default();
    Sizing {
        reserve_extra_ram: section.bytes("ReserveExtraRAM", default.reserve_extra_ram),
        keep_buffers_per_vcpu: no_keepstore(section),
        max_price_factor_ppm: section
            .millionths_above_zero("MaximumPriceFactor", default.max_price_factor_ppm)
            .unwrap_or(1_000_000),
        ..cloud_vms
    }
}

/// Reads the number of keepstore buffers, and returns zero: runners are configured to start no
/// keepstore, since a keepstore would need the root token on every VM. No warning for 1, the peer's
/// default.
fn no_keepstore(section: &Section<'_>) -> u32 {
    const KEY: &str = "LocalKeepBlobBuffersPerVCPU";
    if section.count(KEY, 0, 1) > 1 {
        let message =
            "not followed: no keepstore is started beside containers, so no memory is kept \
                       for one; containers use the cluster's"
                .to_owned();
        let line = section.get(KEY).map(|entry| entry.line());
        section.report().warn(&section.path_of(KEY), line, message);
    }
    0
}

fn runner(section: &Section<'_>) -> Runner {
    let arguments = section.get("CrunchRunArgumentsList");
    let arguments = arguments.map(|entry| entry.list()).unwrap_or_default();
    let engines = [
        ("docker", RuntimeEngine::Docker),
        ("singularity", RuntimeEngine::Singularity),
        ("process", RuntimeEngine::Process),
    ];
    Runner {
        crunch_run_command: section.text("CrunchRunCommand", "crunch-run"),
        crunch_run_arguments: arguments.iter().filter_map(Entry::text).collect(),
        runtime_engine: section.choice("RuntimeEngine", &engines, RuntimeEngine::Docker),
    }
}

/// Ignores the keys of this section read by other programs of the cluster.
fn ignore_foreign_keys(section: &Section<'_>) {
    // An invalid value stops all other programs of the cluster: report it here too.
    let targets = [("none", ()), ("all", ()), ("errors", ())];
    section.choice("LocalKeepLogsToContainerLog", &targets, ());
    section.ignore(&[
        "AlwaysUsePreemptibleInstances",
        "DefaultKeepCacheRAM",
        "LSF",
        "LogReuseDecisions",
        "Logging",
        "MaxRetryAttempts",
        "MinRetryPeriod",
        "SLURM",
        "ShellAccess",
        "SupportedDockerImageFormats",
    ]);
}

/// Reads the private key, or the file named in its place. Only a bare path, an easy mistake, is
/// detected here; the SSH client parses the key.
fn private_key(entry: &Entry<'_>) -> Option<Secret> {
    const EXPECTED: &str = "an unencrypted private key, PEM or OpenSSH, or file:///absolute/path";
    let text = entry.secret_text()?;
    if text.is_empty() {
        return None;
    }
    let text = match text.strip_prefix("file://") {
        Some(path) if path.starts_with('/') => match std::fs::read_to_string(path) {
            Ok(text) => Secret::new(text),
            Err(e) => {
                let found = format!("the file {path}, which cannot be read: {e}");
                entry.wrong_as(found, EXPECTED, "check the path and its permissions");
                return None;
            }
        },
        Some(_) => {
            let advice = "write three slashes: file:///absolute/path";
            entry.wrong_kind(EXPECTED, advice);
            return None;
        }
        None => Secret::new(text),
    };
    if !text.expose().trim_start().starts_with("-----BEGIN ") {
        let found = "text that does not begin with -----BEGIN".to_owned();
        let advice = "write the key after \"|\", or the name of its file after file://";
        entry.wrong_as(found, EXPECTED, advice);
        return None;
    }
    Some(text)
}
