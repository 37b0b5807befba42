//! May we ask the cloud for this now? Limits of our own, and what the cloud refused lately.

pub(crate) mod boots;
pub(crate) mod bucket;
pub(crate) mod cooling;
pub(crate) mod crowd;
pub(crate) mod spending;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{Config, InstanceType, Limits, Rate};
use crate::fleet::Fleet;
use crate::ids::{CloudId, ImageId, QuotaGroup, TypeName, VmKey};
use crate::input::{CapacityScope, CloudError};
use crate::planted::{Planted, Plants};
use crate::resources::MicroDollars;
use crate::time::Timestamp;
use boots::Boots;
use bucket::Bucket;
use cooling::{Cooling, Pauses, Readiness};
use crowd::Crowd;
use spending::Spending;

/// Why no instance of a type is created now.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Blocked {
    /// `MaxInstances` exist, wishes counted.
    MaxInstances,
    /// One more would pass `MaxPricePerHour`.
    MaxPricePerHour,
    /// One of `Budgets` is used up.
    Budget {
        /// Its span of time.
        window: Duration,
        /// Its amount.
        limit: MicroDollars,
        /// When there is room again at the latest, should nothing end before; absent if what runs
        /// now uses it up for good.
        until: Option<Timestamp>,
    },
    /// So many containers run already as the queue can bear, or as `InitialQuotaEstimate` says.
    Containers {
        /// How many may run now.
        max: u32,
        /// When it will be more, should the queue not be overloaded again.
        until: Option<Timestamp>,
    },
    /// So many supervisors run already as `SupervisorFraction` allows.
    Supervisors {
        /// How many may run now.
        max: u32,
    },
    /// The account's quota for this type's group is used up.
    Quota {
        /// When it is tried again, unless an instance of the group ends before.
        until: Timestamp,
        /// The cloud's words.
        why: String,
    },
    /// The cloud had no capacity for it, or failed to create it.
    Cooling {
        /// When it is tried again.
        until: Timestamp,
        /// The cloud's words.
        why: String,
    },
    /// Its last boots with the container's image all failed.
    BootsFail {
        /// When one is tried again.
        until: Timestamp,
        /// How many in a row.
        failures: u32,
        /// The last complaint.
        why: String,
    },
    /// One create or boot after such a pause is under way, and decides.
    Canary,
    /// `MaxConcurrentInstanceCreateOps` are under way, or one is while an error of a quota or a rate
    /// is recent.
    CreatesInFlight,
    /// A rate limit, ours or the cloud's.
    Rate {
        /// When there is room again.
        until: Timestamp,
    },
}

impl Blocked {
    /// When it ends by itself, if a time is known.
    #[must_use]
    pub fn until(&self) -> Option<Timestamp> {
        match self {
            Self::Quota { until, .. }
            | Self::Cooling { until, .. }
            | Self::BootsFail { until, .. }
            | Self::Rate { until } => Some(*until),
            Self::Budget { until, .. } | Self::Containers { until, .. } => *until,
            _ => None,
        }
    }

    /// Whether it is no matter of seconds: what waits for its end waits for a VM that exists.
    pub(crate) fn lasts(&self) -> bool {
        self.room_helps()
            || matches!(
                self,
                Self::Cooling { .. } | Self::BootsFail { .. } | Self::Budget { .. }
            )
    }

    /// What would end it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::MaxInstances => "the end of an instance, or a higher MaxInstances",
            Self::MaxPricePerHour => "the end of an instance, or a higher MaxPricePerHour",
            Self::Quota { .. } => "the end of an instance that counts against it, or the next try",
            Self::Canary => "the answer to the create that tries it again",
            Self::CreatesInFlight => "the answers to creates under way",
            _ => "the next try",
        }
    }

    /// Whether giving back an idle instance could help.
    pub(crate) fn room_helps(&self) -> bool {
        matches!(
            self,
            Self::MaxInstances | Self::MaxPricePerHour | Self::Quota { .. }
        )
    }

    /// Whether it is the world that stands in the way, rather than a limit of the operator's own.
    pub(crate) fn is_the_worlds(&self) -> bool {
        matches!(
            self,
            Self::Quota { .. } | Self::Cooling { .. } | Self::BootsFail { .. } | Self::Canary
        )
    }
}

impl std::fmt::Display for Blocked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::MaxInstances => f.write_str("MaxInstances is reached"),
            Self::MaxPricePerHour => f.write_str("MaxPricePerHour is reached"),
            Self::Budget { window, limit, .. } => {
                let window = spending::short(*window);
                write!(f, "the budget of {limit} in {window} is used up")
            }
            Self::Containers { max, .. } => {
                write!(
                    f,
                    "no more than {max} containers may run until it is known that the queue bears them"
                )
            }
            Self::Supervisors { max } => write!(f, "no more than {max} supervisors may run"),
            Self::Quota { why, .. } => write!(f, "at the cloud account's limit ({why})"),
            Self::Cooling { why, .. } => write!(f, "at capacity ({why})"),
            Self::BootsFail { failures, why, .. } => {
                write!(f, "its last {failures} boots failed ({why})")
            }
            Self::Canary => f.write_str("being tried again"),
            Self::CreatesInFlight => f.write_str("other instances are being created"),
            Self::Rate { .. } => f.write_str("rate limited"),
        }
    }
}

/// The classes of calls to a cloud that have their own limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Call {
    Create,
    Destroy,
    List,
    Tag,
}

impl Call {
    fn rate(self, limits: &Limits) -> Option<Rate> {
        match self {
            Self::Create => limits.creates,
            Self::Destroy => limits.destroys,
            Self::List => limits.lists,
            Self::Tag => None,
        }
    }
}

/// The limits' memory. Every question costs O(log types).
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Capacity {
    offerings: BTreeMap<TypeName, Cooling>,
    groups: BTreeMap<(CloudId, QuotaGroup), Cooling>,
    buckets: BTreeMap<(CloudId, Call), Bucket>,
    all_calls: BTreeMap<CloudId, Bucket>,
    barred: BTreeMap<(CloudId, Call), Cooling>,
    pub(crate) boots: Boots,
    pub(crate) probes: Bucket,
    pub(crate) spending: Spending,
    pub(crate) crowd: Crowd,
    pub(crate) plants: Plants,
}

const QUOTA_PAUSES: Pauses = Pauses {
    min: Duration::from_secs(60),
    max: Duration::from_secs(15 * 60),
};
const CAPACITY_PAUSES: Pauses = Pauses {
    min: Duration::from_secs(60),
    max: Duration::from_secs(30 * 60),
};
const FAILURE_PAUSES: Pauses = Pauses {
    min: Duration::from_secs(5),
    max: Duration::from_secs(15 * 60),
};
const RATE_PAUSES: Pauses = Pauses {
    min: Duration::from_secs(1),
    max: Duration::from_secs(60),
};

impl Capacity {
    /// Whether a call of this class may leave now; when, otherwise.
    pub(crate) fn call_at(
        &self,
        now: Timestamp,
        limits: &Limits,
        cloud: CloudId,
        call: Call,
    ) -> Timestamp {
        let bucket = |b: Option<&Bucket>, rate: Option<Rate>| match (b, rate) {
            (Some(bucket), Some(rate)) if !self.plants.has(Planted::RatesIgnored) => {
                bucket.next_at(now, rate)
            }
            _ => now,
        };
        let own = bucket(self.buckets.get(&(cloud, call)), call.rate(limits));
        let all = bucket(self.all_calls.get(&cloud), limits.cloud_ops);
        let barred = self.barred.get(&(cloud, call)).map_or(now, |b| b.until);
        own.max(all).max(barred)
    }

    /// Counts a call that leaves.
    pub(crate) fn count_call(
        &mut self,
        now: Timestamp,
        limits: &Limits,
        cloud: CloudId,
        call: Call,
    ) {
        if let Some(rate) = call.rate(limits) {
            let bucket = self.buckets.entry((cloud, call)).or_default();
            bucket.take(now, rate);
        }
        if let Some(rate) = limits.cloud_ops {
            self.all_calls.entry(cloud).or_default().take(now, rate);
        }
    }

    /// Notes how the cloud took a call, for its rate limit alone.
    pub(crate) fn call_ended(
        &mut self,
        now: Timestamp,
        cloud: CloudId,
        call: Call,
        error: Option<&CloudError>,
        jitter: u32,
    ) {
        let place = (cloud, call);
        match error {
            Some(CloudError::RateLimited { until, message }) => {
                let before = self.barred.get(&place);
                let why = message.clone();
                let mut bar = Cooling::after_failure(before, now, RATE_PAUSES, jitter, why, 0);
                if let Some(advice) = until {
                    // A cloud's clock may be wrong: its advice is heard up to an hour.
                    let latest = now + Duration::from_secs(3600);
                    bar.until = bar.until.max((*advice).min(latest));
                }
                self.barred.insert(place, bar);
            }
            Some(_) => {}
            None => {
                self.barred.remove(&place);
            }
        }
    }

    /// Whether an instance of this type, booted from this image, may be asked for now.
    pub(crate) fn may_create(
        &self,
        now: Timestamp,
        config: &Config,
        fleet: &Fleet,
        (name, image): (&TypeName, &ImageId),
        offer: &InstanceType,
    ) -> Result<(), Blocked> {
        let limits = &config.limits;
        if limits
            .instances
            .map(|max| max as usize + usize::from(self.plants.has(Planted::OneTooMany)))
            .is_some_and(|max| fleet.len() >= max)
        {
            return Err(Blocked::MaxInstances);
        }
        let mut price = fleet.price();
        if self.plants.has(Planted::WishesUnpriced) {
            let real = fleet.iter().filter(|vm| vm.instance.is_some());
            price = MicroDollars(real.map(|vm| vm.price().0).sum());
        }
        let with_it = price.0.saturating_add(offer.price.0);
        if limits.price_per_hour.is_some_and(|max| with_it > max.0) {
            return Err(Blocked::MaxPricePerHour);
        }
        if let Some((budget, until)) = self.spending.exhausted(fleet.price())
            && !self.plants.has(Planted::BudgetsIgnored)
        {
            return Err(Blocked::Budget {
                window: budget.window,
                limit: budget.limit,
                until,
            });
        }
        let under_way =
            |key| fleet.is_create_unanswered(key) && !self.plants.has(Planted::NoCanary);
        if let Some(group) = self.groups.get(&group_of(offer)) {
            let fewer = in_group(fleet, offer) < group.count_at_error;
            match group.readiness(now, under_way) {
                Readiness::Wait(until) if !fewer => {
                    let why = group.why.clone();
                    return Err(Blocked::Quota { until, why });
                }
                Readiness::Trying => return Err(Blocked::Canary),
                _ => {}
            }
        }
        if let Some(cooling) = self.offerings.get(name) {
            match cooling.readiness(now, under_way) {
                Readiness::Wait(until) => {
                    let why = cooling.why.clone();
                    return Err(Blocked::Cooling { until, why });
                }
                Readiness::Trying => return Err(Blocked::Canary),
                Readiness::Canary => {}
            }
        }
        if !self.plants.has(Planted::BootsRepeated) {
            let booting = |key| fleet.get(key).is_some_and(|vm| !vm.boot_counted);
            let kind = (name.clone(), image.clone());
            self.boots.may_boot(now, &kind, booting)?;
        }
        let in_flight = fleet.creates_unanswered();
        // What was refused lately is tried by one create, not by as many as there is room for.
        let limited = self.barred.contains_key(&(offer.cloud, Call::Create));
        let serial = limited || !self.groups.is_empty();
        let max = if serial {
            Some(1)
        } else {
            limits.creates_in_flight
        };
        if max.is_some_and(|max| in_flight >= max as usize) {
            return Err(Blocked::CreatesInFlight);
        }
        let at = self.call_at(now, limits, offer.cloud, Call::Create);
        if at > now {
            return Err(Blocked::Rate { until: at });
        }
        Ok(())
    }

    /// Whether a type is left alone, or being tried again, because the cloud lately had none of it.
    pub(crate) fn rests(&self, now: Timestamp, fleet: &Fleet, name: &TypeName) -> bool {
        let under_way = |key| fleet.is_create_unanswered(key);
        let cooling = self.offerings.get(name);
        cooling.is_some_and(|cooling| cooling.readiness(now, under_way) != Readiness::Canary)
    }

    /// Whether one more container may start, beside those that run and those that a pass has promised
    /// a place.
    pub(crate) fn may_start(
        &self,
        now: Timestamp,
        limits: &Limits,
        fleet: &Fleet,
        supervisor: bool,
        promised: &Promised,
    ) -> Result<(), Blocked> {
        let full = |max: Option<u32>, count: usize| max.filter(|max| count >= *max as usize);
        let running = fleet.runners() + promised.containers;
        if let Some(max) = full(self.crowd.max(now), running)
            && !self.plants.has(Planted::OverloadIgnored)
        {
            let until = self.crowd.grows_at(now);
            return Err(Blocked::Containers { max, until });
        }
        if supervisor && !self.plants.has(Planted::SupervisorsUncounted) {
            // What the cloud refuses is not there for those that they would wait for.
            let met = self.groups.values().any(|group| group.until > now);
            let instances = met.then(|| fleet.len());
            let running = fleet.supervisors() + promised.supervisors;
            if let Some(max) = full(self.crowd.supervisors(now, limits, instances), running) {
                return Err(Blocked::Supervisors { max });
            }
        }
        Ok(())
    }

    /// Counts a create that leaves, for a type that [`Capacity::may_create`] allowed.
    pub(crate) fn create_sent(
        &mut self,
        now: Timestamp,
        limits: &Limits,
        (name, image): (&TypeName, &ImageId),
        offer: &InstanceType,
        key: VmKey,
    ) {
        self.count_call(now, limits, offer.cloud, Call::Create);
        if let Some(group) = self.groups.get_mut(&group_of(offer)) {
            group.begin_canary(key);
        }
        if let Some(cooling) = self.offerings.get_mut(name) {
            cooling.begin_canary(key);
        }
        self.boots.begin(&(name.clone(), image.clone()), key);
    }

    /// Learns from the end of a create.
    pub(crate) fn create_ended(
        &mut self,
        now: Timestamp,
        name: &TypeName,
        offer: &InstanceType,
        error: Option<&CloudError>,
        facts: CreateFacts,
    ) {
        self.call_ended(now, offer.cloud, Call::Create, error, facts.jitter);
        let group = group_of(offer);
        let Some(error) = error else {
            self.groups.remove(&group);
            self.offerings.remove(name);
            return;
        };
        let why = error.to_string();
        let (jitter, count) = (facts.jitter, facts.group_count);
        match error {
            _ if self.plants.has(Planted::FailuresIgnored) => {}
            CloudError::RateLimited { .. } | CloudError::Ambiguous { .. } => {}
            CloudError::Quota { .. } if self.plants.has(Planted::NoBackoff) => {}
            CloudError::Quota { .. } => {
                let before = self.groups.get(&group);
                let mut next =
                    Cooling::after_failure(before, now, QUOTA_PAUSES, jitter, why, count);
                if self.plants.has(Planted::QuotaForEver) {
                    next.until = Timestamp::NEVER;
                }
                self.groups.insert(group, next);
            }
            CloudError::Capacity { scope, .. } => {
                let affected: Vec<TypeName> = match scope {
                    CapacityScope::Type => vec![name.clone()],
                    CapacityScope::Group | CapacityScope::All => facts.wider(*scope, offer),
                };
                for name in affected {
                    self.cool(now, &name, CAPACITY_PAUSES, jitter, why.clone());
                }
            }
            CloudError::NotFound { .. }
            | CloudError::Permanent { .. }
            | CloudError::Transient { .. } => self.cool(now, name, FAILURE_PAUSES, jitter, why),
        }
    }

    fn cool(&mut self, now: Timestamp, name: &TypeName, pauses: Pauses, jitter: u32, why: String) {
        let before = self.offerings.get(name);
        let next = Cooling::after_failure(before, now, pauses, jitter, why, 0);
        self.offerings.insert(name.clone(), next);
    }

    /// Whether every one of these types has been failing to be created for so long. O(types · log).
    pub(crate) fn all_fail(&self, now: Timestamp, types: &[TypeName], after: Duration) -> bool {
        let fails = |name| {
            let cooling = self.offerings.get(name);
            cooling.is_some_and(|c| c.goes_on(now) && c.since + after <= now)
        };
        types.iter().all(fails)
    }

    /// When each type that is failing to be created will have been for so long.
    pub(crate) fn fails_for(&self, after: Duration) -> impl Iterator<Item = Timestamp> + '_ {
        self.offerings.values().map(move |c| c.since + after)
    }

    /// Since when creates of this type have failed, one after the other. O(log types).
    pub(crate) fn failing_since(&self, name: &TypeName, offer: &InstanceType) -> Option<Timestamp> {
        let offering = self.offerings.get(name);
        let group = self.groups.get(&group_of(offer));
        let since = [offering, group].into_iter().flatten();
        since.map(|cooling| cooling.since).min()
    }

    /// Whether some group's quota was met and not yet disproved.
    pub(crate) fn at_quota(&self) -> bool {
        !self.groups.is_empty()
    }

    /// How much is remembered of failures and for rates.
    pub(crate) fn remembered(&self) -> usize {
        let cooling = self.offerings.len() + self.groups.len() + self.barred.len();
        cooling + self.buckets.len() + self.all_calls.len() + self.boots.len()
    }

    /// Forgets types that are no longer configured, and takes over the budgets.
    pub(crate) fn reconfigure(&mut self, config: &Config, fleet: &Fleet) {
        self.spending.reconfigure(&config.limits.budgets, fleet);
        self.offerings
            .retain(|name, _| config.types.contains_key(name));
        self.groups
            .retain(|group, _| config.types.values().any(|offer| group_of(offer) == *group));
        let pauses = config.limits.boot_failures.is_some();
        self.boots
            .reconfigure(|name| config.types.contains_key(name), pauses);
    }
}

/// Containers that a pass has found a place for, on VMs that are on their way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Promised {
    pub(crate) containers: usize,
    pub(crate) supervisors: usize,
}

/// What the end of a create is judged by.
pub(crate) struct CreateFacts<'a> {
    pub(crate) jitter: u32,
    /// Instances of the type's group that exist beside the one refused.
    pub(crate) group_count: usize,
    pub(crate) types: &'a BTreeMap<TypeName, InstanceType>,
}

impl CreateFacts<'_> {
    fn wider(&self, scope: CapacityScope, offer: &InstanceType) -> Vec<TypeName> {
        let same = |other: &InstanceType| match scope {
            CapacityScope::All => other.cloud == offer.cloud,
            _ => group_of(other) == group_of(offer),
        };
        let types = self.types.iter().filter(|(_, other)| same(other));
        types.map(|(name, _)| name.clone()).collect()
    }
}

fn group_of(offer: &InstanceType) -> (CloudId, QuotaGroup) {
    (offer.cloud, offer.quota_group.clone())
}

/// Instances that count against the quota of this type's group.
pub(crate) fn in_group(fleet: &Fleet, offer: &InstanceType) -> usize {
    fleet.count_of_group(offer.cloud, &offer.quota_group)
}
