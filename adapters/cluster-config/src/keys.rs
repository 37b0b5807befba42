//! Declaration of every key of the configuration file: default, unit, meaning, origin.
//!
//! The tests in `reference` compare this table with the keys that the reader asks for, in both
//! directions, and render `docs/configuration.md` from it.

use std::time::Duration;

use longshore_core::config::{InstanceType, Rate};
use longshore_core::resources::MicroDollars;

use super::cluster::ClusterConfig;

/// Program that introduced a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The peer, arvados-dispatch-cloud, or another program of its cluster.
    Peer,
    /// Longshore.
    Longshore,
}

/// Unit and range of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Free text.
    Text,
    /// Text kept out of every log and error.
    Secret,
    /// `true` or `false`.
    Bool,
    /// Duration in Go's syntax; zero or less means the default.
    Duration,
    /// Duration in Go's syntax, zero included.
    DurationOrZero,
    /// Size in bytes, with or without a unit.
    Size,
    /// Whole number.
    Count,
    /// Whole number; zero or less means "without limit" or "off".
    CountOrOff,
    /// Whole number; zero or less means the default.
    CountOrDefault,
    /// Decimal number of calls per second; zero or less means "without limit".
    Rate,
    /// Decimal factor or fraction.
    Factor,
    /// Decimal amount of dollars.
    Dollars,
    /// List of sections or texts.
    List,
    /// Section with names chosen by the operator as keys.
    Map,
    /// Section passed on unchanged.
    Section,
    /// Absolute URL, `http` or `https`.
    Url,
}

/// Default of a key.
#[derive(Clone, Copy)]
pub(super) enum Default {
    /// No default: the file must have the key.
    Required,
    /// Value taken from a document with required keys only.
    Read(fn(&ClusterConfig) -> String),
    /// Rule that yields the value.
    Rule(&'static str),
}

/// A key of the file.
#[derive(Clone, Copy)]
pub(super) struct Key {
    /// Path below the cluster; `*` stands for a name chosen by the operator, `[]` for an item.
    pub(super) path: &'static str,
    pub(super) unit: Unit,
    pub(super) origin: Origin,
    pub(super) default: Default,
    /// Sentence in Markdown.
    pub(super) meaning: &'static str,
}

use self::Default::{Read, Required, Rule};

macro_rules! keys {
    ($($path:literal, $unit:ident, $origin:ident, $default:expr, $meaning:literal;)*) => {
        /// Keys that are followed, in the order of the document.
        pub(super) const KEYS: &[Key] = &[$(Key {
            path: $path,
            unit: Unit::$unit,
            origin: Origin::$origin,
            default: $default,
            meaning: $meaning,
        },)*];
    };
}

keys! {
    "SystemRootToken", Secret, Peer, Read(|c| quoted(c.system_root_token.expose())),
        "Token for the containers API, handed to every runner too. Letters and digits; a warning below 32 characters.";
    "ManagementToken", Secret, Peer, Read(|c| quoted(c.management_token.expose())),
        "Token expected by the management API and the metrics; empty switches both off.";
    "Services.Controller.ExternalURL", Url, Peer, Required,
        "Containers API: the controller of the cluster, or the built-in queue.";
    "Services.DispatchCloud.InternalURLs", Map, Peer, Read(|c| none_or(c.services.dispatch_cloud.len())),
        "Addresses of the management API as URLs; the first that can be bound is used. A URL with `https` is served with TLS.";
    "Services.DispatchCloud.InternalURLs.*.ListenURL", Url, Peer, Rule("the URL itself"),
        "Address to bind in place of the URL.";
    "TLS.Certificate", Text, Peer, Read(|c| none_or(usize::from(c.tls.is_some()))),
        "Certificate chain of the management API, PEM or `file:///absolute/path`; read again on HUP.";
    "TLS.Key", Secret, Peer, Read(|c| none_or(usize::from(c.tls.is_some()))),
        "Private key of the certificate, PEM or `file:///absolute/path`; read again on HUP.";
    "TLS.Insecure", Bool, Peer, Read(|c| c.services.tls_insecure.to_string()),
        "`true`: the certificate of the containers API is not checked.";
    "SystemLogs.Format", Text, Peer, Read(|c| format!("{:?}", c.log.format).to_lowercase()),
        "`json` (one object a line) or `text`.";
    "SystemLogs.LogLevel", Text, Peer, Read(|c| c.log.level.name().to_owned()),
        "`panic`, `fatal`, `error` (these three are the same), `warning` or `warn`, `info`, `debug`, `trace`.";
    "API.MaxConcurrentRequests", CountOrDefault, Peer, Read(|c| (4 * c.api.concurrency_max).to_string()),
        "The dispatcher makes at most a quarter of these calls at a time, at least 1.";
    "API.MaxItemsPerResponse", Count, Peer, Read(|c| c.api.max_items_per_response.to_string()),
        "Records in one answer of the built-in queue; at least 1.";
    "Longshore.Queue", Section, Longshore, Rule("absent"),
        "Settings of the built-in queue (`longshore queue`); absent where another program serves the containers API.";
    "Longshore.Queue.Database", Text, Longshore, Required,
        "Path of the SQLite file; required once the section `Longshore.Queue` is there.";
    "Longshore.Queue.Listen", Text, Longshore, Rule("host and port of `Services.Controller.ExternalURL`"),
        "`host:port` to bind.";

    "Containers.DispatchPrivateKey", Secret, Peer, Read(|c| quoted(c.dispatch_private_key.expose())),
        "Unencrypted SSH key, PEM or OpenSSH, as text or `file:///absolute/path`.";
    "Containers.RuntimeEngine", Text, Peer, Read(|c| c.runner.runtime_engine.name().to_owned()),
        "`docker`, `singularity` or `process`. The runner that comes with this program has `process` only (containers are processes of the VM).";
    "Containers.CrunchRunCommand", Text, Peer, Read(|c| c.runner.crunch_run_command.clone()),
        "Command of the runner on images that bring one; used only if `DeployRunnerBinary` is empty.";
    "Containers.CrunchRunArgumentsList", List, Peer, Read(|c| none_or(c.runner.crunch_run_arguments.len())),
        "Further arguments of the runner.";
    "Containers.ReserveExtraRAM", Size, Peer, Read(|c| bytes(c.core.sizing.reserve_extra_ram)),
        "RAM added to the need of each container.";
    "Containers.MaximumPriceFactor", Factor, Peer, Read(|c| millionths(c.core.sizing.max_price_factor_ppm)),
        "A container takes types up to this multiple of the price of the cheapest type that fits; below 1 counts as 1.";
    "Containers.PreemptiblePriceFactor", Factor, Peer, Read(|c| off_or(c.core.types.keys().filter(|t| t.as_str().ends_with(".preemptible")).count())),
        "Adds, for each type that is not preemptible, a preemptible twin `NAME.preemptible` at this multiple of the price; 0 or less is off.";
    "Containers.MaxDispatchAttempts", Count, Peer, Read(|c| c.api.max_dispatch_attempts.to_string()),
        "The built-in queue cancels a container that was locked this often when it is unlocked; at least 1.";
    "Containers.StaleLockTimeout", DurationOrZero, Peer, Read(|c| span(c.core.timeouts.stale_lock)),
        "After a start, containers that were locked before wait at most this long for VMs found then to answer a probe.";

    "Containers.CloudVMs.Driver", Text, Peer, Read(|c| c.cloud.driver.clone()),
        "`ec2` (in builds with the feature of that name), `loopback` (VMs on this host), `azure` (recognized, in no build yet).";
    "Containers.CloudVMs.DriverParameters", Section, Peer, Read(|c| none_or(usize::from(!c.cloud.driver_parameters.is_null()))),
        "Settings of the driver: [ec2](ec2.md), loopback below.";
    "Containers.CloudVMs.ImageID", Text, Peer, Read(|c| quoted(c.core.image.as_str())),
        "Image that VMs boot from, in the cloud's own notation.";
    "Containers.CloudVMs.SSHPort", Text, Peer, Read(|c| c.cloud.ssh_port.to_string()),
        "Port number, or a service name from `/etc/services`; for addresses without a port.";
    "Containers.CloudVMs.BootProbeCommand", Text, Peer, Read(|c| format!("`{}`", c.cloud.boot_probe_command)),
        "Command on the VM; exit status 0 means that the VM has booted. Empty counts as `true`.";
    "Containers.CloudVMs.InstanceInitCommand", Text, Peer, Read(|c| quoted(&c.cloud.instance_init_command)),
        "Shell commands appended to the script that a VM runs at its first boot.";
    "Containers.CloudVMs.DeployRunnerBinary", Text, Peer, Read(|c| c.cloud.deploy_runner_binary.clone()),
        "File put on each VM as the runner. `/proc/self/exe` means the runner inside this program; empty means that images bring one.";
    "Containers.CloudVMs.DeployRunnerDirectory", Text, Peer, Read(|c| c.cloud.deploy_runner_directory.clone()),
        "Directory on the VM for the deployed runner.";
    "Containers.CloudVMs.DeployPublicKey", Bool, Peer, Read(|c| c.cloud.deploy_public_key.to_string()),
        "`true`: the cloud installs the public half of `DispatchPrivateKey` on each VM.";
    "Containers.CloudVMs.ResourceTags", Map, Peer, Read(|c| none_or(c.cloud.resource_tags.len())),
        "Tags for everything created in the cloud.";
    "Containers.CloudVMs.TagKeyPrefix", Text, Peer, Read(|c| c.cloud.tag_key_prefix.clone()),
        "Prefix of the dispatcher's own tags (`InstanceSetID`, `InstanceType`, `IdleBehavior`, `InstanceSecret`, `InstanceIntent`).";

    "Containers.CloudVMs.PollInterval", DurationOrZero, Peer, Read(|c| span(c.core.intervals.poll)),
        "Between two polls of the queue; 0 counts as the default, with a warning.";
    "Containers.CloudVMs.SyncInterval", Duration, Peer, Read(|c| span(c.core.intervals.sync)),
        "Between two lists of the cloud's instances.";
    "Containers.CloudVMs.ProbeInterval", Duration, Peer, Read(|c| span(c.core.intervals.probe)),
        "Between two probes of one VM.";
    "Containers.CloudVMs.TimeoutIdle", Duration, Peer, Read(|c| span(c.core.timeouts.idle)),
        "A VM idle for this long is shut down.";
    "Containers.CloudVMs.TimeoutBooting", Duration, Peer, Read(|c| span(c.core.timeouts.booting)),
        "A VM not ready for this long after its creation or discovery is shut down.";
    "Containers.CloudVMs.TimeoutProbe", Duration, Peer, Read(|c| span(c.core.timeouts.probe)),
        "A VM without a successful probe for this long is shut down.";
    "Containers.CloudVMs.TimeoutShutdown", Duration, Peer, Read(|c| span(c.core.timeouts.shutdown)),
        "First wait before a destroy is sent again for a VM that is still there; doubles with each attempt.";
    "Containers.CloudVMs.TimeoutSignal", Duration, Peer, Read(|c| span(c.core.timeouts.signal)),
        "Between two signals to the same runner.";
    "Containers.CloudVMs.TimeoutTERM", Duration, Peer, Read(|c| span(c.core.timeouts.term)),
        "KILL follows TERM after this. (The peer has no KILL: it drains the VM.)";
    "Containers.CloudVMs.TimeoutKILL", Duration, Longshore, Read(|c| span(c.core.timeouts.kill)),
        "The VM is drained if KILL had no effect for this long.";
    "Containers.CloudVMs.TimeoutUnkillable", Duration, Longshore, Read(|c| span(c.core.timeouts.unkillable)),
        "The VM of a container that survived KILL is destroyed after this at the latest, other containers or not.";
    "Containers.CloudVMs.TimeoutStaleRunLock", Duration, Peer, Read(|c| span(c.core.timeouts.stale_run_lock)),
        "A lock file without a runner for this long makes the VM broken.";
    "Containers.CloudVMs.TimeoutCreateAmbiguous", Duration, Longshore, Read(|c| span(c.core.timeouts.create_ambiguous)),
        "A create request without an answer counts as an instance for this long.";
    "Containers.CloudVMs.DisappearGrace", DurationOrZero, Longshore, Read(|c| span(c.core.timeouts.disappear_grace)),
        "A VM younger than this is never declared gone because lists lack it.";
    "Containers.CloudVMs.MaxSchedulingTime", DurationOrZero, Longshore, Read(|c| c.core.timeouts.scheduling.map_or_else(off, span)),
        "A container that could not start for this long is cancelled with its last reason. Time in which a limit of the operator's own blocked the start does not count. 0 is off.";
    "Containers.CloudVMs.MaxInstances", CountOrOff, Peer, Read(|c| c.core.limits.instances.map_or_else(no_limit, number)),
        "Instances, create requests in flight included.";
    "Containers.CloudVMs.MaxConcurrentInstanceCreateOps", CountOrOff, Peer, Read(|c| c.core.limits.creates_in_flight.map_or_else(no_limit, number)),
        "Create requests in flight. The peer's default is 1.";
    "Containers.CloudVMs.MaxRunningContainersPerInstance", CountOrOff, Peer, Read(|c| c.core.limits.containers_per_instance.map_or_else(no_limit, number)),
        "Containers on one VM at a time; 1 switches packing off.";
    "Containers.CloudVMs.MaxProbesPerSecond", Rate, Peer, Read(|c| rate(c.core.limits.probes)),
        "Probes of all VMs together. The peer's default is 10.";
    "Containers.CloudVMs.MaxCreatesPerSecond", Rate, Longshore, Read(|c| rate(c.core.limits.creates)),
        "Create requests.";
    "Containers.CloudVMs.MaxDestroysPerSecond", Rate, Longshore, Read(|c| rate(c.core.limits.destroys)),
        "Destroy requests.";
    "Containers.CloudVMs.MaxListsPerSecond", Rate, Longshore, Read(|c| rate(c.core.limits.lists)),
        "Lists of instances.";
    "Containers.CloudVMs.MaxCloudOpsPerSecond", Rate, Peer, Read(|c| rate(c.core.limits.cloud_ops)),
        "All calls to the cloud together.";
    "Containers.CloudVMs.MaxPricePerHour", Dollars, Longshore, Read(|c| c.core.limits.price_per_hour.map_or_else(no_limit, dollars)),
        "Sum of the hourly prices of all instances, create requests included; 0 or less is without limit. At the limit nothing new is created and nothing is stopped.";
    "Containers.CloudVMs.Budgets", List, Longshore, Read(|c| none_or(c.core.limits.budgets.len())),
        "At most 16 items such as `{Window: 24h, Limit: 500}`. At a limit nothing new is created and nothing is stopped: set `MaxPricePerHour` too, to bound the overrun by running work.";
    "Containers.CloudVMs.Budgets[].Window", DurationOrZero, Longshore, Required,
        "Sliding window from 1m to 8784h; each budget needs another one.";
    "Containers.CloudVMs.Budgets[].Limit", Dollars, Longshore, Required,
        "Cost of all instances within any such window; above 0.";
    "Containers.CloudVMs.BootFailuresBeforePause", CountOrOff, Longshore, Read(|c| c.core.limits.boot_failures.map_or_else(off, number)),
        "Consecutive failed boots of a type with an image before that type and image are backed off.";
    "Containers.CloudVMs.SpotFallback.Interruptions", CountOrOff, Longshore, Read(|c| c.core.sizing.spot_fallback.interruptions.map_or_else(off, number)),
        "A preemptible container interrupted this often takes types that are not preemptible.";
    "Containers.CloudVMs.SpotFallback.After", DurationOrZero, Longshore, Read(|c| c.core.sizing.spot_fallback.after.map_or_else(off, span)),
        "A preemptible container also takes other types while every preemptible type that fits has failed to be created for this long. 0 is off.";
    "Containers.CloudVMs.InitialQuotaEstimate", CountOrOff, Peer, Read(|c| c.core.limits.initial_quota.map_or_else(no_limit, number)),
        "Containers that may run at first; grows by 10 % with each quiet minute.";
    "Containers.CloudVMs.SupervisorFraction", Factor, Peer, Read(|c| c.core.limits.supervisor_fraction_ppm.map_or_else(no_limit, millionths)),
        "Fraction of the allowed containers that may be supervisors; 0 or less is without limit.";

    "InstanceTypes.*.ProviderType", Text, Peer, Rule("name of the type"),
        "The cloud's own name of the type.";
    "InstanceTypes.*.VCPUs", Count, Peer, Required,
        "Cores; at least 1.";
    "InstanceTypes.*.RAM", Size, Peer, Read(|c| bytes(first_type(c).resources.ram)),
        "RAM; with 0 no container fits, and a warning says so.";
    "InstanceTypes.*.IncludedScratch", Size, Peer, Read(|c| bytes(first_type(c).resources.scratch)),
        "Scratch space that comes with the type.";
    "InstanceTypes.*.AddedScratch", Size, Peer, Read(|c| bytes(first_type(c).added_scratch)),
        "Scratch space to be attached as a volume.";
    "InstanceTypes.*.Price", Dollars, Peer, Read(|c| dollars(first_type(c).price)),
        "Price per hour.";
    "InstanceTypes.*.Preemptible", Bool, Peer, Read(|c| first_type(c).preemptible.to_string()),
        "`true`: spot instances, which the cloud may end at any time.";
    "InstanceTypes.*.GPU", Section, Peer, Read(|c| none_or(usize::from(first_type(c).gpus.is_some()))),
        "GPUs of the type.";
    "InstanceTypes.*.GPU.DeviceCount", Count, Peer, Rule("0"),
        "Number of GPUs; with 0 the rest of the section has no effect.";
    "InstanceTypes.*.GPU.Stack", Text, Peer, Rule("required if `DeviceCount` > 0"),
        "`cuda` or `rocm`.";
    "InstanceTypes.*.GPU.DriverVersion", Text, Peer, Rule("required if `DeviceCount` > 0"),
        "Version of the driver on the image, major and minor, in quotes.";
    "InstanceTypes.*.GPU.HardwareTarget", Text, Peer, Rule("empty"),
        "Hardware target of the GPUs, such as `\"9.0\"` or `gfx1100`.";
    "InstanceTypes.*.GPU.VRAM", Size, Peer, Rule("0"),
        "Memory of each GPU.";
}

/// Keys that are checked and have no effect, each with the reason.
pub(super) const NOT_FOLLOWED: &[(&str, &str)] = &[
    (
        "Containers.LocalKeepBlobBuffersPerVCPU",
        "No keepstore is started beside containers, so no memory is kept for one. A value above 1 gives a warning.",
    ),
    (
        "Containers.LocalKeepLogsToContainerLog",
        "Must be `none`, `all` or `errors`; without a keepstore beside containers there is nothing to log.",
    ),
];

/// Keys of other programs: accepted without a warning, and ignored.
pub(super) const IGNORED: &[&str] = &[
    "ClusterID",
    "Containers.AlwaysUsePreemptibleInstances",
    "Containers.CloudVMs.Enable",
    "Containers.DefaultKeepCacheRAM",
    "Containers.LSF",
    "Containers.LogReuseDecisions",
    "Containers.Logging",
    "Containers.MaxRetryAttempts",
    "Containers.MinRetryPeriod",
    "Containers.SLURM",
    "Containers.ShellAccess",
    "Containers.SupportedDockerImageFormats",
    "InstanceTypes.*.Name",
    "InstanceTypes.*.Scratch",
    "PostgreSQL",
    "Services.Controller.InternalURLs",
    "Services.DispatchCloud.ExternalURL",
];

fn first_type(cluster: &ClusterConfig) -> &InstanceType {
    let first = cluster.core.types.values().next();
    first.expect("the document has a type")
}

fn quoted(text: &str) -> String {
    if text.is_empty() {
        "empty".to_owned()
    } else {
        text.to_owned()
    }
}

fn none_or(count: usize) -> String {
    if count == 0 {
        "none".to_owned()
    } else {
        count.to_string()
    }
}

fn off_or(count: usize) -> String {
    if count == 0 { off() } else { count.to_string() }
}

fn off() -> String {
    "off".to_owned()
}

fn no_limit() -> String {
    "no limit".to_owned()
}

fn number(count: u32) -> String {
    count.to_string()
}

/// Duration as written in the file: whole hours, minutes, seconds or milliseconds.
fn span(duration: Duration) -> String {
    let millis = duration.as_millis();
    match millis {
        0 => "0".to_owned(),
        _ if millis.is_multiple_of(3_600_000) => format!("{}h", millis / 3_600_000),
        _ if millis.is_multiple_of(60_000) => format!("{}m", millis / 60_000),
        _ if millis.is_multiple_of(1000) => format!("{}s", millis / 1000),
        _ => format!("{millis}ms"),
    }
}

fn bytes(size: u64) -> String {
    const MIB: u64 = 1 << 20;
    if size > 0 && size.is_multiple_of(MIB) {
        format!("{}MiB", size / MIB)
    } else {
        size.to_string()
    }
}

/// Decimal number of millionths, without zeros at the end.
fn millionths(ppm: u64) -> String {
    let text = format!("{}.{:06}", ppm / 1_000_000, ppm % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn dollars(amount: MicroDollars) -> String {
    millionths(amount.0)
}

/// Calls per second.
fn rate(rate: Option<Rate>) -> String {
    rate.map_or_else(no_limit, |rate| {
        let nanos = rate.interval.as_nanos().max(1);
        let per_second = 1_000_000_000_000_000 / nanos;
        millionths(u64::try_from(per_second).unwrap_or(u64::MAX))
    })
}
