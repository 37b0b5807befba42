//! Changes of a plan by tests before the run: different faults, limits or workload, or a hook on
//! the core.

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
    /// Applies `hook` to every dispatcher before the first input: a test injects a bug with `hook`
    /// and checks that the run detects the bug.
    #[must_use]
    pub fn with_core_hook(
        mut self,
        hook: impl Fn(&mut Dispatcher) + Send + Sync + 'static,
    ) -> Self {
        self.core_hook = OptionalHook(Some(Arc::new(hook)));
        self
    }

    /// Adds faults, at twice the usual rate.
    #[must_use]
    pub fn with_faults(mut self, faults: &[Fault]) -> Self {
        for fault in faults {
            let usual = fault.usual();
            let ratio = Ratio::new(usual.times, usual.of.div_ceil(2).max(2));
            self.faults.ratios.insert(*fault, ratio);
        }
        self
    }

    /// Limits the total hourly price of all instances to the price of `count` instances of the most
    /// expensive type.
    #[must_use]
    pub fn with_money_for(mut self, count: u64) -> Self {
        let prices = self.config.types.values().map(|offer| offer.price.0);
        let dearest = prices.max().unwrap_or_default();
        self.config.limits.price_per_hour = Some(MicroDollars(dearest * count));
        self
    }

    /// Limits spending within half an hour to the cost of ten minutes of the most expensive type.
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

    /// Limits the rate of create requests.
    #[must_use]
    pub fn with_create_rate(mut self, rate: Rate) -> Self {
        self.config.limits.creates = Some(rate);
        self
    }

    /// Limits the rate of probes.
    #[must_use]
    pub fn with_probe_rate(mut self, rate: Rate) -> Self {
        self.config.limits.probes = Some(rate);
        self
    }

    /// Makes every instance type and all work preemptible.
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

    /// Backs off an instance type after `max` consecutive boot failures.
    #[must_use]
    pub fn with_boot_failures(mut self, max: u32) -> Self {
        self.config.limits.boot_failures = Some(max);
        self
    }

    /// Requests a VM image other than the configured image for half of the work.
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
