//! Containers API: records, with failing and lost answers. Permitted state transitions are in
//! `changes`.

mod changes;
mod supervisors;

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use longshore_core::command::QueueAction;
use longshore_core::ids::{CommandId, ContainerId};
use longshore_core::input::{Answer, ContainerRecord, ContainerState, ContainerUpdate, QueueError};
use longshore_core::resources::Demand;
use longshore_core::time::Timestamp;

use crate::world::coverage::CoverageMark;
use crate::world::dense_map::{DenseMap, container_id};
use crate::world::events::{Happening, Origin, QueueStep, RunnerId};
use crate::world::faults::Fault;
use crate::world::rng::Rng;
use crate::world::scheduler::Scheduler;
use crate::world::workload::Arrival;

/// Container in its true state.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) state: ContainerState,
    pub(crate) priority: u64,
    pub(crate) ours: bool,
    pub(crate) lock_count: u32,
    /// Creation time by the queue's clock, possibly wrong.
    pub(crate) created_at: Timestamp,
    pub(crate) submitted_at: Timestamp,
    pub(crate) demand: Result<Demand, String>,
    /// Runner with permission to run the container.
    runner: Option<RunnerId>,
    /// Error text of the final record, for the owner.
    pub(crate) error: Option<String>,
    /// Warning text of the open record, for the owner.
    pub(crate) warning: Option<String>,
    pub(crate) deleted: bool,
    pub(crate) completed: bool,
    pub(crate) runs_for: Duration,
    pub(crate) ended_at: Option<Timestamp>,
    /// Submitted children, number of children still to come, and maximum wait for all children.
    children: Vec<ContainerId>,
    unborn: u32,
    pub(crate) patience: Duration,
    /// Start time of the container's program.
    pub(crate) began_at: Option<Timestamp>,
    /// True if the user has cancelled the container at any time.
    pub(crate) unwanted: bool,
}

/// State of the queue.
#[derive(Debug)]
pub(crate) struct Queue {
    rng: Rng,
    pub(crate) records: DenseMap<ContainerId, Record>,
    queued: BTreeSet<(Reverse<u64>, Timestamp, ContainerId)>,
    locked: BTreeSet<ContainerId>,
    pub(crate) last: u64,
    pub(crate) attempts_max: u32,
    /// True if a running container can be requeued, as in the built-in queue. The peer's API
    /// cancels such a container, and its request submits a new container.
    pub(crate) requeues: bool,
    /// True if the queue pushes change hints.
    pub(crate) pushes: bool,
    hint_due: bool,
    storm_until: Timestamp,
    slow_until: Timestamp,
    token_bad_until: Timestamp,
    /// Number of records neither final nor deleted.
    pub(crate) open: usize,
    pub(crate) open_peak: usize,
}

const TICK: Duration = Duration::from_secs(60);
/// Maximum duration of an answer from a slow queue, in seconds.
const SLOW_SECS_MAX: u64 = 50;

impl Queue {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed, "queue"),
            records: DenseMap::default(),
            queued: BTreeSet::new(),
            locked: BTreeSet::new(),
            last: 0,
            attempts_max: 5,
            requeues: true,
            pushes: true,
            hint_due: false,
            storm_until: Timestamp::EPOCH,
            slow_until: Timestamp::EPOCH,
            token_bad_until: Timestamp::EPOCH,
            open: 0,
            open_peak: 0,
        }
    }

    /// Submits a container for a user.
    pub(crate) fn submit(
        &mut self,
        scheduler: &mut Scheduler,
        demand: Result<Demand, String>,
        priority: u64,
        runs_for: Duration,
    ) -> ContainerId {
        self.last += 1;
        while self.records.contains_key(&container_id(self.last)) {
            self.last += 1;
        }
        let id = container_id(self.last);
        self.enter(scheduler, id, demand, priority, runs_for);
        id
    }

    /// Submits a container of a recorded workload.
    pub(crate) fn submit_as(
        &mut self,
        scheduler: &mut Scheduler,
        arrival: &Arrival,
    ) -> ContainerId {
        let (demand, runs_for) = (Ok(arrival.demand.clone()), arrival.runs_for);
        let id = match arrival.id {
            Some(id) => {
                self.enter(scheduler, id, demand, arrival.priority, runs_for);
                id
            }
            None => self.submit(scheduler, demand, arrival.priority, runs_for),
        };
        if let Some(parent) = arrival.parent {
            self.adopt(parent, id);
            if let Some(parent) = self.records.get_mut(&parent) {
                parent.patience = Duration::MAX;
            }
        }
        id
    }

    fn enter(
        &mut self,
        scheduler: &mut Scheduler,
        id: ContainerId,
        demand: Result<Demand, String>,
        priority: u64,
        runs_for: Duration,
    ) {
        let mut created_at = scheduler.now;
        if scheduler.faults.strikes(&mut self.rng, Fault::ClockSkew) {
            let ahead = self.rng.one_in(2);
            let skew = self.rng.secs(1, 7200);
            created_at = if ahead {
                created_at + skew
            } else {
                created_at - skew
            };
        }
        let record = Record {
            state: ContainerState::Queued,
            priority,
            ours: false,
            lock_count: 0,
            created_at,
            submitted_at: scheduler.now,
            demand,
            runner: None,
            error: None,
            warning: None,
            deleted: false,
            completed: false,
            runs_for,
            ended_at: None,
            unwanted: priority == 0,
            children: Vec::new(),
            unborn: 0,
            patience: Duration::ZERO,
            began_at: None,
        };
        self.records.insert(&id, record);
        self.open += 1;
        self.open_peak = self.open_peak.max(self.open);
        self.file(id);
        scheduler.note(|| format!("{id} is submitted, priority {priority}"));
        self.hint(scheduler);
    }

    /// True if another dispatcher holds the container's lock.
    pub(crate) fn is_locked_elsewhere(&self, id: ContainerId) -> bool {
        let record = self.records.get(&id);
        record.is_some_and(|record| record.state == ContainerState::Locked && !record.ours)
    }

    pub(crate) fn state(&self, id: ContainerId) -> Option<ContainerState> {
        let record = self.records.get(&id).filter(|r| !r.deleted)?;
        Some(record.state)
    }

    pub(crate) fn has_completed(&self, id: ContainerId) -> bool {
        self.records.get(&id).is_some_and(|r| r.completed)
    }

    pub(crate) fn run_time(&self, id: ContainerId) -> Duration {
        self.records
            .get(&id)
            .map(|r| r.runs_for)
            .unwrap_or_default()
    }

    /// Returns the records neither final nor deleted.
    pub(crate) fn open_records(&self) -> impl Iterator<Item = (&ContainerId, &Record)> {
        let queued = self.queued.iter().map(|(_, _, id)| id);
        let ids = queued.chain(self.locked.iter());
        ids.map(|id| (id, &self.records[id]))
    }

    pub(crate) fn set_priority(
        &mut self,
        scheduler: &mut Scheduler,
        id: ContainerId,
        priority: u64,
    ) {
        self.change(id, |record| {
            if !record.state.is_final() {
                record.priority = priority;
                record.unwanted |= priority == 0;
            }
        });
        scheduler.note(|| format!("{id} gets priority {priority}"));
        self.hint(scheduler);
    }

    pub(crate) fn delete(&mut self, scheduler: &mut Scheduler, id: ContainerId) {
        let running = self.state(id) == Some(ContainerState::Running);
        if running {
            scheduler.mark(CoverageMark::DeletedWhileRunning);
        }
        self.change(id, |record| record.deleted = true);
        scheduler.note(|| format!("{id} is deleted"));
        self.hint(scheduler);
    }

    /// Changes a record and updates the indexes.
    fn change<R>(&mut self, id: ContainerId, change: impl FnOnce(&mut Record) -> R) -> Option<R> {
        let record = self.records.get(&id)?;
        let was_open = !record.deleted && !record.state.is_final();
        let place = (Reverse(record.priority), record.created_at, id);
        self.queued.remove(&place);
        self.locked.remove(&id);
        let result = change(self.records.get_mut(&id)?);
        let record = &self.records[&id];
        let is_open = !record.deleted && !record.state.is_final();
        self.open += usize::from(is_open);
        self.open -= usize::from(was_open);
        self.file(id);
        Some(result)
    }

    fn file(&mut self, id: ContainerId) {
        let record = &self.records[&id];
        match record.state {
            _ if record.deleted => {}
            ContainerState::Queued => {
                let place = (Reverse(record.priority), record.created_at, id);
                self.queued.insert(place);
            }
            ContainerState::Locked | ContainerState::Running => {
                self.locked.insert(id);
            }
            ContainerState::Complete | ContainerState::Cancelled => {}
        }
    }

    fn hint(&mut self, scheduler: &mut Scheduler) {
        if self.pushes && !self.hint_due {
            self.hint_due = !scheduler.faults.strikes(&mut self.rng, Fault::NoHint);
            if self.hint_due {
                let pause = self.rng.millis(5, 100);
                scheduler.after(pause, Happening::Queue(Box::new(QueueStep::Hint)));
            }
        }
    }

    /// Handles an event of the queue; true if a hint must be pushed.
    pub(crate) fn step(&mut self, scheduler: &mut Scheduler, step: QueueStep) -> bool {
        match step {
            QueueStep::Tick => {
                scheduler.after(TICK, Happening::Queue(Box::new(QueueStep::Tick)));
                if scheduler.faults.strikes(&mut self.rng, Fault::QueueStorm) {
                    self.storm_until = scheduler.now + self.rng.secs(10, 600);
                    scheduler.note(|| "the queue begins to refuse everything".to_owned());
                }
                if scheduler.faults.strikes(&mut self.rng, Fault::QueueSlow) {
                    self.slow_until = scheduler.now + self.rng.secs(30, 900);
                    scheduler.note(|| "the queue becomes slow".to_owned());
                }
                if scheduler.faults.strikes(&mut self.rng, Fault::TokenExpired) {
                    self.token_bad_until = scheduler.now + self.rng.secs(30, 900);
                    scheduler.note(|| "our token is refused".to_owned());
                }
                false
            }
            QueueStep::PollRest {
                from,
                id,
                mut locked,
                queued_max,
            } => {
                let wanted = self.queued.iter().filter(|(Reverse(p), ..)| *p > 0);
                let wanted = wanted.take(queued_max as usize);
                let queued = wanted.map(|(_, _, id)| self.show(*id));
                // Shows a container unlocked between the two halves only once.
                let is_there = |r: &ContainerRecord| {
                    r.lock_count > 0 && locked.binary_search_by_key(&r.id, |r| r.id).is_ok()
                };
                let queued: Vec<_> = queued.filter(|record| !is_there(record)).collect();
                locked.extend(queued);
                if scheduler.faults.strikes(&mut self.rng, Fault::ShortPoll) {
                    let rng = &mut self.rng;
                    locked.retain(|_| !rng.one_in(3));
                    scheduler.note(|| "a reading of the queue is incomplete".to_owned());
                }
                self.reply(scheduler, from, id, Answer::Containers(Ok(locked)));
                false
            }
            QueueStep::Hint => {
                self.hint_due = false;
                true
            }
            QueueStep::OtherUnlocks(id) => {
                self.change(id, |record| {
                    if record.state == ContainerState::Locked && !record.ours {
                        record.state = ContainerState::Queued;
                    }
                });
                self.hint(scheduler);
                false
            }
        }
    }

    pub(crate) fn end_outages(&mut self) {
        self.storm_until = Timestamp::EPOCH;
        self.slow_until = Timestamp::EPOCH;
        self.token_bad_until = Timestamp::EPOCH;
    }

    /// True if the queue refuses all calls of the dispatcher.
    pub(crate) fn is_stormy(&self, now: Timestamp) -> bool {
        now < self.storm_until.max(self.token_bad_until)
    }

    /// True if answers may arrive after the given timeout.
    pub(crate) fn outlasts(&self, now: Timestamp, patience: Duration) -> bool {
        now < self.slow_until && patience.as_secs() <= SLOW_SECS_MAX
    }

    fn show(&self, id: ContainerId) -> ContainerRecord {
        let record = &self.records[&id];
        ContainerRecord {
            id,
            state: record.state,
            priority: record.priority,
            locked_by_us: record.ours,
            lock_count: record.lock_count,
            created_at: record.created_at,
            demand: record.demand.clone(),
        }
    }

    fn busy(&mut self, scheduler: &mut Scheduler) -> bool {
        scheduler.now < self.storm_until
            || scheduler.faults.strikes(&mut self.rng, Fault::QueueBusy)
    }

    /// Handles an arriving command.
    pub(crate) fn execute(
        &mut self,
        scheduler: &mut Scheduler,
        from: Origin,
        id: CommandId,
        action: &QueueAction,
    ) {
        let reads = matches!(
            action,
            QueueAction::Poll { .. } | QueueAction::Lookup { .. }
        );
        let refusal = if self.busy(scheduler) {
            Some(QueueError::Overloaded("HTTP 503".to_owned()))
        } else if scheduler.now < self.token_bad_until {
            Some(QueueError::Refused("HTTP 401: not logged in".to_owned()))
        } else {
            None
        };
        if let Some(error) = refusal {
            let answer = if reads {
                Answer::Containers(Err(error))
            } else {
                Answer::Updated(Err(error))
            };
            return self.reply(scheduler, from, id, answer);
        }
        match action {
            QueueAction::Poll { queued_max } => {
                let locked = self.locked.iter().filter(|id| self.records[*id].ours);
                let rest = QueueStep::PollRest {
                    from,
                    id,
                    locked: locked.map(|id| self.show(*id)).collect(),
                    queued_max: *queued_max,
                };
                let pause = self.rng.millis(1, 200);
                scheduler.after(pause, Happening::Queue(Box::new(rest)));
            }
            QueueAction::Lookup { ids } => {
                let known = ids.iter().filter(|id| self.state(**id).is_some());
                let records = known.map(|id| self.show(*id)).collect();
                self.reply(scheduler, from, id, Answer::Containers(Ok(records)));
            }
            QueueAction::Lock { id: container } => {
                self.update(scheduler, (from, id), *container, Self::lock);
            }
            QueueAction::Unlock { id: container } => {
                self.update(scheduler, (from, id), *container, Self::unlock);
            }
            QueueAction::Requeue { id: container, why } if self.requeues => {
                let why = why.clone();
                self.update(
                    scheduler,
                    (from, id),
                    *container,
                    move |queue, scheduler, id| {
                        queue.give_back(scheduler, id, ContainerState::Running)?;
                        scheduler.mark(CoverageMark::RequeuedRunning);
                        queue.change(id, |record| record.warning = Some(why));
                        Ok(())
                    },
                );
            }
            QueueAction::Requeue { id: container, why } => {
                let why = Some(why.clone());
                self.update(
                    scheduler,
                    (from, id),
                    *container,
                    move |queue, scheduler, id| queue.cancel(scheduler.now, id, why),
                );
            }
            QueueAction::Cancel {
                id: container,
                error,
            } => {
                let error = error.clone();
                self.update(
                    scheduler,
                    (from, id),
                    *container,
                    move |queue, scheduler, id| queue.cancel(scheduler.now, id, error),
                );
            }
        }
    }

    fn update(
        &mut self,
        scheduler: &mut Scheduler,
        (from, id): (Origin, CommandId),
        container: ContainerId,
        change: impl FnOnce(&mut Self, &mut Scheduler, ContainerId) -> Result<(), String>,
    ) {
        let lost = || QueueError::Unavailable("connection reset".to_owned());
        if scheduler.faults.strikes(&mut self.rng, Fault::UpdateLost) {
            return self.reply_or_not(scheduler, from, id, Answer::Updated(Err(lost())));
        }
        let done = match self.state(container) {
            None => Err("HTTP 404: no such container".to_owned()),
            Some(_) => change(self, scheduler, container),
        };
        let answer = done.map_err(QueueError::Refused).map(|()| {
            let record = &self.records[&container];
            ContainerUpdate {
                state: record.state,
                priority: record.priority,
                locked_by_us: record.ours,
            }
        });
        if answer.is_ok() {
            self.hint(scheduler);
        }
        if scheduler
            .faults
            .strikes(&mut self.rng, Fault::UpdateAnswerLost)
        {
            return self.reply_or_not(scheduler, from, id, Answer::Updated(Err(lost())));
        }
        self.reply(scheduler, from, id, Answer::Updated(answer));
    }

    fn reply_or_not(
        &mut self,
        scheduler: &mut Scheduler,
        to: Origin,
        id: CommandId,
        answer: Answer,
    ) {
        if self.rng.one_in(2) {
            self.reply(scheduler, to, id, answer);
        }
    }

    fn reply(&mut self, scheduler: &mut Scheduler, to: Origin, id: CommandId, answer: Answer) {
        let pause = if scheduler.now < self.slow_until {
            self.rng.secs(2, SLOW_SECS_MAX)
        } else {
            self.rng.millis(2, 80)
        };
        if scheduler
            .faults
            .strikes(&mut self.rng, Fault::QueueAnswerTwice)
        {
            let again = pause + self.rng.millis(0, 90_000);
            scheduler.answer(to, id, answer.clone(), again);
        }
        let late = scheduler
            .faults
            .strikes(&mut self.rng, Fault::QueueAnswerLate);
        let extra = if late {
            self.rng.secs(1, 120)
        } else {
            Duration::ZERO
        };
        scheduler.answer(to, id, answer, pause + extra);
    }
}
