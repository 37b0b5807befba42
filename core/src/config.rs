//! The settings that decisions depend on. Adapters parse the operator's file into this; nothing here
//! can be wrong in a way that stops the core, and nothing here is secret.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{CloudId, ImageId, QuotaGroup, TypeName};
use crate::resources::{Gpus, MicroDollars, Resources};

/// 32 bytes from which all of the core's choices by chance follow.
pub type Seed = [u8; 32];

/// What the operator wants. Keys in brackets are the peer's, under `Containers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// What may be rented (`InstanceTypes`).
    pub types: BTreeMap<TypeName, InstanceType>,
    /// The image VMs boot from (`CloudVMs.ImageID`).
    pub image: ImageId,
    /// How needs are computed and types chosen.
    pub sizing: Sizing,
    /// How often the world is asked.
    pub intervals: Intervals,
    /// How long the world may take.
    pub timeouts: Timeouts,
    /// How much may exist or happen.
    pub limits: Limits,
    /// Whether the runner's KILL ends the whole process tree. The peer's runner cannot promise it:
    /// then a VM on which KILL was needed takes no more containers and is destroyed.
    pub kill_reaches_tree: bool,
}

/// One kind of VM that can be rented.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceType {
    /// Where.
    pub cloud: CloudId,
    /// The cloud's own name for it (`ProviderType`).
    pub provider_type: String,
    /// What it offers; scratch is included plus added.
    pub resources: Resources,
    /// The part of `resources.scratch` that must be attached, in bytes (`AddedScratch`).
    pub added_scratch: u64,
    /// Its graphics processors; `resources.gpus` is their count.
    pub gpus: Option<Gpus>,
    /// Price per hour.
    pub price: MicroDollars,
    /// May be taken back by the cloud at any time.
    pub preemptible: bool,
    /// Instances that count against the same quota; by default all of the cloud with the same
    /// lifecycle.
    pub quota_group: QuotaGroup,
}

/// How needs are computed and types chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizing {
    /// Bytes added to each container's need (`ReserveExtraRAM`).
    pub reserve_extra_ram: u64,
    /// Buffers of 64 MiB that a container's own keepstore takes for each of its cores; 0 for none
    /// (`LocalKeepBlobBuffersPerVCPU`).
    pub keep_buffers_per_vcpu: u32,
    /// Eligible types cost at most this many millionths of the cheapest that fits; less than
    /// 1,000,000 counts as 1,000,000 (`MaximumPriceFactor`).
    pub max_price_factor_ppm: u64,
    /// When a preemptible container may run where it cannot be interrupted (`SpotFallback`, new).
    #[serde(default)]
    pub spot_fallback: SpotFallback,
}

/// When a preemptible container takes types that are not preemptible; by default never.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpotFallback {
    /// Once it was interrupted so often, for as long as it lives and this process remembers. Types
    /// that are not preemptible are then the only ones it takes, if any fits (`Interruptions`).
    pub interruptions: Option<u32>,
    /// While every preemptible type that fits has been failing to be created for so long. Types that
    /// are not preemptible then come after the others (`After`).
    pub after: Option<Duration>,
}

/// How often the world is asked; each at least a millisecond.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intervals {
    /// Between two looks at the queue (`PollInterval`).
    pub poll: Duration,
    /// Between two lists of the cloud's instances (`SyncInterval`).
    pub sync: Duration,
    /// Between two probes of one VM (`ProbeInterval`).
    pub probe: Duration,
}

/// How long the world may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// An idle VM is given back after this (`TimeoutIdle`).
    pub idle: Duration,
    /// A VM must be ready for containers this long after it was created or found
    /// (`TimeoutBooting`).
    pub booting: Duration,
    /// A VM that does not answer probes for so long is shut down (`TimeoutProbe`).
    pub probe: Duration,
    /// Between two attempts to destroy a VM that is still there (`TimeoutShutdown`).
    pub shutdown: Duration,
    /// Between two signals to the same runner (`TimeoutSignal`).
    pub signal: Duration,
    /// TERM gives way to KILL after this (`TimeoutTERM`).
    pub term: Duration,
    /// KILL has failed after this, and the VM is drained (`TimeoutKILL`, new).
    pub kill: Duration,
    /// An unkillable container may keep its VM's other containers running for so long
    /// (`TimeoutUnkillable`, new).
    pub unkillable: Duration,
    /// A lock whose runner is gone makes the VM broken after this (`TimeoutStaleRunLock`).
    pub stale_run_lock: Duration,
    /// How long containers that were locked before a restart wait for VMs found then to be probed
    /// (`StaleLockTimeout`).
    pub stale_lock: Duration,
    /// A container that could not start for so long is cancelled, for ever long if `None`. Time does
    /// not count in which limits of the operator's own stood in the way (`MaxSchedulingTime`, new).
    pub scheduling: Option<Duration>,
    /// A create whose answer was lost is written off after this (`TimeoutCreateAmbiguous`, new).
    pub create_ambiguous: Duration,
    /// A VM younger than this is never judged gone because a list lacks it (`DisappearGrace`, new).
    pub disappear_grace: Duration,
    /// The queue must answer within this.
    pub queue_answer: Duration,
    /// The cloud must answer within this.
    pub cloud_answer: Duration,
    /// A VM must answer a probe, a start or a signal within this; a first probe, which may install
    /// the runner, within three times this.
    pub vm_answer: Duration,
}

/// How much may exist or happen; `None` is without limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Instances, wishes under way counted (`MaxInstances`).
    pub instances: Option<u32>,
    /// Creates that were not yet answered (`MaxConcurrentInstanceCreateOps`).
    pub creates_in_flight: Option<u32>,
    /// Containers on one VM at a time (`MaxRunningContainersPerInstance`).
    pub containers_per_instance: Option<u32>,
    /// Probes per second over all VMs (`MaxProbesPerSecond`).
    pub probes: Option<Rate>,
    /// Creates (`MaxCreatesPerSecond`, new).
    pub creates: Option<Rate>,
    /// Destroys (`MaxDestroysPerSecond`, new).
    pub destroys: Option<Rate>,
    /// Lists (`MaxListsPerSecond`, new).
    pub lists: Option<Rate>,
    /// All calls to the cloud together (`MaxCloudOpsPerSecond`).
    pub cloud_ops: Option<Rate>,
    /// Sum of the prices of all instances, wishes counted (`MaxPricePerHour`, new).
    pub price_per_hour: Option<MicroDollars>,
    /// After so many failed boots in a row of one type with one image, no more of them are created
    /// for a while (`BootFailuresBeforePause`, new).
    pub boot_failures: Option<u32>,
    /// What all instances may cost over spans of time, wishes counted (`Budgets`, new).
    pub budgets: Vec<Budget>,
    /// Containers that may run at first, until it is known how many the cluster can bear; more with
    /// each quiet minute (`InitialQuotaEstimate`).
    pub initial_quota: Option<u32>,
    /// Millionths of what may run that may be supervisors, which wait for others; `None` for all
    /// (`SupervisorFraction`).
    pub supervisor_fraction_ppm: Option<u64>,
    /// Queued containers fetched by one poll, highest priority first.
    pub queued_per_poll: u32,
}

/// What may be spent over a span of time. At the limit nothing new is created; what exists stays, so
/// more may be spent in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Budget {
    /// The span, which ends now at any time; at least a microsecond (`Window`).
    pub window: Duration,
    /// The amount (`Limit`).
    pub limit: MicroDollars,
}

/// So many events in a burst, refilled steadily.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// The time in which one event's worth is refilled; at least a nanosecond.
    pub interval: Duration,
    /// Events that may happen at once after a pause; at least 1.
    pub burst: u32,
}

impl Rate {
    /// `per_second` events a second with as large a burst; `None` for 0, which means "no limit" in
    /// the configuration.
    #[must_use]
    pub fn per_second(per_second: u32) -> Option<Self> {
        Self::of_millionths(u64::from(per_second) * 1_000_000)
    }

    /// So many millionths of an event a second: one a minute is 16,667. The burst is what a second
    /// brings, and at least one; `None` for 0.
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
    /// The peer's defaults, no types.
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
    fn a_rate_may_be_less_than_one_a_second_and_always_lets_one_through() {
        let rate = |millionths| Rate::of_millionths(millionths).map(|r| (r.interval, r.burst));
        assert_eq!(rate(200_000), Some((Duration::from_secs(5), 1)));
        assert_eq!(rate(2_500_000), Some((Duration::from_millis(400), 2)));
        assert_eq!(rate(0), None);
        assert_eq!(rate(u64::MAX), Some((Duration::from_nanos(1), u32::MAX)));
        let ten = Rate::per_second(10).map(|r| (r.interval, r.burst));
        assert_eq!(ten, Some((Duration::from_millis(100), 10)));
    }
}
