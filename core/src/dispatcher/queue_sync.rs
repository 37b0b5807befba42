//! Polls and lookups of the queue, and effects of the records.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Dispatcher;
use crate::backoff::Backoff;
use crate::command::QueueAction;
use crate::event::Event;
use crate::ids::{CommandId, ContainerId};
use crate::input::{ContainerRecord, ContainerState, QueueError};
use crate::mutants::Mutant;
use crate::outbox::Purpose;
use crate::queue::Merge;
use crate::time::Timestamp;
use crate::timers::TimeoutReason;

/// Shortest pause between two polls, whatever the number of hints, so that a busy queue is not
/// polled all the time.
const POLL_GAP_MIN: Duration = Duration::from_millis(100);
/// Pause after a poll, as a multiple of the duration of the poll, so that hints never keep the
/// queue busy for more than a quarter of the time.
const POLL_GAP_FACTOR: u32 = 3;
/// Longest pause after a slow poll: the delay may have been in this process.
const POLL_GAP_MAX: Duration = Duration::from_secs(60);
const POLL_FAILURE_PAUSE_MAX: Duration = Duration::from_secs(60);
const LOOKUP_IDS_MAX: usize = 1000;

/// Progress of polls and lookups.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Poll {
    in_flight: Option<CommandId>,
    /// True if a hint came during the poll in flight.
    again: bool,
    /// Earliest time of the next poll.
    not_before: Timestamp,
    failures: u32,
    /// Start of the latest complete snapshot.
    pub(super) complete_since: Option<Timestamp>,
    /// Containers to look up, missing from snapshots.
    pub(super) lookups: BTreeSet<ContainerId>,
    lookup_in_flight: bool,
    /// Containers forgotten during a poll or a lookup, with the time: records read before must not
    /// bring the container back. Emptied after the poll and the lookup.
    pub(super) forgotten: BTreeMap<ContainerId, Timestamp>,
}

impl Dispatcher {
    /// True if the last poll of the queue failed.
    pub(crate) fn is_queue_failing(&self) -> bool {
        self.poll.failures > 0
    }

    /// Start of the latest complete snapshot of the queue, if any.
    pub(crate) fn latest_snapshot(&self) -> Option<Timestamp> {
        self.poll.complete_since
    }

    /// Polls the queue as soon as the minimal pause allows.
    pub(super) fn poll_soon(&mut self) {
        if self.poll.in_flight.is_some() {
            self.poll.again = true;
        } else {
            let at = self.poll.not_before.max(self.now);
            self.timers.set_earlier(TimeoutReason::PollQueue, at);
        }
    }

    /// Moves a later poll forward to `at`, or to the end of the minimal pause.
    pub(super) fn poll_by(&mut self, at: Timestamp) {
        let at = at.max(self.poll.not_before);
        if self.timers.due(TimeoutReason::PollQueue).is_some() {
            self.timers.set_earlier(TimeoutReason::PollQueue, at);
        }
    }

    pub(super) fn poll_queue(&mut self) {
        if self.poll.in_flight.is_some() {
            return;
        }
        let queued_max = self.config.limits.queued_per_poll;
        let id = self.ask_queue(Purpose::Poll, QueueAction::Poll { queued_max });
        self.poll.in_flight = Some(id);
        self.poll.again = false;
    }

    pub(super) fn on_polled(
        &mut self,
        started: Timestamp,
        result: Result<Vec<ContainerRecord>, QueueError>,
    ) {
        self.poll.in_flight = None;
        let took = self.now.since(started);
        match result {
            Ok(records) => {
                self.poll.failures = 0;
                let gap = took.saturating_mul(POLL_GAP_FACTOR);
                self.poll.not_before = self.now + gap.clamp(POLL_GAP_MIN, POLL_GAP_MAX);
                let first = self.poll.complete_since.replace(started).is_none();
                for record in &records {
                    self.merge_record(started, record);
                }
                self.mark_unseen(started, &records);
                self.send_lookup();
                if first {
                    self.mark_all_dirty();
                }
            }
            Err(error) => {
                self.poll.failures += 1;
                let interval = self.config.intervals.poll;
                let backoff = Backoff {
                    min: interval,
                    max: POLL_FAILURE_PAUSE_MAX.min(interval.saturating_mul(32)),
                };
                self.poll.not_before = self.now + backoff.delay(self.poll.failures - 1);
                self.note_queue_failure(&error);
            }
        }
        self.clear_forgotten();
        let regular = (started + self.config.intervals.poll).max(self.poll.not_before);
        let next = if self.poll.again {
            self.poll.not_before
        } else {
            regular
        };
        self.timers.set(TimeoutReason::PollQueue, next);
    }

    /// Marks known containers missing from the snapshot for a lookup. Containers with a lock, a
    /// runner or a refused update are looked up at once.
    ///
    /// All others only wait. Ranks above the lowest shown rank, or all ranks if the snapshot was
    /// not full, are probably final: as many are looked up as a poll may show. With a full
    /// snapshot, ranks below are probably still waiting: these are looked up in turns, some after
    /// each poll, so that a final one is noticed after (number / 1,000) polls. The oldest knowledge
    /// goes first, and an answer moves a container to the end. O(containers).
    fn mark_unseen(&mut self, started: Timestamp, shown: &[ContainerRecord]) {
        let max = self.config.limits.queued_per_poll as usize;
        let queued = shown.iter().filter(|r| r.state == ContainerState::Queued);
        let lowest = queued.clone().map(|record| record.priority).min();
        let lowest = lowest.filter(|_| queued.count() >= max).unwrap_or_default();
        let mut over = Vec::new();
        let mut below = Vec::new();
        for entry in self.queue.unseen(started) {
            let waits = entry.state == ContainerState::Queued
                && entry.failures == 0
                && self.fleet.hosts(entry.id).next().is_none();
            if !waits {
                self.poll.lookups.insert(entry.id);
            } else if entry.priority > lowest {
                over.push((entry.known_since, entry.id));
            } else {
                below.push((entry.known_since, entry.id));
            }
        }
        let over = oldest_known(over, max.max(LOOKUP_IDS_MAX));
        let below = oldest_known(below, LOOKUP_IDS_MAX);
        self.poll.lookups.extend(over);
        self.poll.lookups.extend(below);
    }

    /// Looks up the marked containers.
    fn send_lookup(&mut self) {
        if self.poll.lookup_in_flight || self.poll.lookups.is_empty() {
            return;
        }
        let ids: Vec<ContainerId> = self
            .poll
            .lookups
            .iter()
            .copied()
            .take(LOOKUP_IDS_MAX)
            .collect();
        for id in &ids {
            self.poll.lookups.remove(id);
        }
        self.poll.lookup_in_flight = true;
        let action = QueueAction::Lookup { ids: ids.clone() };
        self.ask_queue(Purpose::Lookup(ids), action);
    }

    /// Looks up a running container without a known record.
    pub(super) fn request_lookup(&mut self, id: ContainerId) {
        self.poll.lookups.insert(id);
        self.send_lookup();
    }

    pub(super) fn on_looked_up(
        &mut self,
        started: Timestamp,
        ids: &[ContainerId],
        result: Result<Vec<ContainerRecord>, QueueError>,
    ) {
        self.poll.lookup_in_flight = false;
        match result {
            Ok(records) => {
                let shown: BTreeSet<ContainerId> = records.iter().map(|r| r.id).collect();
                for record in &records {
                    self.merge_record(started, record);
                }
                for id in ids.iter().filter(|id| !shown.contains(id)) {
                    self.on_record_missing(started, *id);
                }
                self.send_lookup();
            }
            // The next poll marks known containers again; unknown containers would be forgotten.
            Err(error) => {
                let unknown = ids.iter().filter(|id| self.queue.get(id).is_none());
                self.poll.lookups.extend(unknown);
                self.note_queue_failure(&error);
            }
        }
        self.clear_forgotten();
    }

    /// Notes a forgotten container, so that records being read are ignored.
    pub(super) fn note_forgotten(&mut self, id: ContainerId) {
        if self.poll.in_flight.is_some() || self.poll.lookup_in_flight {
            self.poll.forgotten.insert(id, self.now);
        }
    }

    fn clear_forgotten(&mut self) {
        if self.poll.in_flight.is_none() && !self.poll.lookup_in_flight {
            self.poll.forgotten.clear();
        }
    }

    /// Lowers the concurrency limit if the queue reports overload. True in that case.
    pub(super) fn note_overload(&mut self, error: &QueueError) -> bool {
        let overloaded = matches!(error, QueueError::Overloaded(_));
        if overloaded {
            let running = self.fleet.runners();
            self.capacity.concurrency.overloaded(self.now, running);
            self.dirty.placement = true;
        }
        overloaded
    }

    fn note_queue_failure(&mut self, error: &QueueError) {
        let overloaded = self.note_overload(error);
        let error = error.to_string();
        self.out
            .event(Event::QueueUnavailable { error, overloaded });
    }

    fn merge_record(&mut self, started: Timestamp, record: &ContainerRecord) {
        let container = record.id;
        let known = self.queue.get(&container);
        let before = known.map(|entry| entry.state);
        let news = known.is_none_or(|entry| !entry.says(record));
        let forgotten = self.poll.forgotten.get(&container);
        if forgotten.is_some_and(|at| started < *at) {
            return;
        }
        if before.is_none()
            && record.state.is_final()
            && self.fleet.hosts(container).next().is_none()
        {
            return;
        }
        let started = match self.mutant(Mutant::StaleSnapshotTaken) {
            true => self.now,
            false => started,
        };
        // Most records of most polls bring no change.
        let waited = news && self.queue.is_waiting(&container);
        match self.queue.merge(self.now, started, &self.config, record) {
            Merge::Added => {
                self.update_needs(container);
                self.out.event(Event::ContainerSeen {
                    container,
                    state: record.state,
                    priority: record.priority,
                });
                self.dirty.containers.insert(container);
            }
            Merge::Changed => {
                // The rank of the container has changed, or the container waits no longer.
                self.dirty.placement |= waited && !self.queue.is_waiting(&container);
                self.note_state(container, before);
                self.dirty.containers.insert(container);
            }
            // A container without a known host waits for exactly such a newer record.
            Merge::Same
                if record.state != ContainerState::Queued
                    && self.fleet.hosts(container).next().is_none() =>
            {
                self.dirty.containers.insert(container);
            }
            Merge::Same | Merge::Stale => {}
        }
    }

    /// Reports a change of the state of a container.
    pub(super) fn note_state(&mut self, container: ContainerId, before: Option<ContainerState>) {
        let after = self.queue.get(&container).map(|entry| entry.state);
        if let (Some(from), Some(to)) = (before, after)
            && from != to
        {
            let event = Event::ContainerState {
                container,
                from,
                to,
            };
            self.out.event(event);
        }
    }

    /// Takes a missing record as proof of deletion, if the lookup began at `started` or later than
    /// all knowledge.
    fn on_record_missing(&mut self, started: Timestamp, id: ContainerId) {
        let known_newer = self
            .queue
            .get(&id)
            .is_some_and(|entry| entry.op.is_some() || entry.known_since > started);
        if known_newer {
            return;
        }
        let spared = if let Some(entry) = self.remove_container(id) {
            self.out.event(Event::ContainerDropped {
                container: id,
                state: entry.state,
                deleted: true,
            });
            self.mutant(Mutant::DeletedRunnerSpared)
        } else {
            self.mutant(Mutant::UnknownRunnerSpared)
        };
        if !spared {
            self.stop_unknown(id);
        }
    }

    /// Marks all containers and placement dirty, after a change of a common condition.
    pub(super) fn mark_all_dirty(&mut self) {
        let ids: Vec<ContainerId> = self.queue.iter().map(|entry| entry.id).collect();
        self.dirty.containers.extend(ids);
        self.dirty.placement = true;
    }

    /// Marks containers dirty that may have waited for probes of adopted instances.
    pub(super) fn mark_unowned_locks_dirty(&mut self) {
        let unowned_locks = self
            .queue
            .iter()
            .filter(|entry| entry.state != ContainerState::Queued || entry.lock_count > 0);
        let ids: Vec<ContainerId> = unowned_locks.map(|entry| entry.id).collect();
        self.dirty.containers.extend(ids);
    }
}

/// Containers with the oldest knowledge, unordered. O(all).
fn oldest_known(
    mut all: Vec<(Timestamp, ContainerId)>,
    most: usize,
) -> impl Iterator<Item = ContainerId> {
    if all.len() > most {
        all.select_nth_unstable(most);
        all.truncate(most);
    }
    all.into_iter().map(|(_, id)| id)
}
