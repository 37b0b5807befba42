//! Effect of a configuration reload on intervals: a repeated action due after an interval of the
//! old configuration is moved forward to an interval of the new configuration, if sooner.

use super::Dispatcher;
use crate::backoff::jittered;
use crate::ids::{ContainerId, VmKey};
use crate::time::Timestamp;
use crate::timers::TimeoutReason;

impl Dispatcher {
    /// Moves all periodic deadlines forward according to the configured intervals. Deadlines of
    /// answers stay. O(instances + runners being stopped).
    pub(super) fn apply_shorter_intervals(&mut self) {
        let (intervals, timeouts) = (&self.config.intervals, &self.config.timeouts);
        let (poll, sync, probe) = (intervals.poll, intervals.sync, intervals.probe);
        let (shutdown, signal) = (timeouts.shutdown, timeouts.signal);
        self.poll_by(self.now + poll);
        for cloud in &self.clouds {
            let due = TimeoutReason::SyncCloud(*cloud);
            self.timers.set_earlier(due, self.now + sync);
        }
        let keys: Vec<VmKey> = self.fleet.iter().map(|vm| vm.key).collect();
        for key in keys {
            // As after an answer, so that probes spread out.
            let jitter = jittered(probe / 16, self.chance.jitter());
            self.bring_forward(TimeoutReason::ProbeVm(key), self.now + probe - jitter);
            self.bring_forward(TimeoutReason::DestroyVm(key), self.now + shutdown);
            let runners = self
                .fleet
                .get(key)
                .into_iter()
                .flat_map(|vm| vm.work.runners.iter());
            let ending = runners.filter(|(_, runner)| runner.escalation.is_some());
            let ending: Vec<ContainerId> = ending.map(|(id, _)| *id).collect();
            for id in ending {
                self.bring_forward(TimeoutReason::SignalRunner(key, id), self.now + signal);
            }
        }
    }

    /// Moves an existing deadline forward to `at`.
    fn bring_forward(&mut self, reason: TimeoutReason, at: Timestamp) {
        if self.timers.due(reason).is_some() {
            self.timers.set_earlier(reason, at);
        }
    }
}
