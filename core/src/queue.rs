//! Known containers, their states and their order.
//!
//! Merges snapshots of the queue with the answers to own changes: an answer wins over a snapshot
//! started before the answer arrived.

pub(crate) mod classes;
pub(crate) mod clock;
pub(crate) mod entry;

use std::collections::BTreeMap;

use crate::cancel_reason::CancelReason;
use crate::config::Config;
use crate::ids::ContainerId;
use crate::input::ContainerRecord;
use crate::time::Timestamp;
use classes::{ClassGroup, ClassId, Classes, Rank};
use entry::Entry;

/// All containers. Every operation on one container costs O(log containers).
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Queue {
    entries: BTreeMap<ContainerId, Entry>,
    classes: Classes,
}

/// Effect of a snapshot's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Merge {
    /// New container.
    Added,
    /// Known container with a change.
    Changed,
    /// Known container without a change.
    Same,
    /// Record possibly older than the known state.
    Stale,
}

impl Queue {
    pub(crate) fn get(&self, id: &ContainerId) -> Option<&Entry> {
        self.entries.get(id)
    }

    /// Mutable entry, for changes outside priority and class, which are index keys.
    pub(crate) fn get_mut(&mut self, id: &ContainerId) -> Option<&mut Entry> {
        self.entries.get_mut(id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Merges one record of a snapshot started at `started`.
    pub(crate) fn merge(
        &mut self,
        now: Timestamp,
        started: Timestamp,
        config: &Config,
        record: &ContainerRecord,
    ) -> Merge {
        if let Some(entry) = self.entries.get_mut(&record.id) {
            if entry.outdates(started) {
                return Merge::Stale;
            }
            if entry.priority == record.priority {
                return entry.merge(now, started, record);
            }
            self.end_waiting(&record.id);
            let entry = self.entries.get_mut(&record.id).expect("just found");
            return entry.merge(now, started, record);
        }
        let class = match &record.demand {
            Ok(demand) => Ok(self.classes.join(config, demand)),
            Err(wrong) => Err(wrong.clone()),
        };
        let entry = Entry::new(now, started, record, class);
        self.entries.insert(record.id, entry);
        Merge::Added
    }

    /// Forgets a container and its place among waiting containers.
    pub(crate) fn remove(&mut self, id: &ContainerId) -> Option<(Entry, bool)> {
        let entry = self.entries.remove(id)?;
        let mut waited = false;
        if let Ok(class) = entry.class {
            waited = self.classes.end_waiting(class, entry.rank());
            self.classes.leave(class);
        }
        Some((entry, waited))
    }

    /// Adds a container to the waiting containers, or removes it; true for a change. `class` and
    /// `rank` are the container's own, from an entry just read.
    pub(crate) fn set_waiting(&mut self, class: ClassId, rank: Rank, waiting: bool) -> bool {
        match waiting {
            true => self.classes.begin_waiting(class, rank),
            false => self.classes.end_waiting(class, rank),
        }
    }

    /// Removes a container from the waiting containers, if present. Must precede a change of its
    /// priority.
    pub(crate) fn end_waiting(&mut self, id: &ContainerId) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(id)?;
        if let Ok(class) = entry.class {
            self.classes.end_waiting(class, entry.rank());
        }
        Some(entry)
    }

    /// Lets a preemptible container take on-demand types; false without a suitable type, or after
    /// an earlier fallback.
    pub(crate) fn fall_back(&mut self, config: &Config, id: ContainerId) -> bool {
        let entry = self.entries.get(&id);
        let Some(Ok(before)) = entry.map(|entry| entry.class.clone()) else {
            return false;
        };
        let Some(after) = self.classes.fall_back(config, before) else {
            return false;
        };
        self.end_waiting(&id);
        self.classes.leave(before);
        let entry = self.entries.get_mut(&id).expect("just seen");
        entry.class = Ok(after);
        true
    }

    pub(crate) fn is_waiting(&self, id: &ContainerId) -> bool {
        let waits = |entry: &Entry| {
            let class = entry.class.as_ref().ok()?;
            Some(self.classes.get(*class).waits(&entry.rank()))
        };
        self.entries.get(id).and_then(waits) == Some(true)
    }

    pub(crate) fn class(&self, id: ClassId) -> &ClassGroup {
        self.classes.get(id)
    }

    pub(crate) fn classes(&self) -> &Classes {
        &self.classes
    }

    /// Records the gain or loss of a waiting container's reservation.
    pub(crate) fn set_reserved(&mut self, id: ClassId, rank: Rank, reserved: bool) {
        self.classes.set_reserved(id, rank, reserved);
    }

    /// Sorts newly waiting containers in, before any read of the waiting order.
    pub(crate) fn file_arrived(&mut self) {
        self.classes.file_arrived();
    }

    /// Takes the containers with a reservation that stopped waiting since the last call.
    pub(crate) fn take_left(&mut self) -> Vec<ContainerId> {
        self.classes.take_left()
    }

    /// Sentence for the owner of an unsatisfiable container: no configured type is large enough,
    /// the record is malformed, or the scheduling timeout has passed.
    pub(crate) fn cancel_reason(&self, entry: &Entry) -> Option<CancelReason> {
        if let Some(why) = &entry.given_up {
            return Some(CancelReason::clone(why));
        }
        match &entry.class {
            Ok(class) => match &self.classes.get(*class).eligible {
                Ok(_) => None,
                Err(misfit) => Some(CancelReason::Unsatisfiable(misfit.0.clone())),
            },
            Err(wrong) => Some(CancelReason::Malformed(wrong.clone())),
        }
    }

    /// Starts or stops the clock of a container class.
    pub(crate) fn run_clock(&mut self, id: ClassId, now: Timestamp, goes: bool) {
        self.classes.run_clock(id, now, goes);
    }

    pub(crate) fn reconfigure(&mut self, config: &Config) {
        self.classes.reconfigure(config);
    }

    /// Waiting containers of all classes in order. O(waiting · log waiting), for views.
    pub(crate) fn waiting_in_order(&self) -> Vec<Rank> {
        let mut all: Vec<Rank> = self
            .classes
            .iter()
            .flat_map(|(_, group)| group.waiting())
            .collect();
        all.sort_unstable();
        all
    }

    /// Unfinished containers absent from a complete snapshot started at `started`, without a change
    /// in flight. O(containers), once for each poll.
    pub(crate) fn unseen(&self, started: Timestamp) -> impl Iterator<Item = &Entry> {
        let all = self.entries.values();
        all.filter(move |e| e.op.is_none() && e.known_since < started && !e.state.is_final())
    }
}
