//! Faults of the whole cloud: outages, quota, capacity, throttling.

use longshore_core::ids::{QuotaGroup, TypeName};
use longshore_core::input::{CapacityScope, CloudError};
use longshore_core::time::Timestamp;

use super::{Cloud, TICK};
use crate::world::events::{CloudStep, Happening};
use crate::world::faults::Fault;
use crate::world::scheduler::Scheduler;

impl Cloud {
    /// Ends all outages; the cloud works from now on.
    pub(crate) fn end_outages(&mut self) {
        self.shrunk.clear();
        self.sold_out.clear();
        self.group_sold_out.clear();
        self.all_sold_out = Timestamp::EPOCH;
        self.down_until = Timestamp::EPOCH;
    }

    pub(super) fn tick(&mut self, scheduler: &mut Scheduler) {
        scheduler.after(TICK, Happening::Cloud(CloudStep::Tick));
        if scheduler.faults.strikes(&mut self.rng, Fault::CloudDown) {
            self.down_until = scheduler.now + self.rng.secs(30, 3600);
            scheduler.note(|| "the cloud's API goes down".to_owned());
        }
        if scheduler.faults.strikes(&mut self.rng, Fault::QuotaShrinks) {
            let groups: Vec<_> = self.types.values().map(|t| t.quota_group.clone()).collect();
            if let Some(group) = self.rng.pick(&groups).cloned() {
                let used = self.alive_in(&group) as u64;
                let limit = u32::try_from(self.rng.below(used + 2)).unwrap_or(0);
                let until = scheduler.now + self.rng.secs(60, 3600);
                scheduler.note(|| format!("the quota of {group} shrinks to {limit}"));
                self.shrunk.insert(group, (limit, until));
            }
        }
        if scheduler.faults.strikes(&mut self.rng, Fault::SoldOut) {
            let names: Vec<_> = self.types.keys().cloned().collect();
            if let Some(name) = self.rng.pick(&names).cloned() {
                let until = scheduler.now + self.rng.secs(60, 3600);
                scheduler.note(|| format!("{name} is sold out"));
                self.sold_out.insert(name, until);
            }
        }
        if scheduler.faults.strikes(&mut self.rng, Fault::SoldOutGroup) {
            let groups: Vec<_> = self.types.values().map(|t| t.quota_group.clone()).collect();
            if let Some(group) = self.rng.pick(&groups).cloned() {
                let until = scheduler.now + self.rng.secs(60, 3600);
                scheduler.note(|| format!("all of {group} is sold out"));
                self.group_sold_out.insert(group, until);
            }
        }
        if scheduler
            .faults
            .strikes(&mut self.rng, Fault::SoldOutEverywhere)
        {
            self.all_sold_out = scheduler.now + self.rng.secs(60, 1800);
            scheduler.note(|| "everything is sold out".to_owned());
        }
    }

    /// Returns the scope without capacity for a type, if any.
    pub(super) fn lacking(
        &self,
        now: Timestamp,
        name: &TypeName,
        group: &QuotaGroup,
    ) -> Option<CapacityScope> {
        let lasts = |until: Option<&Timestamp>| until.is_some_and(|until| now < *until);
        if now < self.all_sold_out {
            Some(CapacityScope::All)
        } else if lasts(self.group_sold_out.get(group)) {
            Some(CapacityScope::Group)
        } else {
            lasts(self.sold_out.get(name)).then_some(CapacityScope::Type)
        }
    }

    /// Returns the error of a refused call, if any; applies to calls of every kind.
    pub(super) fn refuse(&mut self, scheduler: &mut Scheduler) -> Option<CloudError> {
        if scheduler.now < self.down_until {
            let message = "service unavailable".to_owned();
            return Some(CloudError::Transient { message });
        }
        if scheduler.faults.strikes(&mut self.rng, Fault::Throttled) {
            let (until, message) = (None, "RequestLimitExceeded".to_owned());
            return Some(CloudError::RateLimited { until, message });
        }
        if scheduler
            .faults
            .strikes(&mut self.rng, Fault::ThrottledUntil)
        {
            let until = Some(scheduler.now + self.rng.secs(1, 60));
            let message = "RequestLimitExceeded".to_owned();
            return Some(CloudError::RateLimited { until, message });
        }
        None
    }
}
