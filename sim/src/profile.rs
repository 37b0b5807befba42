//! What a run is made of: drawn from its seed, by the rules of a profile.

use std::collections::BTreeMap;
use std::time::Duration;

use longshore_core::config::{Budget, Config, InstanceType, Limits, Rate, SpotFallback, Timeouts};
use longshore_core::ids::{CloudId, ImageId, QuotaGroup, TypeName};
use longshore_core::resources::{Demand, MIB, MicroDollars, Resources};

use crate::chance::{Chance, Ratio};
use crate::faults::{Fault, FaultPlan};
use crate::knobs::draw_knobs;
use crate::tamper::Tamper;
use crate::workload::{Arrival, Pattern, Workload};

/// How large and how rough a run is.
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

/// All that a run depends on. Equal plans give equal runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub(crate) seed: u64,
    /// By whose rules it was drawn; none in a story.
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
    /// Faults stop then; never in a story.
    pub(crate) heals_after: Option<Duration>,
    pub(crate) tamper: Tamper,
}

const HOUR: u64 = 3600;
/// The longest of the core's own pauses after failures.
const PAUSES: Duration = Duration::from_secs(30 * 60);
/// What it takes to get a container started, and its VM away, where each needs its own.
const EACH: Duration = Duration::from_secs(600);
/// As many probes are needed for that, for which our own rate may be low.
const PROBES: u32 = 4;
/// Where no limit says how many.
const VMS_USUAL: u32 = 64;

impl Plan {
    /// Draws a plan.
    #[must_use]
    pub fn draw(seed: u64, profile: Profile) -> Self {
        let mut chance = Chance::new(seed, "plan");
        let drawn = match profile {
            Profile::Lite => Self::swarm(seed, &mut chance, 30, (10 * 60, HOUR)),
            Profile::Swarm => Self::swarm(seed, &mut chance, 1500, (10 * 60, 8 * HOUR)),
            Profile::Soak => {
                let mut plan = Self::swarm(seed, &mut chance, 20_000, (720 * HOUR, 720 * HOUR));
                for workload in &mut plan.workloads {
                    workload.pattern = Pattern::Steady {
                        gap: Duration::from_secs(720 * HOUR) / workload.left.max(1),
                    };
                }
                plan
            }
            Profile::Scale => Self::scale(seed, &mut chance),
            Profile::Day => Self::day(seed, &mut chance),
        };
        Self {
            profile: Some(profile),
            ..drawn
        }
    }

    /// The same world with this work instead of its own. Faults go on until the last of it is
    /// submitted, at least.
    #[must_use]
    pub fn with_workload(mut self, arrivals: &[Arrival]) -> Self {
        let last = arrivals.iter().map(|arrival| arrival.at).max();
        let last = last.unwrap_or_default() + Duration::from_secs(60);
        self.workloads = vec![Workload::recorded(arrivals)];
        self.heals_after = self.heals_after.map(|after| after.max(last));
        self
    }

    /// A healthy world without work, for stories.
    #[must_use]
    pub fn calm(seed: u64) -> Self {
        Self {
            seed,
            profile: None,
            config: Config {
                types: calm_types(),
                image: ImageId::from("image-1"),
                ..Config::default()
            },
            faults: FaultPlan::none(),
            fault_budget: 0,
            quota: BTreeMap::new(),
            boot_secs: (20, 60),
            create_millis: (300, 8000),
            pushes: true,
            requeues: true,
            attempts_max: 5,
            workloads: Vec::new(),
            heals_after: None,
            tamper: Tamper::default(),
        }
    }

    fn swarm(seed: u64, chance: &mut Chance, work_max: u64, chaos_secs: (u64, u64)) -> Self {
        let mut config = draw_config(chance);
        let mut loss = Chance::new(seed, "loss");
        draw_loss(&mut loss, &mut config);
        draw_thrift(&mut Chance::new(seed, "thrift"), &mut config);
        draw_knobs(seed, &mut config);
        let total = u32::try_from(chance.uneven(3, work_max)).unwrap_or(3);
        let chaos = chance.secs(chaos_secs.0, chaos_secs.1);
        let count = chance.between(1, 3);
        let workloads = (0..count)
            .map(|_| {
                draw_workload(
                    chance,
                    &config,
                    total / u32::try_from(count).unwrap_or(1) + 1,
                    chaos,
                )
            })
            .collect();
        let share = chance.between(0, 10);
        let mut faults = FaultPlan::none();
        for fault in Fault::ALL {
            if chance.below(10) < share {
                let usual = fault.usual();
                // Mostly as usual, now and then far more or far less often.
                let of = match chance.below(6) {
                    0 => usual.of.div_ceil(4).max(2),
                    1 => usual.of * 8,
                    _ => usual.of,
                };
                faults.ratios.insert(*fault, Ratio::new(usual.times, of));
            }
        }
        let mut quota = BTreeMap::new();
        if chance.one_in(3) {
            for offer in config.types.values() {
                let max = u32::try_from(chance.uneven(1, 40)).unwrap_or(1);
                quota.insert(offer.quota_group.clone(), max);
            }
        }
        Self {
            seed,
            profile: None,
            config,
            faults,
            fault_budget: chance.uneven(20, 20 * work_max),
            quota,
            boot_secs: (chance.between(5, 30), chance.between(30, 240)),
            create_millis: if chance.one_in(6) {
                (10_000, 90_000)
            } else {
                (300, 8000)
            },
            pushes: !chance.one_in(4),
            requeues: !loss.one_in(3),
            attempts_max: u32::try_from(chance.between(2, 10)).unwrap_or(2),
            workloads,
            heals_after: Some(chaos),
            tamper: Tamper::default(),
        }
    }

    fn scale(seed: u64, chance: &mut Chance) -> Self {
        let bursts = Pattern::Bursty {
            gap: Duration::from_secs(30),
            size: 5000,
        };
        let mut plan = Self::large(seed, chance, 10_000, bursts, (300, 1800));
        plan.config.limits.cloud_ops = Rate::per_second(100);
        plan.heals_after = Some(Duration::from_secs(2 * HOUR));
        plan
    }

    /// As much at a time as 1,000 VMs hold: 10,000 containers, each of which runs for two hours or so.
    fn day(seed: u64, chance: &mut Chance) -> Self {
        let flow = Pattern::Steady {
            gap: Duration::from_millis(8500),
        };
        let mut plan = Self::large(seed, chance, 1000, flow, (4096, 16_383));
        plan.heals_after = Some(Duration::from_secs(24 * HOUR));
        plan
    }

    /// A mostly healthy world with so many VMs, and ten times as many containers of twenty shapes.
    fn large(
        seed: u64,
        chance: &mut Chance,
        vms: u32,
        pattern: Pattern,
        run_secs: (u64, u64),
    ) -> Self {
        let mut plan = Self::calm(seed);
        plan.config.limits.instances = Some(vms);
        // A hint for each change would have the queue read all the time.
        plan.pushes = false;
        plan.config.limits.containers_per_instance = Some(1);
        for fault in [Fault::Vanishes, Fault::CreateFails, Fault::StartAnswerLost] {
            plan.faults.ratios.insert(fault, Ratio::new(1, 500));
        }
        plan.fault_budget = u64::from(vms);
        plan.workloads = vec![Workload {
            pattern,
            left: vms * 10,
            demands: (0..20).map(|_| small_demand(chance)).collect(),
            run_secs,
            priorities: 1000,
        }];
        plan
    }

    /// What was drawn, in a line.
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
            self.heals_after
        )
    }

    /// By when a healed world must be at rest that has this much work left, of so many containers:
    /// four fifths of the time in which all of it is done one after the other and every wait that the
    /// configuration allows passes twice. Some three times as long as the slowest of thousands takes.
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

/// An instance type with the usual proportions.
#[must_use]
pub(crate) fn offer(vcpus: u32, cents: u64, spot: bool) -> InstanceType {
    InstanceType {
        cloud: CloudId(0),
        provider_type: format!("p{vcpus}"),
        resources: Resources {
            vcpus,
            ram: u64::from(vcpus) * 4096 * MIB,
            scratch: u64::from(vcpus) << 36,
            gpus: 0,
        },
        added_scratch: 0,
        gpus: None,
        price: MicroDollars(cents * 10_000),
        preemptible: spot,
        quota_group: QuotaGroup::from(if spot { "standard.spot" } else { "standard" }),
    }
}

fn calm_types() -> BTreeMap<TypeName, InstanceType> {
    [
        ("small", offer(1, 10, false)),
        ("medium", offer(2, 20, false)),
        ("large", offer(4, 40, false)),
        ("huge", offer(8, 80, false)),
        ("spot", offer(4, 12, true)),
    ]
    .into_iter()
    .map(|(name, offer)| (TypeName::from(name), offer))
    .collect()
}

fn small_demand(chance: &mut Chance) -> Demand {
    Demand {
        vcpus: u32::try_from(chance.between(0, 2)).unwrap_or(1),
        ram: chance.between(64, 2000) * MIB,
        ..Demand::default()
    }
}

/// Limits of what is spent and of how much runs. A budget always lets one VM run on and on.
fn draw_thrift(chance: &mut Chance, config: &mut Config) {
    let prices = config.types.values().map(|offer| offer.price.0);
    let dearest = prices.max().unwrap_or_default();
    let limits = &mut config.limits;
    if chance.one_in(4) {
        for _ in 0..chance.between(1, 2) {
            let window = chance.secs(600, 7200);
            let one = MicroDollars(dearest).for_nanos(1_000_000_000 * window.as_secs());
            let limit = MicroDollars(one.0 * chance.between(12, 60) / 10);
            limits.budgets.push(Budget { window, limit });
        }
    }
    limits.supervisor_fraction_ppm = match chance.below(4) {
        0 => None,
        1 => Some(500_000),
        _ => Some(chance.between(1, 100) * 10_000),
    };
    if chance.one_in(4) {
        limits.initial_quota = u32::try_from(chance.between(1, 20)).ok();
    }
    if chance.one_in(5) {
        config.timeouts.scheduling = Some(chance.secs(1200, 7200));
    }
}

fn draw_config(chance: &mut Chance) -> Config {
    let mut types = BTreeMap::new();
    for number in 0..chance.between(1, 6) {
        let vcpus = 1 << chance.below(5);
        let spot = number > 0 && chance.one_in(4);
        let cents = u64::from(vcpus) * chance.between(5, 15);
        let mut offer = offer(vcpus, cents, spot);
        if chance.one_in(4) {
            offer.quota_group = QuotaGroup::from("other");
        }
        types.insert(TypeName::from(format!("type{number}").as_str()), offer);
    }
    let rate = |chance: &mut Chance| match chance.below(3) {
        0 => None,
        _ => Rate::per_second(u32::try_from(chance.between(1, 10)).unwrap_or(1)),
    };
    let some = |chance: &mut Chance, low, high| {
        let number = u32::try_from(chance.uneven(low, high)).ok();
        number.filter(|_| !chance.one_in(2))
    };
    let limits = Limits {
        instances: Some(u32::try_from(chance.uneven(1, 64)).unwrap_or(1)),
        creates_in_flight: some(chance, 1, 8),
        containers_per_instance: some(chance, 1, 8),
        probes: None,
        creates: rate(chance),
        destroys: rate(chance),
        lists: rate(chance),
        cloud_ops: rate(chance),
        price_per_hour: chance
            .one_in(4)
            .then(|| MicroDollars(chance.between(3, 20) * 1_000_000)),
        queued_per_poll: u32::try_from(chance.uneven(1, 10_000)).unwrap_or(1),
        ..Limits::default()
    };
    let timeouts = Timeouts {
        idle: chance.secs(5, 300),
        booting: chance.secs(400, 900),
        probe: chance.secs(60, 900),
        term: chance.secs(5, 180),
        stale_run_lock: chance.secs(1, 60),
        unkillable: chance.secs(60, 3600),
        ..Timeouts::default()
    };
    Config {
        types,
        image: ImageId::from("image-1"),
        limits,
        timeouts,
        kill_reaches_tree: !chance.one_in(3),
        ..Config::default()
    }
}

/// How VMs that do not boot, or are taken back, are dealt with: a stream of its own.
fn draw_loss(chance: &mut Chance, config: &mut Config) {
    let failures = u32::try_from(chance.between(1, 5)).ok();
    config.limits.boot_failures = failures.filter(|_| !chance.one_in(4));
    if chance.one_in(4) {
        for offer in config.types.values_mut() {
            offer.preemptible |= !chance.one_in(3);
        }
    }
    let interruptions = u32::try_from(chance.between(1, 3)).ok();
    let after = chance.secs(30, 1200);
    config.sizing.spot_fallback = SpotFallback {
        interruptions: interruptions.filter(|_| chance.one_in(2)),
        after: Some(after).filter(|_| chance.one_in(2)),
    };
}

fn draw_workload(chance: &mut Chance, config: &Config, total: u32, chaos: Duration) -> Workload {
    let demand = |chance: &mut Chance| {
        let mut demand = small_demand(chance);
        let offers: Vec<&InstanceType> = config.types.values().collect();
        if let Some(offer) = chance.pick(&offers) {
            demand.preemptible = offer.preemptible;
            demand.vcpus = demand.vcpus.min(offer.resources.vcpus);
            if chance.one_in(8) {
                demand.vm_image = Some(ImageId::from("image-2"));
            }
            if chance.one_in(2) {
                let whole = u64::from(offer.resources.vcpus);
                demand.vcpus = u32::try_from(chance.between(1, whole)).unwrap_or(1);
                demand.ram = demand.ram.min(offer.resources.ram / 3);
            }
        }
        demand
    };
    let demands: Vec<Demand> = (0..chance.between(1, 6)).map(|_| demand(chance)).collect();
    let size = u32::try_from(chance.uneven(2, u64::from(total.max(2)))).unwrap_or(2);
    let gap = chaos / total.max(1);
    let burst = gap * size.min(1000);
    let pattern = match chance.below(8) {
        0 | 1 => Pattern::Steady { gap },
        2 | 3 => Pattern::Bursty { gap: burst, size },
        4 => Pattern::Churn { gap },
        5 => Pattern::Storm { gap: burst, size },
        _ => Pattern::Workflow {
            gap: gap * size.min(20),
            children: size.min(20),
        },
    };
    Workload {
        pattern,
        left: total,
        demands,
        run_secs: (1, chance.uneven(10, 3600)),
        priorities: chance.between(1, 1000),
    }
}
