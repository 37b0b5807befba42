//! What becomes of the cloud as a whole: outages, quota, capacity, throttling.

use longshore_core::ids::{QuotaGroup, TypeName};
use longshore_core::input::{CapacityScope, CloudError};
use longshore_core::time::Timestamp;

use super::{Cloud, CloudStep, TICK};
use crate::faults::Fault;
use crate::stage::{Happening, Stage};

impl Cloud {
    /// From here on the cloud works.
    pub(crate) fn heal(&mut self) {
        self.shrunk.clear();
        self.sold_out.clear();
        self.group_sold_out.clear();
        self.all_sold_out = Timestamp::EPOCH;
        self.down_until = Timestamp::EPOCH;
    }

    pub(super) fn tick(&mut self, stage: &mut Stage) {
        stage.after(TICK, Happening::Cloud(CloudStep::Tick));
        if stage.faults.strikes(&mut self.chance, Fault::CloudDown) {
            self.down_until = stage.now + self.chance.secs(30, 3600);
            stage.note(|| "the cloud's API goes down".to_owned());
        }
        if stage.faults.strikes(&mut self.chance, Fault::QuotaShrinks) {
            let groups: Vec<_> = self.types.values().map(|t| t.quota_group.clone()).collect();
            if let Some(group) = self.chance.pick(&groups).cloned() {
                let used = self.alive_in(&group) as u64;
                let limit = u32::try_from(self.chance.below(used + 2)).unwrap_or(0);
                let until = stage.now + self.chance.secs(60, 3600);
                stage.note(|| format!("the quota of {group} shrinks to {limit}"));
                self.shrunk.insert(group, (limit, until));
            }
        }
        if stage.faults.strikes(&mut self.chance, Fault::SoldOut) {
            let names: Vec<_> = self.types.keys().cloned().collect();
            if let Some(name) = self.chance.pick(&names).cloned() {
                let until = stage.now + self.chance.secs(60, 3600);
                stage.note(|| format!("{name} is sold out"));
                self.sold_out.insert(name, until);
            }
        }
        if stage.faults.strikes(&mut self.chance, Fault::SoldOutGroup) {
            let groups: Vec<_> = self.types.values().map(|t| t.quota_group.clone()).collect();
            if let Some(group) = self.chance.pick(&groups).cloned() {
                let until = stage.now + self.chance.secs(60, 3600);
                stage.note(|| format!("all of {group} is sold out"));
                self.group_sold_out.insert(group, until);
            }
        }
        if stage
            .faults
            .strikes(&mut self.chance, Fault::SoldOutEverywhere)
        {
            self.all_sold_out = stage.now + self.chance.secs(60, 1800);
            stage.note(|| "everything is sold out".to_owned());
        }
    }

    /// Which part of the cloud has nothing left for this type.
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

    /// What stands in the way of any call.
    pub(super) fn refuse(&mut self, stage: &mut Stage) -> Option<CloudError> {
        if stage.now < self.down_until {
            let message = "service unavailable".to_owned();
            return Some(CloudError::Transient { message });
        }
        if stage.faults.strikes(&mut self.chance, Fault::Throttled) {
            let (until, message) = (None, "RequestLimitExceeded".to_owned());
            return Some(CloudError::RateLimited { until, message });
        }
        if stage
            .faults
            .strikes(&mut self.chance, Fault::ThrottledUntil)
        {
            let until = Some(stage.now + self.chance.secs(1, 60));
            let message = "RequestLimitExceeded".to_owned();
            return Some(CloudError::RateLimited { until, message });
        }
        None
    }
}
