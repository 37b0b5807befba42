//! The section `Containers`: sizing, the runner, the key.

use longshore_core::config::{Config, Sizing};
use longshore_secret::Secret;

use super::cloud_vms;
use super::cluster::{CloudVms, Runner, RuntimeEngine};
use super::reader::{Entry, Section, Strangers};

/// What the section says.
pub(super) struct Containers {
    /// All but the types, which stand elsewhere.
    pub(super) core: Config,
    pub(super) cloud: CloudVms,
    pub(super) runner: Runner,
    pub(super) dispatch_private_key: Secret,
    /// 0 for no such types.
    pub(super) preemptible_price_factor_ppm: u64,
    pub(super) max_dispatch_attempts: u32,
}

/// Reads the section; the caller finishes it.
pub(super) fn containers(section: &Section<'_>) -> Containers {
    let vms = section.section("CloudVMs");
    let mut core = cloud_vms::core(&vms);
    let cloud = cloud_vms::adapters(&vms);
    vms.finish(Strangers::Warn);
    core.sizing = sizing(section, core.sizing);
    core.timeouts.stale_lock =
        section.duration_or_zero("StaleLockTimeout", core.timeouts.stale_lock);
    let runner = runner(section);
    of_others(section);
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

/// `by_vms` is what stands under `CloudVMs`.
fn sizing(section: &Section<'_>, by_vms: Sizing) -> Sizing {
    let default = Sizing::default();
    Sizing {
        reserve_extra_ram: section.bytes("ReserveExtraRAM", default.reserve_extra_ram),
        keep_buffers_per_vcpu: no_keepstore(section),
        max_price_factor_ppm: section
            .millionths_above_zero("MaximumPriceFactor", default.max_price_factor_ppm)
            .unwrap_or(1_000_000),
        ..by_vms
    }
}

/// Runners are told to start no keepstore of their own, which would need the root token on every VM:
/// so no memory is kept for one. 1 is what stands in every file with the peer's defaults.
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

/// Keys of this section that other programs of the cluster read.
fn of_others(section: &Section<'_>) {
    // One value of it stops the whole cluster, so it is worth a check here.
    let targets = [("none", ()), ("all", ()), ("errors", ())];
    section.choice("LocalKeepLogsToContainerLog", &targets, ());
    section.not_ours(&[
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

/// The key itself, or the text of the file that it names. Only looked at closely by who uses it; but
/// a bare path, which is an easy mistake, is found here.
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
