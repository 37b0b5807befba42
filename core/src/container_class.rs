//! Container classes: resources, and eligible instance types.

use serde::{Deserialize, Serialize};

use crate::config::{Config, InstanceType, Sizing};
use crate::ids::{ImageId, TypeName};
use crate::resources::{Demand, GpuDemand, MIB, MicroDollars, Resources};

/// Properties of containers relevant to placement: containers of a class are interchangeable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ContainerClass {
    /// Resources taken from an instance; `vcpus` is 0 for containers sharing a core.
    pub(crate) need: Resources,
    pub(crate) gpu: Option<GpuDemand>,
    pub(crate) preemptible: bool,
    /// True for a supervisor, which waits for other containers; limited in number.
    pub(crate) supervisor: bool,
    /// Required boot image of the instance.
    pub(crate) image: ImageId,
}

/// Sentence for the owner of a container that no configured type can hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Misfit(pub(crate) String);

/// Kind of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResourceKind {
    /// Cores.
    Vcpus,
    /// Memory, in bytes.
    Ram,
    /// Disk, in bytes.
    Scratch,
    /// Graphics processors.
    Gpus,
}

impl ResourceKind {
    /// Name for people and for labels.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vcpus => "vcpus",
            Self::Ram => "ram",
            Self::Scratch => "scratch",
            Self::Gpus => "gpus",
        }
    }
}

/// Reason of an instance type against a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shortfall {
    /// Preemptible for a non-preemptible container, or the reverse.
    Lifecycle {
        /// True for a preemptible type.
        preemptible: bool,
    },
    /// Too little of a resource.
    Resource {
        /// Kind of the resource.
        of: ResourceKind,
        /// Demand of the container, headroom included.
        need: u64,
        /// Amount offered by the type.
        have: u64,
    },
    /// Unsuitable kind of graphics processors.
    Gpu,
    /// Preemptible, for a container interrupted too often.
    Interrupted,
    /// More expensive than `MaximumPriceFactor` times the cheapest eligible type.
    Price {
        /// Price per hour of the type.
        price: MicroDollars,
        /// Price per hour of the cheapest eligible type.
        cheapest: MicroDollars,
    },
}

impl std::fmt::Display for Shortfall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lifecycle { preemptible: true } => f.write_str("it is preemptible"),
            Self::Lifecycle { preemptible: false } => f.write_str("it is not preemptible"),
            Self::Resource { of, need, have } => {
                write!(f, "{} {need} needed, {have} offered", of.name())
            }
            Self::Gpu => f.write_str("its GPU does not suit"),
            Self::Interrupted => {
                f.write_str("it is preemptible, after too many interruptions (SpotFallback)")
            }
            Self::Price { price, cheapest } => write!(
                f,
                "it costs {price} an hour, more than MaximumPriceFactor times {cheapest}"
            ),
        }
    }
}

/// Configured type not eligible for a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IneligibleType {
    /// Configured type.
    pub instance_type: TypeName,
    /// Reasons; never empty.
    #[serde(alias = "lacks")]
    pub shortfalls: Vec<Shortfall>,
}

impl ContainerClass {
    pub(crate) fn of(demand: &Demand, config: &Config) -> Self {
        Self {
            need: need(demand, &config.sizing),
            gpu: demand.gpu.clone(),
            preemptible: demand.preemptible,
            supervisor: demand.supervisor,
            image: demand.vm_image.clone().unwrap_or(config.image.clone()),
        }
    }

    /// Eligible types, cheapest first, up to the price factor times the cheapest. O(types · log
    /// types): computed once for each class and configuration.
    pub(crate) fn eligible(&self, config: &Config) -> Result<Vec<TypeName>, Misfit> {
        let mut fitting: Vec<_> = config
            .types
            .iter()
            .filter(|(_, offer)| {
                offer.preemptible == self.preemptible
                    && offer.resources.holds(&self.alone())
                    && suits(offer.gpus.as_ref(), self.gpu.as_ref())
            })
            .collect();
        fitting.sort_by(|(a_name, a), (b_name, b)| {
            let roomier_first = (b.resources.ram, b.resources.vcpus, b.resources.scratch).cmp(&(
                a.resources.ram,
                a.resources.vcpus,
                a.resources.scratch,
            ));
            a.price
                .cmp(&b.price)
                .then(roomier_first)
                .then(a_name.cmp(b_name))
        });
        let Some((_, cheapest)) = fitting.first() else {
            return Err(self.misfit(config));
        };
        let factor = u128::from(config.sizing.max_price_factor_ppm.max(1_000_000));
        let bound = u128::from(cheapest.price.0) * factor;
        Ok(fitting
            .into_iter()
            .take_while(|(_, offer)| u128::from(offer.price.0) * 1_000_000 <= bound)
            .map(|(name, _)| name.clone())
            .collect())
    }

    /// Eligible types of the same class without preemption, cheapest first; empty for a
    /// non-preemptible class.
    pub(crate) fn on_demand(&self, config: &Config) -> Vec<TypeName> {
        let other = Self {
            preemptible: false,
            ..self.clone()
        };
        let types = self.preemptible.then(|| other.eligible(config));
        types.and_then(Result::ok).unwrap_or_default()
    }

    /// Resources taken by a container alone on an instance.
    pub(crate) fn alone(&self) -> Resources {
        let mut need = self.need;
        need.vcpus = need.vcpus.max(1);
        need
    }

    /// Sentence about the nearest type and the missing resources.
    fn misfit(&self, config: &Config) -> Misfit {
        if config.types.is_empty() {
            return Misfit("no instance types are configured".into());
        }
        let nearest = config
            .types
            .iter()
            .map(|(name, offer)| (self.shortfalls(offer), offer.price, name))
            .min_by_key(|(shortfalls, price, _)| (shortfalls.len(), std::cmp::Reverse(*price)));
        let (shortfalls, _, name) = nearest.expect("at least one type is configured");
        let shortfalls: Vec<String> = shortfalls.iter().map(ToString::to_string).collect();
        Misfit(format!(
            "constraints not satisfiable by any configured instance type: \
             nearest is {name}, but {}",
            shortfalls.join(", ")
        ))
    }

    /// All reasons of a type against the class; empty for a suitable type.
    fn shortfalls(&self, offer: &InstanceType) -> Vec<Shortfall> {
        let mut shortfalls = self.size_shortfalls(offer);
        if offer.preemptible != self.preemptible {
            let preemptible = offer.preemptible;
            shortfalls.insert(0, Shortfall::Lifecycle { preemptible });
        }
        shortfalls
    }

    fn size_shortfalls(&self, offer: &InstanceType) -> Vec<Shortfall> {
        let (need, have) = (self.alone(), offer.resources);
        let mut shortfalls = Vec::new();
        let mut amount = |of, need: u64, have: u64| {
            if need > have {
                shortfalls.push(Shortfall::Resource { of, need, have });
            }
        };
        amount(ResourceKind::Vcpus, need.vcpus.into(), have.vcpus.into());
        amount(ResourceKind::Ram, need.ram, have.ram);
        amount(ResourceKind::Scratch, need.scratch, have.scratch);
        amount(ResourceKind::Gpus, need.gpus.into(), have.gpus.into());
        if !suits(offer.gpus.as_ref(), self.gpu.as_ref()) {
            shortfalls.push(Shortfall::Gpu);
        }
        shortfalls
    }

    /// Configured types outside of `eligible`, with the reasons, nearest first. O(types · log
    /// types): for views.
    pub(crate) fn ruled_out(&self, config: &Config, eligible: &[TypeName]) -> Vec<IneligibleType> {
        let cheapest = eligible.first().and_then(|name| config.types.get(name));
        let fell_back = self.preemptible && cheapest.is_some_and(|offer| !offer.preemptible);
        let others = config.types.iter();
        let others = others.filter(|(name, _)| !eligible.contains(name));
        let mut ruled_out: Vec<IneligibleType> = others
            .map(|(name, offer)| {
                let mut shortfalls = match fell_back {
                    true => self.size_shortfalls(offer),
                    false => self.shortfalls(offer),
                };
                if fell_back && offer.preemptible {
                    shortfalls.insert(0, Shortfall::Interrupted);
                }
                if let (true, Some(cheapest)) = (shortfalls.is_empty(), cheapest) {
                    shortfalls.push(Shortfall::Price {
                        price: offer.price,
                        cheapest: cheapest.price,
                    });
                }
                IneligibleType {
                    instance_type: name.clone(),
                    shortfalls,
                }
            })
            .collect();
        // The sort is stable: types of equal rank stay in name order.
        ruled_out.sort_by_key(|other| {
            let price = config.types.get(&other.instance_type).map(|o| o.price);
            (other.shortfalls.len(), price)
        });
        ruled_out
    }
}

fn suits(have: Option<&crate::resources::Gpus>, need: Option<&GpuDemand>) -> bool {
    need.is_none_or(|need| have.is_some_and(|have| have.suits(need)))
}

/// Resources taken by a container. Memory includes 5 % of headroom for the instance.
fn need(demand: &Demand, sizing: &Sizing) -> Resources {
    let buffers = u64::from(sizing.keep_buffers_per_vcpu);
    let keepstore = if buffers == 0 {
        0
    } else {
        let per_buffer = 64 * MIB * 11 / 10;
        let count = buffers.saturating_mul(u64::from(demand.vcpus));
        (220 * MIB).saturating_add(count.saturating_mul(per_buffer))
    };
    let ram = [demand.keep_cache_ram, sizing.reserve_extra_ram, keepstore]
        .iter()
        .fold(demand.ram, |sum, part| sum.saturating_add(*part));
    let with_headroom = (u128::from(ram) * 100).div_ceil(95);
    let scratch = [demand.image_size, demand.keep_cache_disk]
        .iter()
        .fold(demand.tmp.max(demand.image_size), |sum, part| {
            sum.saturating_add(*part)
        });
    Resources {
        vcpus: demand.vcpus,
        ram: u64::try_from(with_headroom).unwrap_or(u64::MAX),
        scratch,
        gpus: demand.gpu.as_ref().map_or(0, |gpu| gpu.count),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::{CloudId, QuotaGroup};

    fn offer(vcpus: u32, ram_mib: u64, price: u64) -> InstanceType {
        InstanceType {
            cloud: CloudId(0),
            provider_type: String::new(),
            resources: Resources {
                vcpus,
                ram: ram_mib * MIB,
                scratch: 1 << 40,
                gpus: 0,
            },
            added_scratch: 0,
            gpus: None,
            price: MicroDollars(price),
            preemptible: false,
            quota_group: QuotaGroup::from("on-demand"),
        }
    }

    fn config(types: &[(&str, InstanceType)]) -> Config {
        let types = types
            .iter()
            .map(|(name, offer)| (TypeName::from(*name), offer.clone()));
        Config {
            types: types.collect(),
            ..Config::default()
        }
    }

    fn demand(vcpus: u32, ram_mib: u64) -> Demand {
        Demand {
            vcpus,
            ram: ram_mib * MIB,
            ..Demand::default()
        }
    }

    fn names(config: &Config, demand: &Demand) -> Vec<String> {
        let eligible = ContainerClass::of(demand, config).eligible(config).unwrap();
        eligible.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn eligible_types_price_bound_inclusive() {
        let config = config(&[
            ("small", offer(2, 4000, 100)),
            ("roomy", offer(2, 8000, 100)),
            ("edge", offer(4, 8000, 150)),
            ("dear", offer(4, 9000, 151)),
        ]);
        assert_eq!(names(&config, &demand(1, 1000)), ["roomy", "small", "edge"]);
    }

    #[test]
    fn misfit_names_resource_and_nearest_type() {
        let config = config(&[
            ("small", offer(2, 4000, 100)),
            ("big", offer(8, 16000, 400)),
        ]);
        let Misfit(text) = ContainerClass::of(&demand(16, 1000), &config)
            .eligible(&config)
            .unwrap_err();
        assert!(
            text.contains("nearest is big, but vcpus 16 needed, 8 offered"),
            "{text}"
        );
    }

    #[test]
    fn memory_need_includes_overheads() {
        let need = need(&demand(2, 1000), &Sizing::default());
        let keepstore = 220 * MIB + 2 * (64 * MIB * 11 / 10);
        let sum = 1000 * MIB + 550 * MIB + keepstore;
        assert_eq!(need.ram, (sum * 100).div_ceil(95));
    }

    #[test]
    fn huge_demand_saturates() {
        let absurd = Demand {
            vcpus: u32::MAX,
            ram: u64::MAX,
            keep_cache_ram: u64::MAX,
            tmp: u64::MAX,
            image_size: u64::MAX,
            ..Demand::default()
        };
        let config = config(&[("small", offer(2, 4000, 100))]);
        assert!(
            ContainerClass::of(&absurd, &config)
                .eligible(&config)
                .is_err()
        );
    }

    fn any_types() -> impl Strategy<Value = Config> {
        let one = (1u32..16, 1u64..64_000, 1u64..1000);
        proptest::collection::vec(one, 1..12).prop_map(|offers| {
            let named = offers.into_iter().enumerate();
            let named = named.map(|(i, (vcpus, ram, price))| {
                (TypeName::new(format!("t{i}")), offer(vcpus, ram, price))
            });
            Config {
                types: named.collect(),
                ..Config::default()
            }
        })
    }

    proptest! {
        #[test]
        fn eligible_types_fit_and_sorted_by_price(
            config in any_types(), vcpus in 0u32..16, ram in 0u64..40_000,
        ) {
            let class = ContainerClass::of(&demand(vcpus, ram), &config);
            match class.eligible(&config) {
                Ok(names) => {
                    let offers: Vec<_> = names.iter().map(|name| &config.types[name]).collect();
                    prop_assert!(offers.iter().all(|o| o.resources.holds(&class.alone())));
                    prop_assert!(offers.is_sorted_by_key(|o| o.price));
                    let (first, last) = (offers[0].price.0, offers[offers.len() - 1].price.0);
                    prop_assert!(last * 1_000_000 <= first * config.sizing.max_price_factor_ppm);
                    let cheaper = config.types.values().filter(|o| o.price.0 < first);
                    prop_assert!(cheaper.into_iter().all(|o| !o.resources.holds(&class.alone())));
                }
                Err(Misfit(text)) => {
                    prop_assert!(config.types.values().all(|o| !o.resources.holds(&class.alone())));
                    prop_assert!(text.contains("nearest is"));
                }
            }
        }
    }
}
