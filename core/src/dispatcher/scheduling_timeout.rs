//! Timeout of waiting containers (`MaxSchedulingTime`).
//!
//! All containers of a class wait for the same, so each class has a clock. The clock stops while a
//! limit of the operator blocks any waiting container of the class. A container remembers the
//! reading of the clock at the start of the wait. Time before a restart, or before leadership was
//! gained, does not count.

use std::time::Duration;

use super::Dispatcher;
use crate::cancel_reason::CancelReason;
use crate::ids::ContainerId;
use crate::mutants::Mutant;
use crate::queue::classes::ClassId;
use crate::timers::TimeoutReason;

/// Interval of checks of a container close to the timeout while the clock of the class is stopped.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

impl Dispatcher {
    /// Starts or stops the clock of each class, after a placement pass. O(classes · types), and
    /// nothing without a configured timeout.
    pub(super) fn set_clocks(&mut self) {
        let limited = self.config.timeouts.scheduling.is_some();
        if !limited && !self.queue.classes().any_clock_goes() {
            return;
        }
        let ids: Vec<ClassId> = self.queue.classes().iter().map(|(id, _)| id).collect();
        for id in ids {
            let runs = limited && self.waits_for_cloud(id);
            self.queue.run_clock(id, self.now, runs);
        }
    }

    /// True if containers of a class wait and no limit of the operator is the obstacle.
    fn waits_for_cloud(&self, id: ClassId) -> bool {
        let group = self.queue.class(id);
        if !group.any_waits() {
            return false;
        }
        let Some(parked) = self.verdicts.parked.get(&id) else {
            // All wait for booting instances.
            return true;
        };
        let image = &group.class.image;
        let mut types = parked.blocked.iter();
        types.all(|(name, why)| why.is_external() && !self.fleet.any_held(name, image))
            || self.mutant(Mutant::OwnLimitsCount)
    }

    /// Gives up a waiting container after the timeout, and returns true. Schedules the next check
    /// otherwise. O(log containers).
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
        let left = if clock.goes() {
            left
        } else {
            left.max(CHECK_INTERVAL)
        };
        self.timers.set(TimeoutReason::GiveUp(id), self.now + left);
        false
    }
}
