//! Supervisors and their children.

use std::time::Duration;

use longshore_core::ids::ContainerId;

use super::Queue;
use crate::world::scheduler::Scheduler;

impl Queue {
    /// A supervisor will submit so many children, and wait for them at most so long once its own
    /// work is done.
    pub(crate) fn await_children(&mut self, id: ContainerId, many: u32, patience: Duration) {
        if let Some(record) = self.records.get_mut(&id) {
            record.unborn = many;
            record.patience = patience;
        }
    }

    /// A supervisor has submitted a child.
    pub(crate) fn adopt(&mut self, id: ContainerId, child: ContainerId) {
        if let Some(record) = self.records.get_mut(&id) {
            record.children.push(child);
            record.unborn = record.unborn.saturating_sub(1);
        }
    }

    /// A supervisor submits no more.
    pub(crate) fn weaned(&mut self, id: ContainerId) {
        if let Some(record) = self.records.get_mut(&id) {
            record.unborn = 0;
        }
    }

    /// The children that are neither over nor given up.
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

    /// Whether a program whose own work is done goes on for the sake of its children.
    pub(crate) fn waits_for_children(&self, scheduler: &Scheduler, id: ContainerId) -> bool {
        let Some(record) = self.records.get(&id) else {
            return false;
        };
        let own_work_done = record.began_at.unwrap_or_default() + record.runs_for;
        scheduler.now < own_work_done + record.patience
            && (record.unborn > 0 || !self.open_children(id).is_empty())
    }
}
