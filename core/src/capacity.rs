//! Limits on calls to clouds: configured limits, and back-off after errors.

pub(crate) mod blocked;
pub(crate) mod boot_breaker;
pub(crate) mod budgets;
pub(crate) mod concurrency;
#[cfg(feature = "mutants")]
mod mutants;
pub(crate) mod token_bucket;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::backoff::{Backoff, BackoffState, Readiness};
use crate::command::CloudCall;
use crate::config::{Config, InstanceType, Limits, Rate};
use crate::fleet::Fleet;
use crate::fleet::vm::Vm;
use crate::ids::{CloudId, ImageId, QuotaGroup, TypeName, VmKey};
use crate::input::{CapacityScope, CloudError};
use crate::mutants::{Mutant, Mutants};
use crate::queue::classes::Rank;
use crate::time::Timestamp;
pub use blocked::CreateBlocked;
use boot_breaker::BootBreaker;
use budgets::Budgets;
use concurrency::Concurrency;
use token_bucket::TokenBucket;

/// Part of a cloud with a back-off of its own: a type, a quota group, or everything.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Offering {
    Type(TypeName),
    Group(CloudId, QuotaGroup),
    Cloud(CloudId),
}

impl Offering {
    /// Every offering that includes the type.
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

/// State of all limits. Every query costs O(log types).
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Capacity {
    offerings: BTreeMap<Offering, BackoffState>,
    groups: BTreeMap<(CloudId, QuotaGroup), BackoffState>,
    buckets: BTreeMap<(CloudId, CloudCall), TokenBucket>,
    all_calls: BTreeMap<CloudId, TokenBucket>,
    throttled: BTreeMap<(CloudId, CloudCall), BackoffState>,
    /// Types with a create of unknown outcome.
    doubtful: BTreeMap<TypeName, BackoffState>,
    pub(crate) boot_breaker: BootBreaker,
    pub(crate) probes: TokenBucket,
    pub(crate) budgets: Budgets,
    pub(crate) concurrency: Concurrency,
    pub(crate) mutants: Mutants,
}

const QUOTA_BACKOFF: Backoff = Backoff {
    min: Duration::from_secs(60),
    max: Duration::from_secs(15 * 60),
};
const CAPACITY_BACKOFF: Backoff = Backoff {
    min: Duration::from_secs(60),
    max: Duration::from_secs(30 * 60),
};
const FAILURE_BACKOFF: Backoff = Backoff {
    min: Duration::from_secs(5),
    max: Duration::from_secs(15 * 60),
};
const RATE_BACKOFF: Backoff = Backoff {
    min: Duration::from_secs(1),
    max: Duration::from_secs(60),
};

/// For recorded failures without any delay.
const NO_BACKOFF: Backoff = Backoff {
    min: Duration::ZERO,
    max: Duration::ZERO,
};

impl Capacity {
    /// Earliest time of the next call of this kind; `now` or earlier if allowed at once.
    pub(crate) fn call_at(
        &self,
        now: Timestamp,
        limits: &Limits,
        cloud: CloudId,
        call: CloudCall,
    ) -> Timestamp {
        let token_bucket = |b: Option<&TokenBucket>, rate: Option<Rate>| match (b, rate) {
            (Some(token_bucket), Some(rate)) if !self.mutants.has(Mutant::RatesIgnored) => {
                token_bucket.next_at(now, rate)
            }
            _ => now,
        };
        let own = token_bucket(self.buckets.get(&(cloud, call)), rate_of(call, limits));
        let all = token_bucket(self.all_calls.get(&cloud), limits.cloud_ops);
        let throttled = self.throttled.get(&(cloud, call)).map_or(now, |b| b.until);
        own.max(all).max(throttled)
    }

    /// Counts a call about to leave.
    pub(crate) fn count_call(
        &mut self,
        now: Timestamp,
        limits: &Limits,
        cloud: CloudId,
        call: CloudCall,
    ) {
        if let Some(rate) = rate_of(call, limits) {
            let token_bucket = self.buckets.entry((cloud, call)).or_default();
            token_bucket.take(now, rate);
        }
        if let Some(rate) = limits.cloud_ops {
            self.all_calls.entry(cloud).or_default().take(now, rate);
        }
    }

    /// Updates the rate limit of the cloud after a call.
    pub(crate) fn call_ended(
        &mut self,
        now: Timestamp,
        cloud: CloudId,
        call: CloudCall,
        error: Option<&CloudError>,
        jitter: u32,
    ) {
        let place = (cloud, call);
        match error {
            Some(CloudError::RateLimited { until, message }) => {
                let before = self.throttled.get(&place);
                let why = message.clone();
                let mut state =
                    BackoffState::after_failure(before, now, RATE_BACKOFF, jitter, why, 0);
                if let Some(advice) = until {
                    // The clock of a cloud may be wrong: the advice counts for at most an hour.
                    let latest = now + Duration::from_secs(3600);
                    state.until = state.until.max((*advice).min(latest));
                }
                self.throttled.insert(place, state);
            }
            Some(_) => {}
            None => {
                self.throttled.remove(&place);
            }
        }
    }

    /// Checks all limits for the creation of an instance of this type with this image.
    pub(crate) fn may_create(
        &self,
        now: Timestamp,
        config: &Config,
        fleet: &Fleet,
        (name, image): (&TypeName, &ImageId),
        offer: &InstanceType,
    ) -> Result<(), CreateBlocked> {
        self.check_limits(config, fleet, offer)?;
        self.check_backoffs(now, fleet, (name, image), offer)?;
        let limits = &config.limits;
        let in_flight = fleet.creates_unanswered();
        let max = limits.creates_in_flight;
        if max.is_some_and(|max| in_flight >= max as usize) {
            return Err(CreateBlocked::CreatesInFlight);
        }
        let until = self.call_at(now, limits, offer.cloud, CloudCall::Create);
        let state = self.throttled.get(&(offer.cloud, CloudCall::Create));
        match state {
            _ if until <= now => Ok(()),
            Some(state) if state.until >= until => Err(CreateBlocked::CloudRateLimited { until }),
            _ => Err(CreateBlocked::Rate { until }),
        }
    }

    /// Checks the operator's limits on instances, price and spending.
    fn check_limits(
        &self,
        config: &Config,
        fleet: &Fleet,
        offer: &InstanceType,
    ) -> Result<(), CreateBlocked> {
        let limits = &config.limits;
        let extra = usize::from(self.mutants.has(Mutant::OneTooMany));
        let instances_max = limits.instances.map(|max| max as usize + extra);
        if instances_max.is_some_and(|max| fleet.len() >= max) {
            return Err(CreateBlocked::MaxInstances);
        }
        let price = fleet.price();
        #[cfg(feature = "mutants")]
        let price = self.unpriced_creates(fleet, price);
        let with_it = price.0.saturating_add(offer.price.0);
        if limits.price_per_hour.is_some_and(|max| with_it > max.0) {
            return Err(CreateBlocked::MaxPricePerHour);
        }
        if let Some((budget, until)) = self.budgets.exhausted(fleet.price())
            && !self.mutants.has(Mutant::BudgetsIgnored)
        {
            return Err(CreateBlocked::Budget {
                window: budget.window,
                limit: budget.limit,
                until,
            });
        }
        Ok(())
    }

    /// Checks the back-off of everything that includes the type or the image.
    fn check_backoffs(
        &self,
        now: Timestamp,
        fleet: &Fleet,
        (name, image): (&TypeName, &ImageId),
        offer: &InstanceType,
    ) -> Result<(), CreateBlocked> {
        let under_way =
            |key| fleet.is_create_unanswered(key) && !self.mutants.has(Mutant::NoCanary);
        if let Some(group) = self.groups.get(&group_of(offer)) {
            let fewer = in_group(fleet, offer) < group.count_at_error;
            match group.readiness(now, under_way) {
                Readiness::Wait(until) if !fewer => {
                    let why = group.why.clone();
                    return Err(CreateBlocked::Quota { until, why });
                }
                Readiness::Trying => return Err(CreateBlocked::Canary),
                _ => {}
            }
        }
        for backoff in self.backoffs(name, offer) {
            match backoff.readiness(now, under_way) {
                Readiness::Wait(until) => {
                    let why = backoff.why.clone();
                    return Err(CreateBlocked::BackedOff { until, why });
                }
                Readiness::Trying => return Err(CreateBlocked::Canary),
                Readiness::Canary => {}
            }
        }
        if !self.mutants.has(Mutant::BootsRepeated) {
            let booting = |key| fleet.get(key).is_some_and(|vm| !vm.health.boot_counted);
            let kind = (name.clone(), image.clone());
            self.boot_breaker.may_boot(now, &kind, booting)?;
        }
        if self.waits_for_another(now, fleet, offer) {
            return Err(CreateBlocked::SerializedAfterError);
        }
        Ok(())
    }

    /// True if another create must end first: after an error, creates are serialized.
    fn waits_for_another(&self, now: Timestamp, fleet: &Fleet, offer: &InstanceType) -> bool {
        let is_recent = |backoff: Option<&BackoffState>| backoff.is_some_and(|c| c.is_recent(now));
        let throttled = is_recent(self.throttled.get(&(offer.cloud, CloudCall::Create)));
        let refused = is_recent(self.groups.get(&group_of(offer)));
        let in_the_way = |vm: &Vm| {
            let group = vm.identity.offer.as_ref().map(|other| &other.quota_group);
            vm.identity.cloud == offer.cloud && (throttled || group == Some(&offer.quota_group))
        };
        (throttled || refused) && fleet.awaits_create(in_the_way)
    }

    /// Back-off states of everything that includes the type.
    fn backoffs(
        &self,
        name: &TypeName,
        offer: &InstanceType,
    ) -> impl Iterator<Item = &BackoffState> {
        let parts = Offering::of(name, offer).into_iter();
        parts.filter_map(|part| self.offerings.get(&part))
    }

    /// True if the type is backed off after a capacity error, or a canary is in flight.
    pub(crate) fn is_backed_off(
        &self,
        now: Timestamp,
        fleet: &Fleet,
        name: &TypeName,
        offer: &InstanceType,
    ) -> bool {
        let under_way = |key| fleet.is_create_unanswered(key);
        self.backoffs(name, offer)
            .any(|backoff| backoff.readiness(now, under_way) != Readiness::Canary)
    }

    /// Limits on running containers and on running supervisors.
    pub(crate) fn start_limits(
        &self,
        now: Timestamp,
        limits: &Limits,
        fleet: &Fleet,
    ) -> (Option<u32>, Option<u32>) {
        // Refused instances are not available to containers of supervisors.
        let refused = self.groups.values().any(|group| group.until > now);
        let instances = refused.then(|| fleet.len());
        let supervisors = self.concurrency.supervisors(now, limits, instances);
        (self.concurrency.max(now), supervisors)
    }

    /// Checks the concurrency limits for one more container, beside running containers and
    /// reservations of higher rank. O(limit), with a limit.
    pub(crate) fn may_start(
        &self,
        now: Timestamp,
        limits: &Limits,
        fleet: &Fleet,
        supervisor: bool,
        rank: Rank,
    ) -> Result<(), CreateBlocked> {
        if self.concurrency.is_unlimited() && !supervisor {
            return Ok(());
        }
        let (max, supervisors) = self.start_limits(now, limits, fleet);
        let full = |max: u32, running: usize, reserved: fn(&Fleet, Rank, usize) -> usize| {
            let room = (max as usize).saturating_sub(running);
            reserved(fleet, rank, room) >= room
        };
        if let Some(max) = max
            && full(max, fleet.runners(), Fleet::reserved_above)
            && !self.mutants.has(Mutant::OverloadIgnored)
        {
            let until = self.concurrency.grows_at(now);
            return Err(CreateBlocked::Containers { max, until });
        }
        if let Some(max) = supervisors.filter(|_| supervisor)
            && full(max, fleet.supervisors(), Fleet::supervisors_reserved_above)
            && !self.mutants.has(Mutant::SupervisorsUncounted)
        {
            return Err(CreateBlocked::Supervisors { max });
        }
        Ok(())
    }

    /// Counts a create about to leave, allowed by [`Capacity::may_create`].
    pub(crate) fn create_sent(
        &mut self,
        now: Timestamp,
        limits: &Limits,
        (name, image): (&TypeName, &ImageId),
        offer: &InstanceType,
        key: VmKey,
    ) {
        self.count_call(now, limits, offer.cloud, CloudCall::Create);
        if let Some(group) = self.groups.get_mut(&group_of(offer)) {
            group.begin_canary(key);
        }
        for part in Offering::of(name, offer) {
            if let Some(backoff) = self.offerings.get_mut(&part) {
                backoff.begin_canary(key);
            }
        }
        self.boot_breaker.begin(&(name.clone(), image.clone()), key);
    }

    /// Updates all back-off states after a create.
    pub(crate) fn create_ended(
        &mut self,
        now: Timestamp,
        name: &TypeName,
        offer: &InstanceType,
        error: Option<&CloudError>,
        facts: CreateFacts,
    ) {
        self.call_ended(now, offer.cloud, CloudCall::Create, error, facts.jitter);
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
            _ if self.mutants.has(Mutant::FailuresIgnored) => {}
            CloudError::RateLimited { .. } => {}
            CloudError::Ambiguous { .. } => {
                let before = self.doubtful.get(name);
                let next = BackoffState::after_failure(before, now, NO_BACKOFF, jitter, why, 0);
                self.doubtful.insert(name.clone(), next);
            }
            CloudError::Quota { .. } if self.mutants.has(Mutant::NoBackoff) => {}
            CloudError::Quota { .. } => {
                let before = self.groups.get(&group);
                let mut next =
                    BackoffState::after_failure(before, now, QUOTA_BACKOFF, jitter, why, count);
                if self.mutants.has(Mutant::QuotaNeverRetried) {
                    next.until = Timestamp::NEVER;
                }
                self.groups.insert(group, next);
            }
            CloudError::Capacity { scope, .. } => {
                // The type backs off in any case: another type of the group may be available.
                let asked = Offering::Type(name.clone());
                let whole = Offering::within(*scope, name, offer);
                for what in BTreeSet::from([asked, whole]) {
                    self.back_off(now, what, CAPACITY_BACKOFF, jitter, why.clone());
                }
            }
            CloudError::NotFound { .. }
            | CloudError::Permanent { .. }
            | CloudError::Transient { .. } => {
                let what = Offering::Type(name.clone());
                self.back_off(now, what, FAILURE_BACKOFF, jitter, why);
            }
        }
    }

    fn back_off(
        &mut self,
        now: Timestamp,
        what: Offering,
        pauses: Backoff,
        jitter: u32,
        why: String,
    ) {
        let before = self.offerings.get(&what);
        let next = BackoffState::after_failure(before, now, pauses, jitter, why, 0);
        self.offerings.insert(what, next);
    }

    /// Start of the failures of all these types, if each still fails. O(types · log).
    pub(crate) fn all_fail_since(
        &self,
        now: Timestamp,
        config: &Config,
        types: &[TypeName],
    ) -> Option<Timestamp> {
        let since = |name| {
            let known = self.backoffs(name, config.types.get(name)?);
            known.filter(|c| c.is_recent(now)).map(|c| c.since).min()
        };
        let all = types.iter().map(since).collect::<Option<Vec<_>>>()?;
        all.into_iter().max()
    }

    /// Times at which failing types will have failed for `after`.
    pub(crate) fn failing_for(&self, after: Duration) -> impl Iterator<Item = Timestamp> + '_ {
        self.offerings.values().map(move |c| c.since + after)
    }

    /// Start of consecutive failed creates of this type, for any cause, if still failing. O(log
    /// types).
    pub(crate) fn failing_since(
        &self,
        now: Timestamp,
        name: &TypeName,
        offer: &InstanceType,
    ) -> Option<Timestamp> {
        let group = self.groups.get(&group_of(offer));
        let throttled = self.throttled.get(&(offer.cloud, CloudCall::Create));
        let others = [group, throttled, self.doubtful.get(name)];
        let known = self.backoffs(name, offer);
        let known = known.chain(others.into_iter().flatten());
        let lasting = known.filter(|backoff| backoff.is_recent(now));
        lasting.map(|backoff| backoff.since).min()
    }

    /// True if the quota of any group was reached recently, without success since.
    pub(crate) fn at_quota(&self, now: Timestamp) -> bool {
        self.groups.values().any(|group| group.is_recent(now))
    }

    /// Number of back-off states and token buckets.
    pub(crate) fn len(&self) -> usize {
        let backoff = self.offerings.len() + self.groups.len() + self.throttled.len();
        let backoff = backoff + self.doubtful.len();
        backoff + self.buckets.len() + self.all_calls.len() + self.boot_breaker.len()
    }

    /// Forgets unconfigured types, and takes over the budgets.
    pub(crate) fn reconfigure(&mut self, config: &Config, fleet: &Fleet) {
        self.budgets.reconfigure(&config.limits.budgets, fleet);
        self.doubtful
            .retain(|name, _| config.types.contains_key(name));
        self.offerings.retain(|what, _| {
            let mut types = config.types.iter();
            types.any(|(name, offer)| Offering::of(name, offer).contains(what))
        });
        self.groups
            .retain(|group, _| config.types.values().any(|offer| group_of(offer) == *group));
        let pauses = config.limits.boot_failures.is_some();
        self.boot_breaker
            .reconfigure(|name| config.types.contains_key(name), pauses);
    }
}

/// Circumstances of the end of a create.
pub(crate) struct CreateFacts {
    pub(crate) jitter: u32,
    /// Number of instances of the quota group, without the refused instance.
    pub(crate) group_count: usize,
}

/// Configured rate limit of a kind of call.
fn rate_of(call: CloudCall, limits: &Limits) -> Option<Rate> {
    match call {
        CloudCall::Create => limits.creates,
        CloudCall::Destroy => limits.destroys,
        CloudCall::List => limits.lists,
        CloudCall::SetTags => None,
    }
}

fn group_of(offer: &InstanceType) -> (CloudId, QuotaGroup) {
    (offer.cloud, offer.quota_group.clone())
}

/// Number of instances in the quota group of the type.
pub(crate) fn in_group(fleet: &Fleet, offer: &InstanceType) -> usize {
    fleet.count_of_group(offer.cloud, &offer.quota_group)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::{MicroDollars, Resources};

    #[test]
    fn ambiguous_create_counts_as_failing_until_success() {
        let (mut capacity, now) = (Capacity::default(), Timestamp::EPOCH);
        let name = TypeName::from("small");
        let offer = InstanceType {
            cloud: CloudId(0),
            provider_type: String::new(),
            resources: Resources::default(),
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
        assert_eq!(
            since(&capacity, 1000),
            None,
            "failures long ago do not count"
        );
        capacity.create_ended(at(400), &name, &offer, None, facts());
        assert_eq!(since(&capacity, 400), None);
    }
}
