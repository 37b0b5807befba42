//! Probes: schedule, and effects of the reports.

use std::time::Duration;

use super::Dispatcher;
use crate::backoff::{Backoff, jittered};
use crate::cancel_reason::CancelReason;
use crate::command::VmAction;
use crate::event::{BootOutcome, Event};
use crate::fleet::vm::{Phase, Runner, RunnerPhase, Vm};
use crate::ids::{ContainerId, VmKey};
use crate::input::{ProbeReport, RunnerList, VmError};
use crate::mutants::Mutant;
use crate::outbox::Purpose;
use crate::resources::Resources;
use crate::time::Timestamp;
use crate::timers::TimeoutReason;

/// Shortest interval between probes.
const RETRY_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Quarantine of an instance after failed starts.
const QUARANTINE: Backoff = Backoff {
    min: Duration::from_secs(1),
    max: Duration::from_secs(64),
};
/// Factor of the timeout of boot probes: the first probe may have to install the runner.
const BOOT_TIMEOUT_FACTOR: u32 = 3;

impl Dispatcher {
    /// Probes an instance at once, or right after the probe in flight.
    pub(super) fn probe_now(&mut self, key: VmKey) {
        self.timers
            .set_earlier(TimeoutReason::ProbeVm(key), self.now);
    }

    /// Sends a probe, if the instance has an address and the rate allows.
    pub(super) fn probe(&mut self, key: VmKey) {
        let vm = self.fleet.get(key);
        let Some(boot) = vm.and_then(probe_with_boot) else {
            return self.dequeue_probe(key);
        };
        let now = self.now;
        if !self.admit_probe(key) {
            self.fleet.note(key, |vm| {
                vm.probe.queued_since.get_or_insert(now);
            });
            return;
        }
        let factor = if boot { BOOT_TIMEOUT_FACTOR } else { 1 };
        let timeout = self.config.timeouts.vm_answer * factor;
        let action = VmAction::Probe { boot };
        let sent = self.ask_vm(key, timeout, Purpose::Probe(key), action);
        let queued = self.fleet.note(key, |vm| {
            vm.probe.in_flight = sent;
            let queued = vm.probe.queued_since.take();
            if boot || vm.probe.unanswered_since.is_some() {
                vm.probe.queued_for += queued.map(|since| now.since(since)).unwrap_or_default();
            }
            vm.probe.unanswered_since.get_or_insert(now);
            queued.is_some()
        });
        if queued == Some(true) {
            // The probe timeout runs again.
            self.dirty.vms.insert(key);
        }
    }

    pub(super) fn on_probed(
        &mut self,
        started: Timestamp,
        key: VmKey,
        result: Result<ProbeReport, VmError>,
    ) {
        let Some(vm) = self.fleet.get(key) else {
            return;
        };
        if matches!(vm.phase, Phase::Creating | Phase::Shutdown) {
            self.fleet.note(key, |vm| vm.probe.in_flight = None);
            return;
        }
        let silent_so_far = vm.probe.first_contact.is_none();
        let failed_before = vm.probe.failures > 0;
        let identity_mismatch = matches!(result, Err(VmError::IdentityMismatch(_)));
        let complaint = match &result {
            // An instance unable to list runners is as bad as an unreachable instance.
            Ok(report) => match (&report.ready, &report.runners) {
                (Err(why), _) => Some(why.clone()),
                (Ok(()), None) => Some("its runners could not be listed".to_owned()),
                (Ok(()), Some(_)) => None,
            },
            Err(error) => Some(error.to_string()),
        };
        if let Ok(report) = &result {
            if silent_so_far {
                self.note_contact(key);
            }
            if let Some(list) = &report.runners {
                self.apply_runners(started, key, list);
            }
        }
        let news = complaint.is_some() || failed_before;
        self.note_probe(started, key, complaint, (identity_mismatch, news));
        let unready_used = self.mutant(Mutant::UnreadyUsed);
        let ready = |report: &ProbeReport| report.ready.is_ok() && report.runners.is_some();
        if matches!(&result, Ok(report) if ready(report) || unready_used) {
            self.note_ready(started, key);
            self.confirm_cordon(started, key);
        }
        self.schedule_probe(started, key);
        self.dirty.vms.insert(key);
    }

    /// Records the result of a probe.
    fn note_probe(
        &mut self,
        started: Timestamp,
        key: VmKey,
        complaint: Option<String>,
        (identity_mismatch, news): (bool, bool),
    ) {
        let now = self.now;
        let record = |vm: &mut Vm| {
            vm.probe.in_flight = None;
            vm.probe.failures = match complaint {
                None => 0,
                Some(_) => vm.probe.failures.saturating_add(1),
            };
            if complaint.is_none() {
                vm.probe.good_at = Some(now);
                vm.probe.unanswered_since = None;
                vm.probe.queued_for = Duration::ZERO;
                vm.liveness.alive_at = now;
                vm.liveness.absent_lists = 0;
                vm.liveness.absent_since = None;
            }
            let news = complaint.is_some() && vm.probe.complaint != complaint;
            vm.probe.complaint.clone_from(&complaint);
            (
                vm.name(),
                vm.identity.type_name.clone(),
                vm.probe.failures,
                news,
            )
        };
        let recorded = match news {
            true => self.fleet.update(key, record),
            false => self.fleet.note(key, record),
        };
        if recorded
            .as_ref()
            .is_some_and(|(.., failures, _)| *failures == 1)
        {
            // Containers must not wait for room on this instance any longer.
            self.dirty.placement = true;
        }
        if let Some((instance, instance_type, failures, news)) = recorded {
            self.out.event(Event::ProbeEnded {
                instance,
                instance_type,
                took: now.since(started),
                error: complaint,
                failures,
                news,
                identity_mismatch,
            });
        }
    }

    /// Notes the first answer of an instance.
    fn note_contact(&mut self, key: VmKey) {
        let now = self.now;
        let first = self.fleet.note(key, |vm| {
            vm.probe.first_contact = Some(now);
            let after = now.since(vm.lifecycle.appeared_at.unwrap_or(vm.lifecycle.since));
            (vm.name(), after, !vm.lifecycle.found)
        });
        if let Some((instance, after, own)) = first {
            self.out.event(Event::Reached {
                instance,
                after,
                own,
            });
        }
    }

    /// Makes an instance available to containers, after a successful probe.
    fn note_ready(&mut self, started: Timestamp, key: VmKey) {
        let now = self.now;
        let Some(vm) = self.fleet.get(key) else {
            return;
        };
        let booted = matches!(vm.phase, Phase::Booting | Phase::Unknown);
        // A successful probe does not end the quarantine early.
        let pause = QUARANTINE.delay(vm.health.start_failures);
        let cleared = vm
            .health
            .quarantined_since
            .is_some_and(|since| since + pause <= started);
        if !booted && !cleared {
            return;
        }
        let unprobed_before = self.fleet.any_unprobed();
        let ready = self.fleet.update(key, |vm| {
            vm.health.quarantined_since = None;
            vm.vacancy.room_since = now;
            if !booted {
                return None;
            }
            vm.phase = Phase::Ready;
            vm.lifecycle.ready_at = Some(now);
            vm.work.idle_since = now;
            let after = now.since(vm.probe.first_contact.unwrap_or(now));
            Some((
                vm.name(),
                vm.identity.type_name.clone(),
                after,
                !vm.lifecycle.found,
            ))
        });
        if let Some(Some((instance, instance_type, after, own))) = ready {
            self.out.event(Event::Ready {
                instance,
                instance_type,
                after,
                own,
            });
            self.note_boot(key, BootOutcome::Success);
        }
        if unprobed_before && !self.fleet.any_unprobed() {
            self.mark_unowned_locks_dirty();
        }
        self.dirty.placement = true;
    }

    /// Compares the listed runners with the known runners.
    fn apply_runners(&mut self, started: Timestamp, key: VmKey, list: &RunnerList) {
        let Some(vm) = self.fleet.get(key) else {
            return;
        };
        let unprobed_before = vm.unprobed();
        let RunnerChanges {
            gone,
            confirmed,
            found,
        } = RunnerChanges::of(vm, started, list);
        let stale = list.runners.iter().any(|r| r.stale);
        let instance = vm.name();
        let broken = list.broken && !self.mutant(Mutant::BrokenIgnored);
        let faults = |vm: &Vm| {
            (
                vm.health.broken,
                vm.health.stale_since.is_some(),
                vm.health.fault.is_some(),
            )
        };
        let steady =
            vm.probe.listed && confirmed.is_empty() && faults(vm) == (broken, stale, broken);
        for id in gone {
            let instance = instance.clone();
            self.end_runner(key, id, CancelReason::RunnerExited { instance });
        }
        for id in found {
            self.adopt_runner(key, id);
        }
        let now = self.now;
        let record = |vm: &mut Vm| {
            vm.probe.listed = true;
            vm.probe.list_from = vm.probe.list_from.max(started);
            vm.health.broken = broken;
            for id in &confirmed {
                let runner = vm
                    .work
                    .runners
                    .get_mut(id)
                    .expect("the runner is listed above");
                runner.phase = RunnerPhase::Alive;
                runner.provable_from = now;
            }
            vm.health.stale_since = if stale {
                vm.health.stale_since.or(Some(now))
            } else {
                None
            };
            if !broken && !stale {
                vm.health.fault = None;
            }
        };
        match steady {
            true => self.fleet.note(key, record),
            false => self.fleet.update(key, record),
        };
        if let Some(at) = list.preempted_at {
            self.note_preemption(key, at);
        }
        if broken {
            self.note_fault(key, "it reports itself broken");
        }
        if unprobed_before && !self.fleet.any_unprobed() {
            self.mark_unowned_locks_dirty();
        }
    }

    /// Notes a runner unknown so far.
    fn adopt_runner(&mut self, key: VmKey, id: ContainerId) {
        let now = self.now;
        let known_need = self.known_need(id);
        let mut need = known_need.map(|(need, _)| need);
        if self.mutant(Mutant::AdoptedRunnerWeightless) {
            need = Some(Resources::default());
        }
        let known = self.queue.get(&id).is_some();
        let runner = Runner {
            phase: RunnerPhase::Alive,
            since: now,
            need,
            supervisor: known_need.is_some_and(|(_, supervisor)| supervisor),
            provable_from: now,
            escalation: None,
        };
        if let Some(vm) = self.fleet.add_runner(key, id, runner) {
            self.out.event(Event::RunnerFound {
                container: id,
                instance: vm.name(),
            });
        }
        if known {
            self.dirty.containers.insert(id);
        } else {
            self.request_lookup(id);
        }
    }

    /// Schedules the next probe.
    fn schedule_probe(&mut self, started: Timestamp, key: VmKey) {
        let Some(vm) = self.fleet.get(key) else {
            return;
        };
        let interval = self.config.intervals.probe;
        let awaited = vm.phase == Phase::Cordoned && started < vm.shutdown.since
            || vm.health.quarantined_since.is_some()
            || vm
                .live_runners()
                .any(|(_, runner)| runner.phase == RunnerPhase::Unsure);
        let pause = if vm.probe.failures > 0 || awaited {
            retry_pause(vm, interval)
        } else {
            // Up to 1/16 less, so that probes of instances that became ready together spread out.
            interval - jittered(interval / 16, self.chance.jitter())
        };
        let at = self.now + pause;
        self.timers.set(TimeoutReason::ProbeVm(key), at);
    }
}

/// Differences between listed and known runners of an instance.
struct RunnerChanges {
    /// Known runners proved to be gone.
    gone: Vec<ContainerId>,
    /// Runners of uncertain state, proved to be alive.
    confirmed: Vec<ContainerId>,
    /// Unknown runners.
    found: Vec<ContainerId>,
}

impl RunnerChanges {
    /// Compares a list, begun at `started`, with the known runners.
    fn of(vm: &Vm, started: Timestamp, list: &RunnerList) -> Self {
        let lives = |id: &ContainerId| list.runners.iter().any(|r| r.container == *id && !r.stale);
        let gone: Vec<ContainerId> = vm
            .live_runners()
            .filter(|(id, runner)| started >= runner.provable_from && !lives(id))
            .map(|(id, _)| *id)
            .collect();
        // For a merely assigned container, the listed runner belongs to an earlier attempt.
        let doubted = |runner: &Runner| match runner.phase {
            RunnerPhase::Unsure => true,
            RunnerPhase::Assigned => started >= vm.vacancy.ended_at,
            RunnerPhase::Starting | RunnerPhase::Alive => false,
        };
        let confirmed: Vec<ContainerId> = vm
            .work
            .runners
            .iter()
            .filter(|(id, runner)| doubted(runner) && lives(id))
            .map(|(id, _)| *id)
            .collect();
        let found: Vec<ContainerId> = list
            .runners
            .iter()
            .filter(|r| !r.stale && !vm.work.runners.contains_key(&r.container))
            // A probe begun before the end of a runner may still show that runner.
            .filter(|_| started >= vm.vacancy.ended_at)
            .map(|r| r.container)
            .collect();
        Self {
            gone,
            confirmed,
            found,
        }
    }
}

/// True for a boot probe, false for a regular probe; `None` if no probe is possible.
fn probe_with_boot(vm: &Vm) -> Option<bool> {
    let boot = match vm.phase {
        Phase::Creating | Phase::Shutdown => return None,
        Phase::Booting | Phase::Unknown => true,
        Phase::Ready | Phase::Cordoned => false,
    };
    (vm.identity.address.is_some() && vm.probe.in_flight.is_none()).then_some(boot)
}

/// Pause after a failed probe: exponential, at most the regular interval.
fn retry_pause(vm: &Vm, interval: Duration) -> Duration {
    let backoff = Backoff {
        min: RETRY_INTERVAL_MIN,
        max: interval,
    };
    backoff.delay(vm.probe.failures.saturating_sub(1))
}
