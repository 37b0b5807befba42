//! Supervisors and their children.

use std::time::Duration;

use longshore_core::ids::ContainerId;

use super::Queue;
use crate::world::scheduler::Scheduler;

impl Queue {
    /// Sets the number of children of a supervisor, and the maximum wait for children after the end
    /// of the supervisor's own work.
    pub(crate) fn await_children(&mut self, id: ContainerId, many: u32, patience: Duration) {
        if let Some(record) = self.records.get_mut(&id) {
            record.unborn = many;
            record.patience = patience;
        }
    }

    /// Records the submission of a child by a supervisor.
    pub(crate) fn adopt(&mut self, id: ContainerId, child: ContainerId) {
        if let Some(record) = self.records.get_mut(&id) {
            record.children.push(child);
            record.unborn = record.unborn.saturating_sub(1);
        }
    }

    /// Marks a supervisor as finished with submitting children.
    pub(crate) fn weaned(&mut self, id: ContainerId) {
        if let Some(record) = self.records.get_mut(&id) {
            record.unborn = 0;
        }
    }

    /// Returns the children neither final nor cancelled.
    pub(crate) fn open_children(&self, id: ContainerId) -> Vec<ContainerId> {
        let children = self.records.get(&id).map(|record| &record.children);
        let open = |id: &&ContainerId| {
            let child = self.records.get(id);
            child.is_some_and(|c| !c.deleted && !c.state.is_final() && c.priority > 0)
        };
        children
            .into_iter()
            .flatten()
            .filter(open)
            .copied()
            .collect()
    }

    /// True if a program with its own work done still waits for children.
    pub(crate) fn waits_for_children(&self, scheduler: &Scheduler, id: ContainerId) -> bool {
        let Some(record) = self.records.get(&id) else {
            return false;
        };
        let own_work_done = record.began_at.unwrap_or_default() + record.runs_for;
        scheduler.now < own_work_done + record.patience
            && (record.unborn > 0 || !self.open_children(id).is_empty())
    }
}
