//! What a test does to a plan before it runs: other weather, other wishes, or a hand on the core.

use std::sync::Arc;
use std::time::Duration;

use longshore_core::Dispatcher;
use longshore_core::config::{Budget, Rate};
use longshore_core::ids::ImageId;
use longshore_core::resources::{Demand, MicroDollars};

use crate::world::core_hook::OptionalHook;
use crate::world::faults::Fault;
use crate::world::plan::Plan;
use crate::world::rng::Ratio;

impl Plan {
    /// The same, but `hand` is laid on every dispatcher before it hears anything: so a test plants
    /// a bug, and sees whether the run notices.
    #[must_use]
    pub fn with_core_hook(
        mut self,
        hook: impl Fn(&mut Dispatcher) + Send + Sync + 'static,
    ) -> Self {
        self.core_hook = OptionalHook(Some(Arc::new(hook)));
        self
    }

    /// The same, but these faults are part of the weather, twice as often as usual.
    #[must_use]
    pub fn with_faults(mut self, faults: &[Fault]) -> Self {
        for fault in faults {
            let usual = fault.usual();
            let ratio = Ratio::new(usual.times, usual.of.div_ceil(2).max(2));
            self.faults.ratios.insert(*fault, ratio);
        }
        self
    }

    /// The same, but all instances together may cost no more than this many of the dearest type.
    #[must_use]
    pub fn with_money_for(mut self, count: u64) -> Self {
        let prices = self.config.types.values().map(|offer| offer.price.0);
        let dearest = prices.max().unwrap_or_default();
        self.config.limits.price_per_hour = Some(MicroDollars(dearest * count));
        self
    }

    /// The same, but within half an hour no more may be spent than the dearest type costs in ten
    /// minutes.
    #[must_use]
    pub fn with_small_budget(mut self) -> Self {
        let prices = self.config.types.values().map(|offer| offer.price);
        let limit = prices.max().unwrap_or_default();
        self.config.limits.budgets = vec![Budget {
            window: Duration::from_secs(1800),
            limit: limit.for_nanos(600 * 1_000_000_000),
        }];
        self
    }

    /// The same, but creates are as rare as this.
    #[must_use]
    pub fn with_create_rate(mut self, rate: Rate) -> Self {
        self.config.limits.creates = Some(rate);
        self
    }

    /// The same, but probes are as rare as this.
    #[must_use]
    pub fn with_probe_rate(mut self, rate: Rate) -> Self {
        self.config.limits.probes = Some(rate);
        self
    }

    /// The same, but every type is preemptible, and so is all work.
    #[must_use]
    pub fn with_preemptible_types(mut self) -> Self {
        for offer in self.config.types.values_mut() {
            offer.preemptible = true;
        }
        let demands = self.workloads.iter_mut().flat_map(|w| &mut w.demands);
        for demand in demands {
            demand.preemptible = true;
        }
        self
    }

    /// The same, but what failed to boot so often in a row rests.
    #[must_use]
    pub fn with_boot_failures(mut self, max: u32) -> Self {
        self.config.limits.boot_failures = Some(max);
        self
    }

    /// The same, but half of the work asks for VMs of another image than the configured one.
    #[must_use]
    pub fn with_images(mut self) -> Self {
        for workload in &mut self.workloads {
            let other = workload.demands.iter().map(|demand| Demand {
                vm_image: Some(ImageId::from("image-2")),
                ..demand.clone()
            });
            let other: Vec<Demand> = other.collect();
            workload.demands.extend(other);
        }
        self
    }
}
