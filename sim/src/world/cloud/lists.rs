//! Instance lists: partial, paged, delayed or stale.

use std::time::Duration;

use longshore_core::ids::{CommandId, InstanceId};
use longshore_core::input::{Answer, CloudError, InstanceRecord};
use longshore_core::time::Timestamp;

use super::Cloud;
use crate::world::events::{CloudStep, FirstPage, Happening, Origin};
use crate::world::faults::Fault;
use crate::world::scheduler::Scheduler;

const HIDDEN_MAX: Duration = Duration::from_secs(30);
const SHOWN_MIN: Duration = Duration::from_secs(120);
/// Maximum age of a cached list.
const STALE_MAX: Duration = Duration::from_secs(25);

impl Cloud {
    pub(super) fn list(&mut self, scheduler: &mut Scheduler, from: Origin, id: CommandId) {
        let pause = self.rng.millis(50, 1500);
        let fails = self.refuse(scheduler).or_else(|| {
            let fails = scheduler.faults.strikes(&mut self.rng, Fault::ListFails);
            let message = "connection reset".to_owned();
            fails.then_some(CloudError::Transient { message })
        });
        if let Some(error) = fails {
            return self.reply(scheduler, from, id, Answer::Instances(Err(error)), pause);
        }
        let now = scheduler.now;
        self.instances
            .retain(|_, i| i.ended.is_none_or(|ended| ended.shown_until > now));
        let records = self.cached(scheduler).unwrap_or_else(|| self.shown(now));
        if records.len() > 1 && scheduler.faults.strikes(&mut self.rng, Fault::ListPaged) {
            return self.first_page(scheduler, from, id, records);
        }
        let records = self.lacking_one(scheduler, records);
        self.reply(scheduler, from, id, Answer::Instances(Ok(records)), pause);
    }

    /// Returns the content of a complete list.
    fn shown(&self, now: Timestamp) -> Vec<InstanceRecord> {
        let shown = self.instances.values().filter(|i| i.listed_from <= now);
        let shown = shown.map(|i| {
            let mut record = i.record.clone();
            record.terminated = i.ended.is_some_and(|ended| !ended.shown_alive);
            record
        });
        shown.collect()
    }

    /// Returns the previous list if the fault of stale lists strikes.
    fn cached(&mut self, scheduler: &mut Scheduler) -> Option<Vec<InstanceRecord>> {
        let now = scheduler.now;
        if let Some((at, records)) = &self.listed
            && now.since(*at) < STALE_MAX
            && scheduler.faults.strikes(&mut self.rng, Fault::ListStale)
        {
            let records = records.clone();
            scheduler.note(|| "a list is the one of a moment ago".to_owned());
            return Some(records);
        }
        if scheduler.faults.may_strike(Fault::ListStale) {
            self.listed = Some((now, self.shown(now)));
        }
        None
    }

    /// Builds the first of two pages and schedules the read of the second; the world changes in
    /// between.
    fn first_page(
        &mut self,
        scheduler: &mut Scheduler,
        from: Origin,
        id: CommandId,
        mut records: Vec<InstanceRecord>,
    ) {
        let size = self.rng.between(1, records.len() as u64 - 1);
        records.truncate(usize::try_from(size).unwrap_or(1));
        let Some(last) = records.last().map(|record| record.id.clone()) else {
            return;
        };
        let page = FirstPage {
            from,
            id,
            records,
            last,
        };
        let pause = self.rng.millis(500, 20_000);
        let rest = CloudStep::ListRest(Box::new(page));
        scheduler.after(pause, Happening::Cloud(rest));
    }

    pub(super) fn list_rest(&mut self, scheduler: &mut Scheduler, page: FirstPage) {
        let rest = self.shown(scheduler.now).into_iter();
        let mut records = page.records;
        records.extend(rest.filter(|record| record.id > page.last));
        let records = self.lacking_one(scheduler, records);
        let pause = self.rng.millis(50, 1500);
        let answer = Answer::Instances(Ok(records));
        self.reply(scheduler, page.from, page.id, answer, pause);
    }

    fn lacking_one(
        &mut self,
        scheduler: &mut Scheduler,
        mut records: Vec<InstanceRecord>,
    ) -> Vec<InstanceRecord> {
        if !records.is_empty() && scheduler.faults.strikes(&mut self.rng, Fault::ListPartial) {
            let index = self.rng.below(records.len() as u64);
            let index = usize::try_from(index).unwrap_or(0);
            if self.may_hide(scheduler.now, &records[index].id) {
                let lacking = records.remove(index);
                scheduler.note(|| format!("a list lacks {}", lacking.id));
            }
        }
        records
    }

    /// True if a list may omit the instance. Bounds the delay: after 30 s of omission, an instance
    /// is listed for the next two minutes.
    fn may_hide(&mut self, now: Timestamp, id: &InstanceId) -> bool {
        let Some(instance) = self.instances.get_mut(id) else {
            return true;
        };
        if now.since(instance.hidden_since) > HIDDEN_MAX + SHOWN_MIN {
            instance.hidden_since = now;
        }
        now.since(instance.hidden_since) < HIDDEN_MAX
    }
}
