//! Who has waited in vain for too long (`MaxSchedulingTime`).
//!
//! All containers of one shape wait for the same, so each shape has a clock, which stands while a
//! limit of the operator's own is in the way of any that waits; a container notes what the clock
//! shows when it begins to wait. What was before a restart, or before leadership was gained, does not
//! count.

use std::time::Duration;

use super::Dispatcher;
use crate::cancel_reason::CancelReason;
use crate::ids::ContainerId;
use crate::mutants::Mutant;
use crate::queue::classes::ClassId;
use crate::timers::TimeoutReason;

/// While its clock stands, a container that has little time left is looked at so often.
const LOOK: Duration = Duration::from_secs(60);

impl Dispatcher {
    /// After a pass: lets the clock of each shape go, or stand. O(shapes · types), and nothing while
    /// nobody's patience is limited.
    pub(super) fn set_clocks(&mut self) {
        let limited = self.config.timeouts.scheduling.is_some();
        if !limited && !self.queue.classes().any_clock_goes() {
            return;
        }
        let ids: Vec<ClassId> = self.queue.classes().iter().map(|(id, _)| id).collect();
        for id in ids {
            let goes = limited && self.waits_for_cloud(id);
            self.queue.run_clock(id, self.now, goes);
        }
    }

    /// Whether containers of a shape wait, and no limit of the operator's own keeps them from it.
    fn waits_for_cloud(&self, id: ClassId) -> bool {
        let group = self.queue.class(id);
        if !group.any_waits() {
            return false;
        }
        let Some(parked) = self.verdicts.parked.get(&id) else {
            // They all wait for VMs that boot.
            return true;
        };
        let image = &group.class.image;
        let mut types = parked.blocked.iter();
        types.all(|(name, why)| why.is_external() && !self.fleet.any_held(name, image))
            || self.mutant(Mutant::OwnLimitsCount)
    }

    /// Whether a container that waits has done so for too long. If not, it will be looked at when it
    /// may have. O(log containers).
    pub(super) fn check_scheduling_timeout(&mut self, id: ContainerId) -> bool {
        let Some(max) = self.config.timeouts.scheduling else {
            return false;
        };
        let Some(entry) = self.queue.get(&id) else {
            return false;
        };
        let Ok(class) = entry.class else { return false };
        let clock = self.queue.class(class).clock;
        let shows = clock.read(self.now);
        let waited = shows.saturating_sub(entry.waits_from.unwrap_or(shows));
        let waits_for = (waited >= max).then(|| self.instance_wait_reason(entry));
        let Some(entry) = self.queue.get_mut(&id) else {
            return false;
        };
        entry.waits_from.get_or_insert(shows);
        if let Some(waits_for) = waits_for {
            let reason = CancelReason::SchedulingTimeout { max, waits_for };
            entry.given_up = Some(Box::new(reason));
            return true;
        }
        let left = max - waited;
        let left = if clock.goes() { left } else { left.max(LOOK) };
        self.timers.set(TimeoutReason::GiveUp(id), self.now + left);
        false
    }
}
