//! What a test does to a plan before it runs: other weather, other wishes, or a hand on the core.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use longshore_core::Dispatcher;
use longshore_core::config::{Budget, Rate};
use longshore_core::ids::ImageId;
use longshore_core::resources::{Demand, MicroDollars};

use crate::chance::Ratio;
use crate::faults::Fault;
use crate::profile::Plan;

/// What is done to each dispatcher of a run before it hears anything.
pub type Hand = dyn Fn(&mut Dispatcher) + Send + Sync;

/// Something that is done to each dispatcher of a run before it hears anything.
#[derive(Clone, Default)]
pub(crate) struct Tamper(Option<Arc<Hand>>);

impl Tamper {
    pub(crate) fn apply(&self, core: &mut Dispatcher) {
        if let Some(hand) = &self.0 {
            hand(core);
        }
    }
}

impl fmt::Debug for Tamper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "tampered"
        } else {
            "as is"
        })
    }
}

impl PartialEq for Tamper {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(one), Some(two)) => Arc::ptr_eq(one, two),
            _ => false,
        }
    }
}

impl Eq for Tamper {}

impl Plan {
    /// The same, but `hand` is laid on every dispatcher before it hears anything: so a test plants
    /// a bug, and sees whether the run notices.
    #[must_use]
    pub fn tampered(mut self, hand: impl Fn(&mut Dispatcher) + Send + Sync + 'static) -> Self {
        self.tamper = Tamper(Some(Arc::new(hand)));
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
