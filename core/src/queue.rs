//! Which containers exist, in which state, in which order.
//!
//! Snapshots of the queue and the answers to our own changes are merged here: an answer wins over a
//! snapshot that began before it came.

pub(crate) mod clock;
pub(crate) mod entry;
pub(crate) mod shapes;

use std::collections::BTreeMap;

use crate::config::Config;
use crate::ids::ContainerId;
use crate::input::ContainerRecord;
use crate::time::Timestamp;
use entry::Entry;
use shapes::{Rank, ShapeGroup, ShapeId, Shapes};

/// The containers. Every operation on one of them costs O(log containers).
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Queue {
    entries: BTreeMap<ContainerId, Entry>,
    shapes: Shapes,
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
        let shape = match &record.demand {
            Ok(demand) => Ok(self.shapes.join(config, demand)),
            Err(wrong) => Err(wrong.clone()),
        };
        let entry = Entry::new(now, started, record, shape);
        self.entries.insert(record.id, entry);
        Merge::Added
    }

    /// Forgets a container: what was known of it, and whether it waited.
    pub(crate) fn remove(&mut self, id: &ContainerId) -> Option<(Entry, bool)> {
        let entry = self.entries.remove(id)?;
        let mut waited = false;
        if let Ok(shape) = entry.shape {
            waited = self.shapes.end_waiting(shape, entry.rank());
            self.shapes.leave(shape);
        }
        Some((entry, waited))
    }

    /// Files a container among those that could start now, or takes it out; true if that changed
    /// anything. `shape` and `rank` are the container's: its entry has just been looked at.
    pub(crate) fn set_waiting(&mut self, shape: ShapeId, rank: Rank, waiting: bool) -> bool {
        match waiting {
            true => self.shapes.begin_waiting(shape, rank),
            false => self.shapes.end_waiting(shape, rank),
        }
    }

    /// A container that waits no longer, or did not anyway. To be called before its priority changes.
    pub(crate) fn end_waiting(&mut self, id: &ContainerId) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(id)?;
        if let Ok(shape) = entry.shape {
            self.shapes.end_waiting(shape, entry.rank());
        }
        Some(entry)
    }

    /// Lets a preemptible container take types that are not; false if there are none for it, or it
    /// does already.
    pub(crate) fn fall_back(&mut self, config: &Config, id: ContainerId) -> bool {
        let entry = self.entries.get(&id);
        let Some(Ok(before)) = entry.map(|entry| entry.shape.clone()) else {
            return false;
        };
        let Some(after) = self.shapes.fall_back(config, before) else {
            return false;
        };
        self.end_waiting(&id);
        self.shapes.leave(before);
        let entry = self.entries.get_mut(&id).expect("just seen");
        entry.shape = Ok(after);
        true
    }

    pub(crate) fn is_waiting(&self, id: &ContainerId) -> bool {
        let waits = |entry: &Entry| {
            let shape = entry.shape.as_ref().ok()?;
            Some(self.shapes.get(*shape).waits(&entry.rank()))
        };
        self.entries.get(id).and_then(waits) == Some(true)
    }

    pub(crate) fn shape(&self, id: ShapeId) -> &ShapeGroup {
        self.shapes.get(id)
    }

    pub(crate) fn shapes(&self) -> &Shapes {
        &self.shapes
    }

    /// Notes that a container that waits was promised room, or that this is so no longer.
    pub(crate) fn set_promised(&mut self, id: ShapeId, rank: Rank, promised: bool) {
        self.shapes.set_promised(id, rank, promised);
    }

    /// Files those that began to wait, before anybody looks at who waits.
    pub(crate) fn file_arrived(&mut self) {
        self.shapes.file_arrived();
    }

    /// Containers that were promised room and have stopped waiting since this was last called.
    pub(crate) fn take_left(&mut self) -> Vec<ContainerId> {
        self.shapes.take_left()
    }

    /// The sentence for its owner, if no configured type will ever hold it, its record is bad, or it
    /// has waited for too long.
    pub(crate) fn hopeless(&self, entry: &Entry) -> Option<String> {
        if let Some(why) = &entry.given_up {
            return Some(why.to_string());
        }
        match &entry.shape {
            Ok(shape) => match &self.shapes.get(*shape).eligible {
                Ok(_) => None,
                Err(misfit) => Some(misfit.0.clone()),
            },
            Err(wrong) => Some(wrong.clone()),
        }
    }

    /// Lets the clock of a shape go, or stand.
    pub(crate) fn run_clock(&mut self, id: ShapeId, now: Timestamp, goes: bool) {
        self.shapes.run_clock(id, now, goes);
    }

    pub(crate) fn reconfigure(&mut self, config: &Config) {
        self.shapes.reconfigure(config);
    }

    /// Waiting containers in their order, from all shapes. O(waiting · log waiting): for views.
    pub(crate) fn waiting_in_order(&self) -> Vec<Rank> {
        let mut all: Vec<Rank> = self
            .shapes
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
