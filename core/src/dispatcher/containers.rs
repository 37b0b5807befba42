//! Reconciliation of containers.

use std::time::Duration;

use super::Dispatcher;
use crate::backoff::Backoff;
use crate::cancel_reason::CancelReason;
use crate::command::QueueAction;
use crate::event::Event;
use crate::fleet::vm::{Phase, RunnerPhase, Vm};
use crate::ids::{ContainerId, VmKey};
use crate::input::{ContainerState, ContainerUpdate, QueueError};
use crate::mutants::Mutant;
use crate::outbox::Purpose;
use crate::queue::entry::{Entry, Op};
use crate::signals::StopReason;
use crate::time::Timestamp;
use crate::timers::TimeoutReason;

/// Retries of updates refused by the queue.
const UPDATE_BACKOFF: Backoff = Backoff {
    min: Duration::from_millis(500),
    max: Duration::from_secs(60),
};

/// Next action for a container.
#[derive(Clone, Debug, PartialEq, Eq)]
enum NextAction {
    /// Nothing, at least until the next input or deadline.
    Nothing,
    /// Poll the queue: the known state may be older than the last event.
    Poll,
    /// Forget the container.
    Drop,
    /// Leave the container to placement.
    Wait,
    Lock,
    Unlock,
    Requeue(CancelReason),
    Cancel(Option<CancelReason>),
    Start(VmKey),
    Stop(StopReason),
}

impl Dispatcher {
    pub(super) fn reconcile_container(&mut self, id: ContainerId) {
        let Some(entry) = self.queue.get(&id) else {
            return;
        };
        let place = entry
            .class
            .as_ref()
            .ok()
            .map(|class| (*class, entry.rank()));
        let next = self.next_for_container(entry);
        let next = if next == NextAction::Wait && self.check_scheduling_timeout(id) {
            NextAction::Lock
        } else {
            next
        };
        let waits = next == NextAction::Wait;
        if let Some((class, rank)) = place
            && self.queue.set_waiting(class, rank, waits)
        {
            // The reservation or the assigned room is free for other containers.
            self.dirty.placement = true;
        }
        match next {
            NextAction::Nothing | NextAction::Wait => {}
            NextAction::Poll => self.poll_soon(),
            NextAction::Drop => self.drop_container(id),
            NextAction::Lock => self.update_record(id, Op::Lock, QueueAction::Lock { id }),
            NextAction::Unlock => self.update_record(id, Op::Unlock, QueueAction::Unlock { id }),
            NextAction::Requeue(reason) => {
                let why = reason.to_string();
                self.update_record(id, Op::Requeue, QueueAction::Requeue { id, why });
            }
            NextAction::Cancel(reason) => self.cancel(id, reason),
            NextAction::Start(key) => self.start(key, id),
            NextAction::Stop(reason) => {
                let hosts: Vec<VmKey> = self.fleet.hosts(id).collect();
                for key in hosts {
                    self.stop(key, id, &reason);
                }
            }
        }
    }

    fn next_for_container(&self, entry: &Entry) -> NextAction {
        if entry.op.is_some() || entry.retry_at.is_some_and(|at| at > self.now) {
            return NextAction::Nothing;
        }
        let hosted = self.fleet.hosts(entry.id).next().is_some();
        match entry.state {
            ContainerState::Complete | ContainerState::Cancelled => {
                if hosted {
                    NextAction::Stop(StopReason::Final)
                } else {
                    NextAction::Drop
                }
            }
            ContainerState::Queued => self.next_for_queued(entry, hosted),
            _ if !entry.locked_by_us => {
                if hosted {
                    NextAction::Stop(StopReason::NotOurs)
                } else {
                    NextAction::Nothing
                }
            }
            ContainerState::Locked => self.next_for_locked(entry, hosted),
            ContainerState::Running => self.next_for_running(entry, hosted),
        }
    }

    fn next_for_queued(&self, entry: &Entry, hosted: bool) -> NextAction {
        if hosted && !self.mutant(Mutant::EarlierRunnerIgnored) {
            NextAction::Stop(StopReason::EarlierAttempt)
        } else if self.any_signal_in_flight(entry.id) {
            // The signal might hit the next attempt.
            NextAction::Nothing
        } else if entry.priority == 0 && !self.mutant(Mutant::PriorityZeroKept) {
            NextAction::Drop
        } else if self.queue.cancel_reason(entry).is_some() {
            // The queue accepts an error text only from the holder of the lock.
            NextAction::Lock
        } else if entry.lock_count > 0 && self.may_run_on_unprobed() {
            NextAction::Nothing
        } else {
            NextAction::Wait
        }
    }

    fn next_for_locked(&self, entry: &Entry, hosted: bool) -> NextAction {
        if hosted && entry.priority == 0 {
            return NextAction::Stop(StopReason::PriorityZero);
        }
        if hosted {
            return match self.assigned_to(entry.id) {
                Some(key) => NextAction::Start(key),
                None => NextAction::Nothing,
            };
        }
        let Some(event) = self.known_unhosted_since(entry) else {
            return NextAction::Nothing;
        };
        if !entry.is_newer_than(event) && !self.mutant(Mutant::JudgedByOldSnapshot) {
            return NextAction::Poll;
        }
        match self.queue.cancel_reason(entry) {
            Some(why) if entry.priority > 0 => NextAction::Cancel(Some(why)),
            _ => NextAction::Unlock,
        }
    }

    fn next_for_running(&self, entry: &Entry, hosted: bool) -> NextAction {
        if hosted && entry.priority == 0 {
            return NextAction::Stop(StopReason::PriorityZero);
        }
        let exit = entry.exit.as_ref();
        // A container may have been started before the first look at the record: only a newer
        // snapshot can tell.
        let sure = self
            .fully_probed_since
            .map(|sure| sure.max(entry.first_seen));
        let event = exit.map(|exit| exit.at).or(sure);
        let Some(event) = event.filter(|_| !hosted) else {
            return NextAction::Nothing;
        };
        if !entry.is_newer_than(event) && !self.mutant(Mutant::JudgedByOldSnapshot) {
            return NextAction::Poll;
        }
        if let Some(exit) = exit.filter(|exit| exit.interrupted && entry.priority > 0) {
            return NextAction::Requeue(exit.reason.clone());
        }
        if !self.is_absence_probed(entry) {
            return NextAction::Nothing;
        }
        let reason = exit.map(|exit| exit.reason.clone());
        NextAction::Cancel(Some(reason.unwrap_or(CancelReason::NotFound)))
    }

    /// True if every possible host of a running container was probed since the container is known
    /// to run. An abandoned start may take effect late: the queue shows the state Running first.
    /// Every poll of the queue brings the container here again, until `TimeoutProbe` after the
    /// first.
    fn is_absence_probed(&self, entry: &Entry) -> bool {
        let since = entry.state_since;
        let asked = |vm: &Vm| {
            let ends = vm.phase == Phase::Shutdown;
            ends || !vm.probe.listed || vm.probe.list_from > since
        };
        let all_asked = match entry.exit.as_ref().map(|exit| exit.on) {
            Some(on) => on.and_then(|key| self.fleet.get(key)).is_none_or(asked),
            None => self.fleet.iter().all(asked),
        };
        all_asked || self.now >= since + self.config.timeouts.probe
    }

    /// Start of the time in which a locked container without known host is known to run nowhere. A
    /// record of the queue counts only if newer.
    fn known_unhosted_since(&self, entry: &Entry) -> Option<Timestamp> {
        if let Some(exit) = &entry.exit {
            return Some(exit.at);
        }
        if entry.locked_here {
            return Some(Timestamp::EPOCH);
        }
        let unowned_locks_due = self.unowned_locks_due();
        let timed_out = self.is_synced() && self.now >= unowned_locks_due;
        self.fully_probed_since
            .or_else(|| timed_out.then_some(unowned_locks_due))
            .map(|event| event.max(entry.first_seen))
    }

    /// Updates the start of the time in which every existing instance is known and probed.
    pub(super) fn update_fully_probed(&mut self) {
        let sure = self.is_synced() && self.is_absence_proved() && !self.fleet.any_unprobed();
        match (sure, self.fully_probed_since) {
            (true, None) => {
                self.fully_probed_since = Some(self.now);
                self.mark_unowned_locks_dirty();
            }
            (false, Some(_)) => self.fully_probed_since = None,
            _ => {}
        }
    }

    /// True if a runner may be alive on an unprobed instance. Sufficient for a Queued container:
    /// with a second runner alive elsewhere, the queue accepts only one of both.
    fn may_run_on_unprobed(&self) -> bool {
        self.fleet.any_unprobed() && self.now < self.unowned_locks_due()
    }

    /// Deadline of locks without a known runner, taken before the restart. Counts from the first
    /// list, since instances are probed only after the first list.
    fn unowned_locks_due(&self) -> Timestamp {
        let listed = self.syncs.values().filter_map(|sync| sync.first_list).max();
        let begun = listed.map_or(self.leader_since, |at| at.max(self.leader_since));
        begun + self.config.timeouts.stale_lock
    }

    /// True if an unlisted instance certainly does not exist: a single list may lag behind, and so
    /// may two lists in quick succession.
    fn is_absence_proved(&self) -> bool {
        let grace = self.config.timeouts.disappear_grace;
        self.each_cloud(|sync| {
            let first = sync.first_list;
            first.is_some_and(|first| sync.latest_list > first && sync.latest_list >= first + grace)
        })
    }

    /// Schedules the next check of containers locked or running before the restart.
    pub(super) fn schedule_unowned_locks(&mut self) {
        let timeouts = &self.config.timeouts;
        let first = self.syncs.values().filter_map(|sync| sync.first_list).max();
        let ends = [
            self.unowned_locks_due(),
            first.unwrap_or(self.leader_since) + timeouts.disappear_grace,
        ];
        if let Some(next) = ends.into_iter().filter(|at| *at > self.now).min() {
            self.timers.set(TimeoutReason::UnownedLocks, next);
        }
    }

    fn assigned_to(&self, id: ContainerId) -> Option<VmKey> {
        self.fleet.hosts(id).find(|key| {
            let runner = self.fleet.get(*key).and_then(|vm| vm.work.runners.get(&id));
            runner.is_some_and(|runner| runner.phase == RunnerPhase::Assigned)
        })
    }

    pub(super) fn update_record(&mut self, id: ContainerId, op: Op, action: QueueAction) {
        if let Some(entry) = self.queue.end_waiting(&id) {
            assert!(entry.op.is_none(), "one update in flight per container");
            assert!(entry.ours(), "only containers locked here are updated");
            entry.op = Some(op).filter(|_| !self.mutants.has(Mutant::ChangesOverlap));
            entry.retry_at = None;
            self.ask_queue(Purpose::Update(id), action);
        }
    }

    fn cancel(&mut self, id: ContainerId, reason: Option<CancelReason>) {
        let error = reason.as_ref().map(ToString::to_string);
        if let Some(reason) = reason {
            self.out.event(Event::ContainerCancelled {
                container: id,
                reason,
            });
        }
        self.update_record(id, Op::Cancel, QueueAction::Cancel { id, error });
    }

    /// Forgets a container, with all deadlines of the container.
    pub(super) fn remove_container(&mut self, id: ContainerId) -> Option<Entry> {
        let (entry, waited) = self.queue.remove(&id)?;
        self.dirty.placement |= waited;
        self.note_forgotten(id);
        self.timers.cancel(TimeoutReason::RetryContainer(id));
        self.timers.cancel(TimeoutReason::GiveUp(id));
        Some(entry)
    }

    fn drop_container(&mut self, id: ContainerId) {
        if let Some(entry) = self.remove_container(id) {
            self.out.event(Event::ContainerDropped {
                container: id,
                state: entry.state,
                deleted: false,
            });
        }
    }

    pub(super) fn on_updated(
        &mut self,
        issued: Timestamp,
        id: ContainerId,
        update: Result<ContainerUpdate, QueueError>,
    ) {
        let now = self.now;
        let Some(entry) = self.queue.get_mut(&id) else {
            return;
        };
        let before = entry.state;
        let op = entry.op.take();
        self.dirty.containers.insert(id);
        match update {
            Ok(update) => {
                entry.apply(now, issued, &update);
                if op != Some(Op::Lock) {
                    entry.exit = None;
                }
                self.note_state(id, Some(before));
            }
            Err(error) => {
                self.note_overload(&error);
                let Some(entry) = self.queue.get_mut(&id) else {
                    return;
                };
                let pause = UPDATE_BACKOFF.delay(entry.failures);
                entry.failures += 1;
                entry.retry_at = Some(now + pause);
                if self.mutants.has(Mutant::RefusalIsFinal) {
                    entry.retry_at = Some(Timestamp::NEVER);
                }
                entry.refused(now);
                self.timers
                    .set(TimeoutReason::RetryContainer(id), now + pause);
                self.out.event(Event::UpdateFailed {
                    container: id,
                    update: op.map_or("update", Op::name).to_owned(),
                    error: error.to_string(),
                });
                self.poll_soon();
            }
        }
        let locked = self.queue.get(&id).map(|e| e.state) == Some(ContainerState::Locked);
        if op == Some(Op::Lock) && !locked {
            self.release_assignment(id);
        }
    }

    /// Releases the room assigned to a container without a start.
    fn release_assignment(&mut self, id: ContainerId) {
        if let Some(key) = self.assigned_to(id) {
            self.remove_runner(key, &id);
        }
    }
}
