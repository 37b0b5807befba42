//! Error events, and the coverage marks of events and of reasons to wait.

use longshore_core::command::Signal;
use longshore_core::event::{BootOutcome, Event, Level};
use longshore_core::input::{CloudError, ContainerState};
use longshore_core::{CancelReason, CreateBlocked, ShutdownReason, StopReason, WaitReason};

use crate::checks::check::{Check, Context, Look};
use crate::checks::ledger::Ledger;
use crate::world::coverage::CoverageMark;
use crate::world::observation::Findings;

/// No event has the level of an error.
#[derive(Debug, Default)]
pub(super) struct Events;

impl Check for Events {
    fn on_event(&mut self, at: &Context<'_>, event: &Event, findings: &mut Findings) {
        if event.level() == Level::Error {
            findings.violate("no errors", event.to_string());
        }
        findings.marks.extend(mark_of(event));
        mark_history(at.ledger, event, findings);
    }

    fn on_look(&mut self, at: &Context<'_>, look: Option<&Look<'_>>, findings: &mut Findings) {
        let Some(look) = look.filter(|look| look.has_queue(at)) else {
            return;
        };
        for container in look.containers() {
            if let Some(WaitReason::CreateBlocked(blocked)) = &container.waiting {
                let marks = blocked.iter().filter_map(|(_, why)| mark_of_wait(why));
                findings.marks.extend(marks);
            }
        }
    }
}

/// Marks of events with a meaning given by earlier events.
fn mark_history(ledger: &Ledger, event: &Event, findings: &mut Findings) {
    match event {
        Event::Created {
            intent,
            instance_type,
            ..
        } => {
            if ledger.lost_creates.contains(intent) {
                findings.mark(CoverageMark::LostCreateMatched);
            }
            if ledger.failed_types.contains(instance_type) {
                findings.mark(CoverageMark::CanarySucceeded);
            }
        }
        Event::ContainerState {
            container,
            to: ContainerState::Running,
            ..
        } if ledger.unsure_starts.contains(container) => {
            findings.mark(CoverageMark::StartUnsureFound);
        }
        _ => {}
    }
}

fn mark_of_wait(why: &CreateBlocked) -> Option<CoverageMark> {
    Some(match why {
        CreateBlocked::MaxInstances => CoverageMark::WaitedForInstances,
        CreateBlocked::MaxPricePerHour => CoverageMark::WaitedForPrice,
        CreateBlocked::Budget { .. } => CoverageMark::WaitedForBudget,
        CreateBlocked::Containers { .. } => CoverageMark::WaitedForOverload,
        CreateBlocked::Supervisors { .. } => CoverageMark::WaitedForSupervisors,
        CreateBlocked::BootsFail { .. } => CoverageMark::WaitedForBoots,
        _ => return None,
    })
}

fn mark_of(event: &Event) -> Option<CoverageMark> {
    Some(match event {
        Event::ContainerCancelled { reason, .. } => match reason {
            CancelReason::SchedulingTimeout { .. } => CoverageMark::SchedulingTimedOut,
            CancelReason::InstanceDisappeared { .. } | CancelReason::Preempted { .. } => {
                CoverageMark::CancelledVmGone
            }
            CancelReason::RunnerExited { .. } => CoverageMark::CancelledNoResult,
            CancelReason::Unsatisfiable(_) | CancelReason::Malformed(_) => {
                CoverageMark::UnsatisfiableCancelled
            }
            _ => return None,
        },
        Event::Stopping { reason, .. } => match reason {
            StopReason::PriorityZero => CoverageMark::StoppedAtPriorityZero,
            StopReason::EarlierAttempt => CoverageMark::StoppedEarlierAttempt,
            StopReason::UnknownContainer => CoverageMark::StoppedUnknown,
            StopReason::Final => CoverageMark::StoppedFinal,
            _ => return None,
        },
        Event::Signalling {
            signal: Signal::Kill,
            ..
        } => CoverageMark::KillNeeded,
        Event::Unkillable { held: true, .. } => CoverageMark::UnkillableHeld,
        Event::Unkillable { .. } => CoverageMark::KillFailed,
        Event::CreateWrittenOff { .. } => CoverageMark::CreateWrittenOff,
        Event::InstanceFound { .. } => CoverageMark::InstanceFound,
        Event::RunnerFound { .. } => CoverageMark::RunnerAdopted,
        Event::StartUnsure { .. } => CoverageMark::StartUnsure,
        Event::Uncordoned { .. } => CoverageMark::Uncordoned,
        Event::Terminating { reason, .. } => match reason {
            ShutdownReason::Idle => CoverageMark::IdleShutdown,
            ShutdownReason::Drained => CoverageMark::DrainShutdown,
            ShutdownReason::MakeRoom => CoverageMark::MadeRoom,
            ShutdownReason::BootTimeout => CoverageMark::BootTimeout,
            ShutdownReason::Unresponsive => CoverageMark::Unresponsive,
            ShutdownReason::Unkillable => CoverageMark::UnkillableVmDestroyed,
            ShutdownReason::Operator(_) => return None,
        },
        Event::Broken { held: true, .. } => CoverageMark::BrokenHeld,
        Event::Broken { .. } => CoverageMark::BrokenDrained,
        Event::Boot {
            outcome: BootOutcome::Disappeared,
            ..
        }
        | Event::Gone { expected: None, .. } => CoverageMark::Disappeared,
        Event::DestroyIssued { attempt, .. } if *attempt > 1 => CoverageMark::DestroyRepeated,
        Event::CloudCalled {
            error: Some(error), ..
        } => match error {
            CloudError::Quota { .. } => CoverageMark::QuotaMet,
            CloudError::Capacity { .. } => CoverageMark::CapacityMissing,
            CloudError::RateLimited { .. } => CoverageMark::RateLimited,
            _ => return None,
        },
        Event::PreemptionNotice { .. } => CoverageMark::PreemptionNotice,
        Event::Interrupted { .. } => CoverageMark::Interrupted,
        Event::FellBack { .. } => CoverageMark::FellBack,
        Event::BootBackoffStarted { .. } => CoverageMark::BootBackoffStarted,
        Event::BootBackoffEnded { .. } => CoverageMark::BootBackoffEnded,
        Event::AddressChanged { .. } => CoverageMark::AddressChanged,
        Event::LateAnswer { .. } => CoverageMark::LateAnswer,
        Event::Reconfigured { .. } => CoverageMark::Reconfigured,
        _ => return None,
    })
}
