//! Permitted state transitions: locks, unlocks, cancels, and the guard admitting a single runner.

use longshore_core::ids::ContainerId;
use longshore_core::input::ContainerState;
use longshore_core::time::Timestamp;

use super::{Queue, Record};
use crate::world::coverage::CoverageMark;
use crate::world::events::{Happening, QueueStep, Report, RunnerId};
use crate::world::faults::Fault;
use crate::world::scheduler::Scheduler;

impl Queue {
    pub(super) fn lock(
        &mut self,
        scheduler: &mut Scheduler,
        id: ContainerId,
    ) -> Result<(), String> {
        let free = |record: &Record| record.state == ContainerState::Queued && record.priority > 0;
        if self.records.get(&id).is_some_and(free)
            && scheduler.faults.strikes(&mut self.rng, Fault::LockConflict)
        {
            scheduler.note(|| format!("somebody else locks {id}"));
            self.change(id, |record| {
                record.state = ContainerState::Locked;
                record.ours = false;
            });
            let pause = self.rng.secs(1, 600);
            scheduler.after(
                pause,
                Happening::Queue(Box::new(QueueStep::OtherUnlocks(id))),
            );
        }
        self.change(id, |record| match record.state {
            ContainerState::Queued if record.priority == 0 => {
                Err("HTTP 422: cannot lock when priority<=0".to_owned())
            }
            ContainerState::Queued => {
                record.state = ContainerState::Locked;
                record.ours = true;
                record.lock_count += 1;
                if record.lock_count > 1 {
                    scheduler.mark(CoverageMark::Retried);
                }
                Ok(())
            }
            other => Err(format!("HTTP 422: cannot lock when {}", other.name())),
        })
        .unwrap_or(Ok(()))
    }

    pub(super) fn unlock(
        &mut self,
        scheduler: &mut Scheduler,
        id: ContainerId,
    ) -> Result<(), String> {
        self.give_back(scheduler, id, ContainerState::Locked)
    }

    /// Ends an attempt: requeues the container, unless the attempt was the last.
    pub(super) fn give_back(
        &mut self,
        scheduler: &mut Scheduler,
        id: ContainerId,
        from: ContainerState,
    ) -> Result<(), String> {
        let (max, now) = (self.attempts_max, scheduler.now);
        self.change(id, |record| {
            if record.state != from {
                let state = record.state.name();
                return Err(format!("HTTP 422: cannot give back when {state}"));
            }
            if !record.ours {
                return Err("HTTP 403: locked by a different token".to_owned());
            }
            record.ours = false;
            record.runner = None;
            if record.lock_count >= max {
                scheduler.mark(CoverageMark::AttemptsExhausted);
                record.error = Some(format!(
                    "Failed to start container.  Cancelled after exceeding \
                     'Containers.MaxDispatchAttempts' (lock_count={})",
                    record.lock_count
                ));
                record.state = ContainerState::Cancelled;
                record.ended_at = Some(now);
            } else {
                record.state = ContainerState::Queued;
            }
            Ok(())
        })
        .unwrap_or(Ok(()))
    }

    /// Cancels a container. An admin may cancel any container, even a completed container; the
    /// rules forbid such a cancel to a process.
    pub(super) fn cancel(
        &mut self,
        now: Timestamp,
        id: ContainerId,
        error: Option<String>,
    ) -> Result<(), String> {
        self.change(id, |record| {
            let refuses_text = record.state == ContainerState::Queued && error.is_some();
            if refuses_text {
                return Err("HTTP 422: runtime_status cannot be set when Queued".to_owned());
            }
            if !record.state.is_final() {
                record.ended_at = Some(now);
            }
            record.state = ContainerState::Cancelled;
            record.ours = false;
            record.error = error;
            Ok(())
        })
        .unwrap_or(Ok(()))
    }

    /// Asks for permission to run a container: the guard against double runs.
    ///
    /// # Errors
    /// If the queue is overloaded.
    pub(crate) fn may_run(
        &mut self,
        scheduler: &mut Scheduler,
        id: ContainerId,
        runner: RunnerId,
    ) -> Result<bool, ()> {
        if self.busy(scheduler) {
            return Err(());
        }
        if self.state(id).is_none() {
            return Ok(false);
        }
        let now = scheduler.now;
        let taken = self.change(id, |record| match record.state {
            // Refuses a container locked by another dispatcher.
            ContainerState::Locked if record.ours => {
                record.state = ContainerState::Running;
                record.runner = Some(runner);
                record.began_at = Some(now);
                true
            }
            ContainerState::Running => record.runner == Some(runner),
            _ => false,
        });
        self.hint(scheduler);
        Ok(taken == Some(true))
    }

    /// Reports a runner's result. A report refused by the queue counts as settled.
    ///
    /// # Errors
    /// If the queue is overloaded.
    pub(crate) fn report(
        &mut self,
        scheduler: &mut Scheduler,
        id: ContainerId,
        runner: RunnerId,
        report: Report,
    ) -> Result<(), ()> {
        if self.busy(scheduler) {
            return Err(());
        }
        if self.state(id).is_none() {
            return Ok(());
        }
        if report == Report::Requeue {
            let _refused = self.unlock(scheduler, id);
            self.hint(scheduler);
            return Ok(());
        }
        let now = scheduler.now;
        self.change(id, |record| {
            if record.state != ContainerState::Running || record.runner != Some(runner) {
                return;
            }
            record.ours = false;
            record.ended_at = Some(now);
            if report == Report::Complete {
                record.state = ContainerState::Complete;
                record.completed = true;
                scheduler.mark(CoverageMark::Completed);
            } else {
                record.state = ContainerState::Cancelled;
            }
        });
        self.hint(scheduler);
        Ok(())
    }
}
