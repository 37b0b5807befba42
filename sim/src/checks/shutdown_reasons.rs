//! Whether the reasons for which instances are given back are true: silence, a boot that takes too
//! long and containers that cannot be killed are judged by what the process was told.

use std::time::Duration;

use longshore_core::ShutdownReason;
use longshore_core::ids::InstanceId;
use longshore_core::time::Timestamp;

use crate::world::World;

/// Several inputs may be taken before the decisions that follow from them.
const SLACK: Duration = Duration::from_secs(1);

impl World {
    /// A process tells that it gives an instance back.
    pub(crate) fn check_leaving(&mut self, index: usize, id: &InstanceId, reason: &ShutdownReason) {
        let buried = self.processes.all[index].ledger.buried.get(id);
        if buried.is_some_and(|(before, until)| before == reason && self.scheduler.now <= *until) {
            // That was judged before it was gone.
            return;
        }
        let soonest = match reason {
            ShutdownReason::Unresponsive => self.silent_from(index, id),
            ShutdownReason::BootTimeout => self.boot_ends(index, id),
            ShutdownReason::Unkillable => self.unkillable_from(index, id),
            ShutdownReason::Idle
            | ShutdownReason::Drained
            | ShutdownReason::MakeRoom
            | ShutdownReason::Operator(_) => return,
        };
        let now = self.scheduler.now;
        let wrong = match soonest {
            Ok(at) if now + SLACK < at => format!("that is true from {at}, it is {now}"),
            Ok(_) => return,
            Err(why) => why.to_owned(),
        };
        let text = format!("{id} is given back ({reason}), but {wrong}");
        self.scheduler.violate("true shutdowns", text);
    }

    fn silent_from(&self, index: usize, id: &InstanceId) -> Result<Timestamp, &'static str> {
        let process = &self.processes.all[index];
        let ledger = &process.ledger;
        let heard = ledger.heard.get(id).or(ledger.heard_of.get(id));
        let heard = heard.ok_or("it was never shown")?;
        Ok(*heard + process.config.timeouts.probe)
    }

    fn boot_ends(&self, index: usize, id: &InstanceId) -> Result<Timestamp, &'static str> {
        let process = &self.processes.all[index];
        let shown = process.ledger.heard_of.get(id);
        let shown = shown.ok_or("it was never shown")?;
        Ok(*shown + process.config.timeouts.booting)
    }

    /// The first signal may have had to wait for the answer to the start.
    fn unkillable_from(&self, index: usize, id: &InstanceId) -> Result<Timestamp, &'static str> {
        let timeouts = &self.processes.all[index].config.timeouts;
        let first = self.vigil.first_term(index, id);
        let first = first.ok_or("nothing on it got a TERM")?;
        Ok(first + timeouts.term + timeouts.kill - timeouts.vm_answer)
    }
}
