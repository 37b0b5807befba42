//! Which containers exist, in which state, in which order.
//!
//! Snapshots of the queue and the answers to our own changes are merged here: an answer wins over a
//! snapshot that began before it came.

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

/// The containers. Every operation on one of them costs O(log containers).
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Queue {
    entries: BTreeMap<ContainerId, Entry>,
    classes: Classes,
}

/// What a snapshot's record did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Merge {
    /// It was not known before.
    Added,
    /// It was taken over, and something changed.
    Changed,
    /// It says what is known.
    Same,
    /// It may be older than what is known.
    Stale,
}

impl Queue {
    pub(crate) fn get(&self, id: &ContainerId) -> Option<&Entry> {
        self.entries.get(id)
    }

    /// For changes of anything but priority and shape, which others are filed by.
    pub(crate) fn get_mut(&mut self, id: &ContainerId) -> Option<&mut Entry> {
        self.entries.get_mut(id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Takes over one record of a snapshot that began at `started`.
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

    /// Forgets a container: what was known of it, and whether it waited.
    pub(crate) fn remove(&mut self, id: &ContainerId) -> Option<(Entry, bool)> {
        let entry = self.entries.remove(id)?;
        let mut waited = false;
        if let Ok(class) = entry.class {
            waited = self.classes.end_waiting(class, entry.rank());
            self.classes.leave(class);
        }
        Some((entry, waited))
    }

    /// Files a container among those that could start now, or takes it out; true if that changed
    /// anything. `class` and `rank` are the container's: its entry has just been looked at.
    pub(crate) fn set_waiting(&mut self, class: ClassId, rank: Rank, waiting: bool) -> bool {
        match waiting {
            true => self.classes.begin_waiting(class, rank),
            false => self.classes.end_waiting(class, rank),
        }
    }

    /// A container that waits no longer, or did not anyway. To be called before its priority changes.
    pub(crate) fn end_waiting(&mut self, id: &ContainerId) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(id)?;
        if let Ok(class) = entry.class {
            self.classes.end_waiting(class, entry.rank());
        }
        Some(entry)
    }

    /// Lets a preemptible container take types that are not; false if there are none for it, or it
    /// does already.
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

    /// Notes that a container that waits was promised room, or that this is so no longer.
    pub(crate) fn set_reserved(&mut self, id: ClassId, rank: Rank, reserved: bool) {
        self.classes.set_reserved(id, rank, reserved);
    }

    /// Files those that began to wait, before anybody looks at who waits.
    pub(crate) fn file_arrived(&mut self) {
        self.classes.file_arrived();
    }

    /// Containers that were promised room and have stopped waiting since this was last called.
    pub(crate) fn take_left(&mut self) -> Vec<ContainerId> {
        self.classes.take_left()
    }

    /// The sentence for its owner, if no configured type will ever hold it, its record is bad, or it
    /// has waited for too long.
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

    /// Lets the clock of a shape go, or stand.
    pub(crate) fn run_clock(&mut self, id: ClassId, now: Timestamp, goes: bool) {
        self.classes.run_clock(id, now, goes);
    }

    pub(crate) fn reconfigure(&mut self, config: &Config) {
        self.classes.reconfigure(config);
    }

    /// Waiting containers in their order, from all shapes. O(waiting · log waiting): for views.
    pub(crate) fn waiting_in_order(&self) -> Vec<Rank> {
        let mut all: Vec<Rank> = self
            .classes
            .iter()
            .flat_map(|(_, group)| group.waiting())
            .collect();
        all.sort_unstable();
        all
    }

    /// Unfinished containers that a complete snapshot begun at `started` did not show, and on which
    /// no change is under way. O(containers), once for each poll.
    pub(crate) fn unseen(&self, started: Timestamp) -> impl Iterator<Item = &Entry> {
        let all = self.entries.values();
        all.filter(move |e| e.op.is_none() && e.known_since < started && !e.state.is_final())
    }
}
