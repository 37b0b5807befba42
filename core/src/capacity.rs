//! May we ask the cloud for this now? Limits of our own, and what the cloud refused lately.

pub(crate) mod blocked;
pub(crate) mod boots;
pub(crate) mod bucket;
pub(crate) mod cooling;
pub(crate) mod crowd;
pub(crate) mod spending;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::config::{Config, InstanceType, Limits, Rate};
use crate::fleet::Fleet;
use crate::fleet::vm::Vm;
use crate::ids::{CloudId, ImageId, QuotaGroup, TypeName, VmKey};
use crate::input::{CapacityScope, CloudError};
use crate::planted::{Planted, Plants};
use crate::queue::shapes::Rank;
use crate::resources::MicroDollars;
use crate::time::Timestamp;
pub use blocked::Blocked;
use boots::Boots;
use bucket::Bucket;
use cooling::{Cooling, Pauses, Readiness};
use crowd::Crowd;
use spending::Spending;

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

/// What the cloud may have none of: a type, all of a group, or anything.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Offering {
    Type(TypeName),
    Group(CloudId, QuotaGroup),
    Cloud(CloudId),
}

impl Offering {
    /// Everything that a type is part of.
    fn of(name: &TypeName, offer: &InstanceType) -> [Self; 3] {
        [
            CapacityScope::Type,
            CapacityScope::Group,
            CapacityScope::All,
        ]
        .map(|scope| Self::within(scope, name, offer))
    }

    fn within(scope: CapacityScope, name: &TypeName, offer: &InstanceType) -> Self {
        match scope {
            CapacityScope::Type => Self::Type(name.clone()),
            CapacityScope::Group => Self::Group(offer.cloud, offer.quota_group.clone()),
            CapacityScope::All => Self::Cloud(offer.cloud),
        }
    }
}

/// The limits' memory. Every question costs O(log types).
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Capacity {
    offerings: BTreeMap<Offering, Cooling>,
    groups: BTreeMap<(CloudId, QuotaGroup), Cooling>,
    buckets: BTreeMap<(CloudId, Call), Bucket>,
    all_calls: BTreeMap<CloudId, Bucket>,
    barred: BTreeMap<(CloudId, Call), Cooling>,
    /// Types whose last create may or may not have been made.
    doubtful: BTreeMap<TypeName, Cooling>,
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

/// For what is remembered and does not rest.
const NO_PAUSES: Pauses = Pauses {
    min: Duration::ZERO,
    max: Duration::ZERO,
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
        for cooling in self.coolings(name, offer) {
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
        if self.waits_for_another(now, fleet, offer) {
            return Err(Blocked::OneByOne);
        }
        let in_flight = fleet.creates_unanswered();
        let max = limits.creates_in_flight;
        if max.is_some_and(|max| in_flight >= max as usize) {
            return Err(Blocked::CreatesInFlight);
        }
        let until = self.call_at(now, limits, offer.cloud, Call::Create);
        let bar = self.barred.get(&(offer.cloud, Call::Create));
        match bar {
            _ if until <= now => Ok(()),
            Some(bar) if bar.until >= until => Err(Blocked::Throttled { until }),
            _ => Err(Blocked::Rate { until }),
        }
    }

    /// Whether a create is under way that must end first: what was refused lately is tried by one
    /// create, not by as many as there is room for.
    fn waits_for_another(&self, now: Timestamp, fleet: &Fleet, offer: &InstanceType) -> bool {
        let goes_on = |cooling: Option<&Cooling>| cooling.is_some_and(|c| c.goes_on(now));
        let throttled = goes_on(self.barred.get(&(offer.cloud, Call::Create)));
        let refused = goes_on(self.groups.get(&group_of(offer)));
        let in_the_way = |vm: &Vm| {
            let group = vm.offer.as_ref().map(|other| &other.quota_group);
            vm.cloud == offer.cloud && (throttled || group == Some(&offer.quota_group))
        };
        (throttled || refused) && fleet.awaits_create(in_the_way)
    }

    /// What is known against a type, or against all that it is part of.
    fn coolings(&self, name: &TypeName, offer: &InstanceType) -> impl Iterator<Item = &Cooling> {
        let parts = Offering::of(name, offer).into_iter();
        parts.filter_map(|part| self.offerings.get(&part))
    }

    /// Whether a type is left alone, or being tried again, because the cloud lately had none of it.
    pub(crate) fn rests(
        &self,
        now: Timestamp,
        fleet: &Fleet,
        name: &TypeName,
        offer: &InstanceType,
    ) -> bool {
        let under_way = |key| fleet.is_create_unanswered(key);
        self.coolings(name, offer)
            .any(|cooling| cooling.readiness(now, under_way) != Readiness::Canary)
    }

    /// How many containers, and how many supervisors among them, may run.
    pub(crate) fn start_limits(
        &self,
        now: Timestamp,
        limits: &Limits,
        fleet: &Fleet,
    ) -> (Option<u32>, Option<u32>) {
        // What the cloud refuses is not there for those that supervisors would wait for.
        let met = self.groups.values().any(|group| group.until > now);
        let instances = met.then(|| fleet.len());
        let supervisors = self.crowd.supervisors(now, limits, instances);
        (self.crowd.max(now), supervisors)
    }

    /// Whether one more container may start, beside those that run and those of higher rank that
    /// were promised a place. O(limit), where there is one.
    pub(crate) fn may_start(
        &self,
        now: Timestamp,
        limits: &Limits,
        fleet: &Fleet,
        supervisor: bool,
        rank: Rank,
    ) -> Result<(), Blocked> {
        if self.crowd.is_free() && !supervisor {
            return Ok(());
        }
        let (max, supervisors) = self.start_limits(now, limits, fleet);
        let full = |max: u32, running: usize, promised: fn(&Fleet, Rank, usize) -> usize| {
            let room = (max as usize).saturating_sub(running);
            promised(fleet, rank, room) >= room
        };
        if let Some(max) = max
            && full(max, fleet.runners(), Fleet::promised_above)
            && !self.plants.has(Planted::OverloadIgnored)
        {
            let until = self.crowd.grows_at(now);
            return Err(Blocked::Containers { max, until });
        }
        if let Some(max) = supervisors.filter(|_| supervisor)
            && full(max, fleet.supervisors(), Fleet::supervisors_promised_above)
            && !self.plants.has(Planted::SupervisorsUncounted)
        {
            return Err(Blocked::Supervisors { max });
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
        for part in Offering::of(name, offer) {
            if let Some(cooling) = self.offerings.get_mut(&part) {
                cooling.begin_canary(key);
            }
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
            self.doubtful.remove(name);
            for part in Offering::of(name, offer) {
                self.offerings.remove(&part);
            }
            return;
        };
        let why = error.to_string();
        let (jitter, count) = (facts.jitter, facts.group_count);
        match error {
            _ if self.plants.has(Planted::FailuresIgnored) => {}
            CloudError::RateLimited { .. } => {}
            CloudError::Ambiguous { .. } => {
                let before = self.doubtful.get(name);
                let next = Cooling::after_failure(before, now, NO_PAUSES, jitter, why, 0);
                self.doubtful.insert(name.clone(), next);
            }
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
                // What was asked for rests in any case: another type of its group may be there.
                let asked = Offering::Type(name.clone());
                let whole = Offering::within(*scope, name, offer);
                for what in BTreeSet::from([asked, whole]) {
                    self.cool(now, what, CAPACITY_PAUSES, jitter, why.clone());
                }
            }
            CloudError::NotFound { .. }
            | CloudError::Permanent { .. }
            | CloudError::Transient { .. } => {
                let what = Offering::Type(name.clone());
                self.cool(now, what, FAILURE_PAUSES, jitter, why);
            }
        }
    }

    fn cool(&mut self, now: Timestamp, what: Offering, pauses: Pauses, jitter: u32, why: String) {
        let before = self.offerings.get(&what);
        let next = Cooling::after_failure(before, now, pauses, jitter, why, 0);
        self.offerings.insert(what, next);
    }

    /// Since when every one of these types has been failing to be created, if each still does.
    /// O(types · log).
    pub(crate) fn all_fail_since(
        &self,
        now: Timestamp,
        config: &Config,
        types: &[TypeName],
    ) -> Option<Timestamp> {
        let since = |name| {
            let known = self.coolings(name, config.types.get(name)?);
            known.filter(|c| c.goes_on(now)).map(|c| c.since).min()
        };
        let all = types.iter().map(since).collect::<Option<Vec<_>>>()?;
        all.into_iter().max()
    }

    /// When each type that is failing to be created will have been for so long.
    pub(crate) fn fails_for(&self, after: Duration) -> impl Iterator<Item = Timestamp> + '_ {
        self.offerings.values().map(move |c| c.since + after)
    }

    /// Since when creates of this type have failed, one after the other, whatever kept them from
    /// it, if that goes on. O(log types).
    pub(crate) fn failing_since(
        &self,
        now: Timestamp,
        name: &TypeName,
        offer: &InstanceType,
    ) -> Option<Timestamp> {
        let group = self.groups.get(&group_of(offer));
        let barred = self.barred.get(&(offer.cloud, Call::Create));
        let others = [group, barred, self.doubtful.get(name)];
        let known = self.coolings(name, offer);
        let known = known.chain(others.into_iter().flatten());
        let lasting = known.filter(|cooling| cooling.goes_on(now));
        lasting.map(|cooling| cooling.since).min()
    }

    /// Whether some group's quota was met and not yet disproved.
    pub(crate) fn at_quota(&self, now: Timestamp) -> bool {
        self.groups.values().any(|group| group.goes_on(now))
    }

    /// How much is remembered of failures and for rates.
    pub(crate) fn remembered(&self) -> usize {
        let cooling = self.offerings.len() + self.groups.len() + self.barred.len();
        let cooling = cooling + self.doubtful.len();
        cooling + self.buckets.len() + self.all_calls.len() + self.boots.len()
    }

    /// Forgets types that are no longer configured, and takes over the budgets.
    pub(crate) fn reconfigure(&mut self, config: &Config, fleet: &Fleet) {
        self.spending.reconfigure(&config.limits.budgets, fleet);
        self.doubtful
            .retain(|name, _| config.types.contains_key(name));
        self.offerings.retain(|what, _| {
            let mut types = config.types.iter();
            types.any(|(name, offer)| Offering::of(name, offer).contains(what))
        });
        self.groups
            .retain(|group, _| config.types.values().any(|offer| group_of(offer) == *group));
        let pauses = config.limits.boot_failures.is_some();
        self.boots
            .reconfigure(|name| config.types.contains_key(name), pauses);
    }
}

/// What the end of a create is judged by.
pub(crate) struct CreateFacts {
    pub(crate) jitter: u32,
    /// Instances of the type's group that exist beside the one refused.
    pub(crate) group_count: usize,
}

fn group_of(offer: &InstanceType) -> (CloudId, QuotaGroup) {
    (offer.cloud, offer.quota_group.clone())
}

/// Instances that count against the quota of this type's group.
pub(crate) fn in_group(fleet: &Fleet, offer: &InstanceType) -> usize {
    fleet.count_of_group(offer.cloud, &offer.quota_group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_create_that_may_or_may_not_have_been_made_counts_as_failing_until_one_was() {
        let (mut capacity, now) = (Capacity::default(), Timestamp::EPOCH);
        let name = TypeName::from("small");
        let offer = InstanceType {
            cloud: CloudId(0),
            provider_type: String::new(),
            resources: crate::resources::Resources::default(),
            added_scratch: 0,
            gpus: None,
            price: MicroDollars(1),
            preemptible: false,
            quota_group: QuotaGroup::from("on-demand"),
        };
        let facts = || CreateFacts {
            jitter: 0,
            group_count: 0,
        };
        let message = "no answer in time".to_owned();
        let lost = CloudError::Ambiguous { message };
        let at = |secs| now + Duration::from_secs(secs);
        for secs in [0, 300] {
            capacity.create_ended(at(secs), &name, &offer, Some(&lost), facts());
        }
        let since = |capacity: &Capacity, secs| capacity.failing_since(at(secs), &name, &offer);
        assert_eq!(since(&capacity, 400), Some(now));
        assert_eq!(since(&capacity, 1000), None, "that was long ago");
        capacity.create_ended(at(400), &name, &offer, None, facts());
        assert_eq!(since(&capacity, 400), None);
    }
}
