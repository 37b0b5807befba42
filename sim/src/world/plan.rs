//! Plan: everything a run depends on.

use std::collections::BTreeMap;
use std::time::Duration;

use longshore_core::config::Config;
use longshore_core::ids::QuotaGroup;

use crate::world::core_hook::OptionalHook;
use crate::world::faults::FaultPlan;
use crate::world::workload::Workload;

/// Size and fault rate of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// Small and short: part of every test run.
    #[default]
    Lite,
    /// Any size, any subset of faults.
    Swarm,
    /// 10,000 VMs and 100,000 containers, few faults.
    Scale,
    /// 1,000 VMs and 10,000 containers in a steady flow for a day, with the faults of `scale`.
    Day,
    /// A simulated month.
    Soak,
}

/// Complete input of a run. Equal plans give equal runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub(crate) seed: u64,
    /// Profile of the draw; none in a story.
    pub(crate) profile: Option<Profile>,
    pub(crate) config: Config,
    pub(crate) faults: FaultPlan,
    pub(crate) fault_budget: u64,
    pub(crate) quota: BTreeMap<QuotaGroup, u32>,
    pub(crate) boot_secs: (u64, u64),
    /// Shortest and longest create, in milliseconds.
    pub(crate) create_millis: (u64, u64),
    pub(crate) pushes: bool,
    pub(crate) requeues: bool,
    pub(crate) attempts_max: u32,
    pub(crate) workloads: Vec<Workload>,
    /// Time from the start to the end of faults; never in a story.
    pub(crate) faults_stop_after: Option<Duration>,
    pub(crate) core_hook: OptionalHook,
}

/// Longest back-off of the core after failures.
const PAUSES: Duration = Duration::from_secs(30 * 60);
/// Time to start a container and to terminate its VM, with a VM per container.
const EACH: Duration = Duration::from_secs(600);
/// Probes needed per container; the dispatcher's probe rate may be low.
const PROBES: u32 = 4;
/// Assumed number of VMs without a configured limit.
const VMS_USUAL: u32 = 64;

impl Plan {
    /// Returns a summary of the plan on a single line.
    #[must_use]
    pub fn summary(&self) -> String {
        let config = &self.config;
        let patterns: Vec<String> = self.workloads.iter().map(Workload::summary).collect();
        let faults = self.faults.ratios.iter();
        let faults: Vec<String> = faults
            .map(|(fault, ratio)| format!("{} {}/{}", fault.name(), ratio.times, ratio.of))
            .collect();
        let quota = self.quota.iter();
        let quota: Vec<String> = quota.map(|(group, max)| format!("{group} {max}")).collect();
        let types = config.types.iter();
        let types: Vec<String> = types
            .map(|(name, offer)| format!("{name} {}", offer.provider_type))
            .collect();
        format!(
            "{}, types [{}], {:?}, {:?}, {:?}, {:?}, quota [{}], boots take {:?} s, creates {:?} ms, \
             at most {} attempts, pushes {}, requeues {}, work [{}], faults [{}], {} of them at most, \
             heals after {:?}",
            self.profile
                .map_or("a story".to_owned(), |p| format!("{p:?}")),
            types.join(", "),
            config.limits,
            config.intervals,
            config.timeouts,
            config.sizing,
            quota.join(", "),
            self.boot_secs,
            self.create_millis,
            self.attempts_max,
            self.pushes,
            self.requeues,
            patterns.join(", "),
            faults.join(", "),
            self.fault_budget,
            self.faults_stop_after
        )
    }

    /// Returns the time allowed between the end of faults and rest, from the remaining work and
    /// number of containers: four fifths of the time of all work done serially plus twice every
    /// wait of the configuration. About three times the duration of the slowest of thousands of
    /// runs.
    #[must_use]
    pub(crate) fn patience(&self, work: Duration, containers: u64) -> Duration {
        let (intervals, timeouts) = (&self.config.intervals, &self.config.timeouts);
        let limits = &self.config.limits;
        let windows = limits.budgets.iter().map(|budget| budget.window);
        let vms = limits.instances.unwrap_or(VMS_USUAL);
        let turn = limits.probes.map(|rate| rate.interval * vms);
        let waits = [
            intervals.poll,
            intervals.sync,
            intervals.probe,
            turn.unwrap_or_default(),
            timeouts.booting,
            timeouts.probe,
            timeouts.idle,
            timeouts.term,
            timeouts.kill,
            timeouts.unkillable,
            timeouts.stale_lock,
            timeouts.create_ambiguous,
            timeouts.disappear_grace,
            timeouts.vm_answer * 3,
            windows.max().unwrap_or_default(),
            PAUSES,
        ];
        let waits: Duration = waits.into_iter().sum();
        let probes = limits.probes.map(|rate| rate.interval * PROBES);
        let each = EACH + probes.unwrap_or_default();
        let each = each * u32::try_from(containers).unwrap_or(u32::MAX);
        (waits * 2 + work + each) * 4 / 5
    }
}
