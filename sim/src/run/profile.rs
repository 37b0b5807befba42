//! Generation of a plan from a seed, by the rules of a profile.

use std::collections::BTreeMap;
use std::time::Duration;

use longshore_core::config::{Budget, Config, InstanceType, Limits, Rate, SpotFallback, Timeouts};
use longshore_core::ids::{CloudId, ImageId, QuotaGroup, TypeName};
use longshore_core::resources::{Demand, MIB, MicroDollars, Resources};

use crate::world::core_hook::OptionalHook;
use crate::world::draw_config::draw_settings;
use crate::world::faults::{Fault, FaultPlan};
use crate::world::plan::{Plan, Profile};
use crate::world::rng::{Ratio, Rng};
use crate::world::workload::{Arrival, Pattern, Workload};

const HOUR: u64 = 3600;
impl Plan {
    /// Generates the plan of a seed.
    #[must_use]
    pub fn generate(seed: u64, profile: Profile) -> Self {
        let mut rng = Rng::new(seed, "plan");
        let drawn = match profile {
            Profile::Lite => Self::swarm(seed, &mut rng, 30, (10 * 60, HOUR)),
            Profile::Swarm => Self::swarm(seed, &mut rng, 1500, (10 * 60, 8 * HOUR)),
            Profile::Soak => {
                let mut plan = Self::swarm(seed, &mut rng, 20_000, (720 * HOUR, 720 * HOUR));
                for workload in &mut plan.workloads {
                    workload.pattern = Pattern::Steady {
                        gap: Duration::from_secs(720 * HOUR) / workload.left.max(1),
                    };
                }
                plan
            }
            Profile::Scale => Self::scale(seed, &mut rng),
            Profile::Day => Self::day(seed, &mut rng),
        };
        Self {
            profile: Some(profile),
            ..drawn
        }
    }

    /// Replaces the generated workload by a given workload. Faults continue at least until the last
    /// submission.
    #[must_use]
    pub fn with_workload(mut self, arrivals: &[Arrival]) -> Self {
        let last = arrivals.iter().map(|arrival| arrival.at).max();
        let last = last.unwrap_or_default() + Duration::from_secs(60);
        self.workloads = vec![Workload::recorded(arrivals)];
        self.faults_stop_after = self.faults_stop_after.map(|after| after.max(last));
        self
    }

    /// Plan of a healthy world without work, for stories.
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
            faults_stop_after: None,
            core_hook: OptionalHook::default(),
        }
    }

    fn swarm(seed: u64, rng: &mut Rng, work_max: u64, chaos_secs: (u64, u64)) -> Self {
        let mut config = draw_config(rng);
        let mut loss = Rng::new(seed, "loss");
        draw_loss(&mut loss, &mut config);
        draw_thrift(&mut Rng::new(seed, "thrift"), &mut config);
        draw_settings(seed, &mut config);
        let total = u32::try_from(rng.uneven(3, work_max)).unwrap_or(3);
        let chaos = rng.secs(chaos_secs.0, chaos_secs.1);
        let count = rng.between(1, 3);
        let workloads = (0..count)
            .map(|_| {
                draw_workload(
                    rng,
                    &config,
                    total / u32::try_from(count).unwrap_or(1) + 1,
                    chaos,
                )
            })
            .collect();
        let share = rng.between(0, 10);
        let mut faults = FaultPlan::none();
        for fault in Fault::ALL {
            if rng.below(10) < share {
                let usual = fault.usual();
                // Most faults have the usual rate; a few are far more or far less frequent.
                let of = match rng.below(6) {
                    0 => usual.of.div_ceil(4).max(2),
                    1 => usual.of * 8,
                    _ => usual.of,
                };
                faults.ratios.insert(*fault, Ratio::new(usual.times, of));
            }
        }
        let mut quota = BTreeMap::new();
        if rng.one_in(3) {
            for offer in config.types.values() {
                let max = u32::try_from(rng.uneven(1, 40)).unwrap_or(1);
                quota.insert(offer.quota_group.clone(), max);
            }
        }
        Self {
            seed,
            profile: None,
            config,
            faults,
            fault_budget: rng.uneven(20, 20 * work_max),
            quota,
            boot_secs: (rng.between(5, 30), rng.between(30, 240)),
            create_millis: if rng.one_in(6) {
                (10_000, 90_000)
            } else {
                (300, 8000)
            },
            pushes: !rng.one_in(4),
            requeues: !loss.one_in(3),
            attempts_max: u32::try_from(rng.between(2, 10)).unwrap_or(2),
            workloads,
            faults_stop_after: Some(chaos),
            core_hook: OptionalHook::default(),
        }
    }

    fn scale(seed: u64, rng: &mut Rng) -> Self {
        let bursts = Pattern::Bursty {
            gap: Duration::from_secs(30),
            size: 5000,
        };
        let mut plan = Self::large(seed, rng, 10_000, bursts, (300, 1800));
        plan.config.limits.cloud_ops = Rate::per_second(100);
        plan.faults_stop_after = Some(Duration::from_secs(2 * HOUR));
        plan
    }

    /// Plan of a day at the capacity of 1,000 VMs: 10,000 containers, each with a run time of about
    /// two hours.
    fn day(seed: u64, rng: &mut Rng) -> Self {
        let flow = Pattern::Steady {
            gap: Duration::from_millis(8500),
        };
        let mut plan = Self::large(seed, rng, 1000, flow, (4096, 16_383));
        plan.faults_stop_after = Some(Duration::from_secs(24 * HOUR));
        plan
    }

    /// Plan of a mostly healthy world with `vms` VMs and ten containers of twenty shapes per VM.
    fn large(seed: u64, rng: &mut Rng, vms: u32, pattern: Pattern, run_secs: (u64, u64)) -> Self {
        let mut plan = Self::calm(seed);
        plan.config.limits.instances = Some(vms);
        // A hint after each change would make the dispatcher poll the queue all the time.
        plan.pushes = false;
        plan.config.limits.containers_per_instance = Some(1);
        for fault in [Fault::Vanishes, Fault::CreateFails, Fault::StartAnswerLost] {
            plan.faults.ratios.insert(fault, Ratio::new(1, 500));
        }
        plan.fault_budget = u64::from(vms);
        plan.workloads = vec![Workload {
            pattern,
            left: vms * 10,
            demands: (0..20).map(|_| small_demand(rng)).collect(),
            run_secs,
            priorities: 1000,
        }];
        plan
    }
}

/// Instance type with the usual proportions of memory, disk and price to cores.
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

fn small_demand(rng: &mut Rng) -> Demand {
    Demand {
        vcpus: u32::try_from(rng.between(0, 2)).unwrap_or(1),
        ram: rng.between(64, 2000) * MIB,
        ..Demand::default()
    }
}

/// Draws limits on spending and on the number of running containers. Every budget is large enough
/// for one VM to run without interruption.
fn draw_thrift(rng: &mut Rng, config: &mut Config) {
    let prices = config.types.values().map(|offer| offer.price.0);
    let dearest = prices.max().unwrap_or_default();
    let limits = &mut config.limits;
    if rng.one_in(4) {
        for _ in 0..rng.between(1, 2) {
            let window = rng.secs(600, 7200);
            let one = MicroDollars(dearest).for_nanos(1_000_000_000 * window.as_secs());
            let limit = MicroDollars(one.0 * rng.between(12, 60) / 10);
            limits.budgets.push(Budget { window, limit });
        }
    }
    limits.supervisor_fraction_ppm = match rng.below(4) {
        0 => None,
        1 => Some(500_000),
        _ => Some(rng.between(1, 100) * 10_000),
    };
    if rng.one_in(4) {
        limits.initial_quota = u32::try_from(rng.between(1, 20)).ok();
    }
    if rng.one_in(5) {
        config.timeouts.scheduling = Some(rng.secs(1200, 7200));
    }
}

fn draw_config(rng: &mut Rng) -> Config {
    let mut types = BTreeMap::new();
    for number in 0..rng.between(1, 6) {
        let vcpus = 1 << rng.below(5);
        let spot = number > 0 && rng.one_in(4);
        let cents = u64::from(vcpus) * rng.between(5, 15);
        let mut offer = offer(vcpus, cents, spot);
        if rng.one_in(4) {
            offer.quota_group = QuotaGroup::from("other");
        }
        types.insert(TypeName::from(format!("type{number}").as_str()), offer);
    }
    let rate = |rng: &mut Rng| match rng.below(3) {
        0 => None,
        _ => Rate::per_second(u32::try_from(rng.between(1, 10)).unwrap_or(1)),
    };
    let some = |rng: &mut Rng, low, high| {
        let number = u32::try_from(rng.uneven(low, high)).ok();
        number.filter(|_| !rng.one_in(2))
    };
    let limits = Limits {
        instances: Some(u32::try_from(rng.uneven(1, 64)).unwrap_or(1)),
        creates_in_flight: some(rng, 1, 8),
        containers_per_instance: some(rng, 1, 8),
        probes: None,
        creates: rate(rng),
        destroys: rate(rng),
        lists: rate(rng),
        cloud_ops: rate(rng),
        price_per_hour: rng
            .one_in(4)
            .then(|| MicroDollars(rng.between(3, 20) * 1_000_000)),
        queued_per_poll: u32::try_from(rng.uneven(1, 10_000)).unwrap_or(1),
        ..Limits::default()
    };
    let timeouts = Timeouts {
        idle: rng.secs(5, 300),
        booting: rng.secs(400, 900),
        probe: rng.secs(60, 900),
        term: rng.secs(5, 180),
        stale_run_lock: rng.secs(1, 60),
        unkillable: rng.secs(60, 3600),
        ..Timeouts::default()
    };
    Config {
        types,
        image: ImageId::from("image-1"),
        limits,
        timeouts,
        kill_reaches_tree: !rng.one_in(3),
        ..Config::default()
    }
}

/// Draws the settings for VMs with failed boots and for preempted VMs, from a separate random
/// stream.
fn draw_loss(rng: &mut Rng, config: &mut Config) {
    let failures = u32::try_from(rng.between(1, 5)).ok();
    config.limits.boot_failures = failures.filter(|_| !rng.one_in(4));
    if rng.one_in(4) {
        for offer in config.types.values_mut() {
            offer.preemptible |= !rng.one_in(3);
        }
    }
    let interruptions = u32::try_from(rng.between(1, 3)).ok();
    let after = rng.secs(30, 1200);
    config.sizing.spot_fallback = SpotFallback {
        interruptions: interruptions.filter(|_| rng.one_in(2)),
        after: Some(after).filter(|_| rng.one_in(2)),
    };
}

fn draw_workload(rng: &mut Rng, config: &Config, total: u32, chaos: Duration) -> Workload {
    let demand = |rng: &mut Rng| {
        let mut demand = small_demand(rng);
        let offers: Vec<&InstanceType> = config.types.values().collect();
        if let Some(offer) = rng.pick(&offers) {
            demand.preemptible = offer.preemptible;
            demand.vcpus = demand.vcpus.min(offer.resources.vcpus);
            if rng.one_in(8) {
                demand.vm_image = Some(ImageId::from("image-2"));
            }
            if rng.one_in(2) {
                let whole = u64::from(offer.resources.vcpus);
                demand.vcpus = u32::try_from(rng.between(1, whole)).unwrap_or(1);
                demand.ram = demand.ram.min(offer.resources.ram / 3);
            }
        }
        demand
    };
    let demands: Vec<Demand> = (0..rng.between(1, 6)).map(|_| demand(rng)).collect();
    let size = u32::try_from(rng.uneven(2, u64::from(total.max(2)))).unwrap_or(2);
    let gap = chaos / total.max(1);
    let burst = gap * size.min(1000);
    let pattern = match rng.below(8) {
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
        run_secs: (1, rng.uneven(10, 3600)),
        priorities: rng.between(1, 1000),
    }
}
