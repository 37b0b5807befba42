//! Settings for the decisions of the core. Adapters parse the operator's file into these types; no
//! value here can stop the core, and no value is secret.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{CloudId, ImageId, QuotaGroup, TypeName};
use crate::resources::{Gpus, MicroDollars, Resources};

/// Seed of 32 bytes for every random draw of the core.
pub type Seed = [u8; 32];

/// Configuration of the dispatcher. Keys in brackets are the peer's, under `Containers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Instance types available for rent (`InstanceTypes`).
    pub types: BTreeMap<TypeName, InstanceType>,
    /// Boot image (`CloudVMs.ImageID`).
    pub image: ImageId,
    /// Rules for container needs and type selection.
    pub sizing: Sizing,
    /// Intervals between regular requests.
    pub intervals: Intervals,
    /// Deadlines and grace periods.
    pub timeouts: Timeouts,
    /// Upper bounds of counts, rates and costs.
    pub limits: Limits,
    /// True if the runner's KILL ends the whole process tree. The peer's runner cannot guarantee
    /// that: after a KILL its VM takes no more containers and is destroyed.
    pub kill_reaches_tree: bool,
}

/// Instance type available for rent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceType {
    /// Cloud of the type.
    pub cloud: CloudId,
    /// Name of the type in its cloud (`ProviderType`).
    pub provider_type: String,
    /// Resources of one instance; scratch is the sum of included and added scratch.
    pub resources: Resources,
    /// Part of `resources.scratch` to be attached, in bytes (`AddedScratch`).
    pub added_scratch: u64,
    /// Graphics processors; `resources.gpus` is their count.
    pub gpus: Option<Gpus>,
    /// Price per hour.
    pub price: MicroDollars,
    /// True if the cloud may preempt an instance at any time.
    pub preemptible: bool,
    /// Quota group of the type; by default all types of the cloud with the same lifecycle.
    pub quota_group: QuotaGroup,
}

/// Rules for container needs and type selection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizing {
    /// Bytes added to each container's need (`ReserveExtraRAM`).
    pub reserve_extra_ram: u64,
    /// Keepstore buffers of 64 MiB for each core of a container; 0 for none
    /// (`LocalKeepBlobBuffersPerVCPU`).
    pub keep_buffers_per_vcpu: u32,
    /// Price limit of eligible types, in millionths of the price of the cheapest suitable type;
    /// values below 1,000,000 count as 1,000,000 (`MaximumPriceFactor`).
    pub max_price_factor_ppm: u64,
    /// Fallback of preemptible containers to on-demand types (`SpotFallback`, new).
    #[serde(default)]
    pub spot_fallback: SpotFallback,
}

/// Conditions for the fallback of a preemptible container to on-demand types; by default never.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpotFallback {
    /// Number of interruptions after which a container takes only on-demand types, if any is large
    /// enough. Counted for the life of the container in this process (`Interruptions`).
    pub interruptions: Option<u32>,
    /// Duration of failing creates of every suitable preemptible type, after which on-demand types
    /// are tried last (`After`).
    pub after: Option<Duration>,
}

/// Intervals between regular requests; each at least a millisecond.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intervals {
    /// Interval between two polls of the queue (`PollInterval`).
    pub poll: Duration,
    /// Interval between two lists of a cloud's instances (`SyncInterval`).
    pub sync: Duration,
    /// Interval between two probes of one VM (`ProbeInterval`).
    pub probe: Duration,
}

/// Deadlines and grace periods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// Idle time before an instance is terminated (`TimeoutIdle`).
    pub idle: Duration,
    /// Time from creation or discovery of an instance until it must be ready for containers
    /// (`TimeoutBooting`).
    pub booting: Duration,
    /// Time without a successful probe before an instance is shut down (`TimeoutProbe`).
    pub probe: Duration,
    /// Interval between two attempts to destroy an instance (`TimeoutShutdown`).
    pub shutdown: Duration,
    /// Interval between two signals to the same runner (`TimeoutSignal`).
    pub signal: Duration,
    /// Time from the first TERM to the first KILL (`TimeoutTERM`).
    pub term: Duration,
    /// Time from the first KILL until the container counts as unkillable and its instance is
    /// drained (`TimeoutKILL`, new).
    pub kill: Duration,
    /// Time for other containers on the instance of an unkillable container to end
    /// (`TimeoutUnkillable`, new).
    pub unkillable: Duration,
    /// Age of a run lock without a runner after which the instance counts as broken
    /// (`TimeoutStaleRunLock`).
    pub stale_run_lock: Duration,
    /// Time for instances found after a restart to be probed, before containers locked earlier are
    /// unlocked (`StaleLockTimeout`).
    pub stale_lock: Duration,
    /// Time without a start after which a container is cancelled; never if `None`. Time blocked by
    /// the operator's own limits does not count (`MaxSchedulingTime`, new).
    pub scheduling: Option<Duration>,
    /// Time after which a create request without an answer is written off
    /// (`TimeoutCreateAmbiguous`, new).
    pub create_ambiguous: Duration,
    /// Minimum age of an instance before its absence from lists counts as its end
    /// (`DisappearGrace`, new).
    pub disappear_grace: Duration,
    /// Deadline of a queue request.
    pub queue_answer: Duration,
    /// Deadline of a cloud call.
    pub cloud_answer: Duration,
    /// Deadline of a probe, start or signal; three times as long for a first probe, since it may
    /// install the runner.
    pub vm_answer: Duration,
}

/// Upper bounds of counts, rates and costs; `None` is without limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Instances, including unanswered create requests (`MaxInstances`).
    pub instances: Option<u32>,
    /// Unanswered create requests (`MaxConcurrentInstanceCreateOps`).
    pub creates_in_flight: Option<u32>,
    /// Containers on one instance at a time (`MaxRunningContainersPerInstance`).
    pub containers_per_instance: Option<u32>,
    /// Probes per second over all instances (`MaxProbesPerSecond`).
    pub probes: Option<Rate>,
    /// Create calls (`MaxCreatesPerSecond`, new).
    pub creates: Option<Rate>,
    /// Destroy calls (`MaxDestroysPerSecond`, new).
    pub destroys: Option<Rate>,
    /// List calls (`MaxListsPerSecond`, new).
    pub lists: Option<Rate>,
    /// All calls to a cloud together (`MaxCloudOpsPerSecond`).
    pub cloud_ops: Option<Rate>,
    /// Sum of the prices of all instances, including unanswered create requests (`MaxPricePerHour`,
    /// new).
    pub price_per_hour: Option<MicroDollars>,
    /// Number of failed boots in a row of one type and image after which the pair is backed off
    /// (`BootFailuresBeforePause`, new).
    pub boot_failures: Option<u32>,
    /// Cost limits of all instances over sliding windows, including unanswered create requests
    /// (`Budgets`, new).
    pub budgets: Vec<Budget>,
    /// Initial limit of running containers while the capacity of the cluster is unknown; it grows
    /// with each quiet minute (`InitialQuotaEstimate`).
    pub initial_quota: Option<u32>,
    /// Share of supervisors among running containers, in millionths; `None` for all
    /// (`SupervisorFraction`). A supervisor waits for other containers.
    pub supervisor_fraction_ppm: Option<u64>,
    /// Queued containers fetched by one poll, highest priority first.
    pub queued_per_poll: u32,
}

/// Cost limit over a sliding window. At the limit no instance is created, but existing instances
/// stay, so the cost may still exceed the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Budget {
    /// Length of the window, ending now; at least a microsecond (`Window`).
    pub window: Duration,
    /// Limit of the cost (`Limit`).
    pub limit: MicroDollars,
}

/// Token bucket rate: a burst, refilled steadily.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Time to refill one token; at least a nanosecond.
    pub interval: Duration,
    /// Size of the bucket; at least 1.
    pub burst: u32,
}

impl Rate {
    /// Rate of `per_second` events a second with a burst of the same size; `None` for 0, meaning
    /// "no limit" in the configuration.
    #[must_use]
    pub fn per_second(per_second: u32) -> Option<Self> {
        Self::of_millionths(u64::from(per_second) * 1_000_000)
    }

    /// Rate of `per_second` millionths of an event a second: one event a minute is 16,667. The
    /// burst is the number of events in a second, at least one; `None` for 0.
    #[must_use]
    pub fn of_millionths(per_second: u64) -> Option<Self> {
        let interval_ns = 1_000_000_000_000_000_u64.checked_div(per_second)?;
        let burst = u32::try_from(per_second / 1_000_000).unwrap_or(u32::MAX);
        Some(Self {
            interval: Duration::from_nanos(interval_ns.max(1)),
            burst: burst.max(1),
        })
    }
}

impl Default for Config {
    /// The peer's defaults, without instance types.
    fn default() -> Self {
        Self {
            types: BTreeMap::new(),
            image: ImageId::from(""),
            sizing: Sizing::default(),
            intervals: Intervals::default(),
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            kill_reaches_tree: true,
        }
    }
}

impl Default for Sizing {
    fn default() -> Self {
        Self {
            reserve_extra_ram: 550 * crate::resources::MIB,
            keep_buffers_per_vcpu: 1,
            max_price_factor_ppm: 1_500_000,
            spot_fallback: SpotFallback::default(),
        }
    }
}

impl Default for Intervals {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(10),
            sync: Duration::from_secs(60),
            probe: Duration::from_secs(10),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(60),
            booting: Duration::from_secs(600),
            probe: Duration::from_secs(600),
            shutdown: Duration::from_secs(10),
            signal: Duration::from_secs(5),
            term: Duration::from_secs(120),
            kill: Duration::from_secs(30),
            unkillable: Duration::from_secs(3600),
            stale_run_lock: Duration::from_secs(5),
            stale_lock: Duration::from_secs(60),
            scheduling: None,
            create_ambiguous: Duration::from_secs(300),
            disappear_grace: Duration::from_secs(60),
            queue_answer: Duration::from_secs(60),
            cloud_answer: Duration::from_secs(120),
            vm_answer: Duration::from_secs(30),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            instances: Some(64),
            creates_in_flight: None,
            containers_per_instance: None,
            probes: None,
            creates: None,
            destroys: None,
            lists: None,
            cloud_ops: Rate::per_second(10),
            price_per_hour: None,
            boot_failures: Some(5),
            budgets: Vec::new(),
            initial_quota: None,
            supervisor_fraction_ppm: Some(500_000),
            queued_per_poll: 10_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_below_one_per_second_allows_one_event() {
        let rate = |millionths| Rate::of_millionths(millionths).map(|r| (r.interval, r.burst));
        assert_eq!(rate(200_000), Some((Duration::from_secs(5), 1)));
        assert_eq!(rate(2_500_000), Some((Duration::from_millis(400), 2)));
        assert_eq!(rate(0), None);
        assert_eq!(rate(u64::MAX), Some((Duration::from_nanos(1), u32::MAX)));
        let ten = Rate::per_second(10).map(|r| (r.interval, r.burst));
        assert_eq!(ten, Some((Duration::from_millis(100), 10)));
    }
}
