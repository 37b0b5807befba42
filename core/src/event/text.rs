//! Log lines of events.

use std::fmt;

use super::Event;
use crate::input::CloudError;

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leadership { .. }
            | Self::Reconfigured { .. }
            | Self::LateAnswer { .. }
            | Self::WrongAnswer { .. }
            | Self::QueueUnavailable { .. }
            | Self::CloudCalled { .. } => self.fmt_process(f),
            Self::ContainerSeen { .. }
            | Self::ContainerState { .. }
            | Self::UpdateFailed { .. }
            | Self::ContainerDropped { .. }
            | Self::ContainerCancelled { .. }
            | Self::Assigned { .. }
            | Self::StartIssued { .. }
            | Self::Started { .. }
            | Self::StartUnsure { .. }
            | Self::StartFailed { .. }
            | Self::RunnerFound { .. }
            | Self::RunnerExited { .. }
            | Self::Stopping { .. }
            | Self::Signalling { .. }
            | Self::Interrupted { .. }
            | Self::FellBack { .. }
            | Self::Unkillable { .. } => self.fmt_container(f),
            _ => self.fmt_instance(f),
        }
    }
}

impl Event {
    fn fmt_process(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leadership { held: true } => f.write_str("leadership gained"),
            Self::Leadership { held: false } => f.write_str("leadership lost"),
            Self::Reconfigured { types } => write!(f, "new configuration, {types} types"),
            Self::LateAnswer { command } => write!(f, "late answer to command {}", command.0),
            Self::WrongAnswer { command } => {
                write!(f, "answer of the wrong kind to command {}", command.0)
            }
            Self::QueueUnavailable { error, .. } => write!(f, "{error}"),
            Self::CloudCalled { call, error, .. } => match error {
                None => write!(f, "cloud call {} done", call.name()),
                Some(error) => write!(f, "cloud call {}: {error}", call.name()),
            },
            _ => Ok(()),
        }
    }

    #[expect(clippy::too_many_lines, reason = "a line or two for each variant")]
    fn fmt_container(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ContainerSeen {
                container,
                state,
                priority,
            } => {
                write!(f, "{container} seen, {}, priority {priority}", state.name())
            }
            Self::ContainerState {
                container,
                from,
                to,
            } => {
                write!(f, "{container} {} -> {}", from.name(), to.name())
            }
            Self::UpdateFailed {
                container,
                update,
                error,
            } => {
                write!(f, "{container} {update} failed: {error}")
            }
            Self::ContainerDropped {
                container,
                state,
                deleted: false,
            } => {
                write!(f, "{container} final, {}", state.name())
            }
            Self::ContainerDropped {
                container, state, ..
            } => {
                write!(
                    f,
                    "{container} is no longer in the queue, was {}",
                    state.name()
                )
            }
            Self::ContainerCancelled { container, reason } => {
                write!(f, "{container} cancelled: {reason}")
            }
            Self::Assigned {
                container,
                instance,
            } => {
                write!(f, "{container} assigned to {instance}")
            }
            Self::StartIssued {
                container,
                instance,
                instance_type,
                waited,
                ..
            } => write!(
                f,
                "{container} starts on {instance} ({instance_type}) after {waited:?}"
            ),
            Self::Started {
                container,
                instance,
            } => write!(f, "{container} started on {instance}"),
            Self::StartFailed {
                container,
                instance,
                error,
            } => write!(f, "{container} could not be started on {instance}: {error}"),
            Self::StartUnsure {
                container,
                instance,
                error,
            } => {
                write!(
                    f,
                    "{container} may or may not have started on {instance}: {error}"
                )
            }
            Self::RunnerFound {
                container,
                instance,
            } => {
                write!(f, "{container} found running on {instance}")
            }
            Self::RunnerExited {
                container,
                instance,
            } => {
                write!(f, "{container} runner exited on {instance}")
            }
            Self::Stopping {
                container,
                instance,
                reason,
            } => {
                write!(f, "{container} stopping on {instance}: {reason}")
            }
            Self::Signalling {
                container,
                instance,
                signal,
            } => {
                write!(f, "{container} {signal:?} sent on {instance}")
            }
            Self::Interrupted {
                container,
                instance,
                times,
                ..
            } => write!(
                f,
                "{container} interrupted: the cloud preempted {instance} (interruption {times})"
            ),
            Self::FellBack {
                container,
                interruptions,
            } => write!(
                f,
                "{container} takes on-demand types only from now on, after {interruptions} \
                 interruptions (SpotFallback)"
            ),
            Self::Unkillable {
                container,
                instance,
                held,
            } => {
                let then = if *held {
                    "is held, so it stays"
                } else {
                    "will be destroyed"
                };
                write!(
                    f,
                    "{container} cannot be killed on {instance}; the instance {then}"
                )
            }
            _ => Ok(()),
        }
    }

    #[expect(clippy::too_many_lines, reason = "a line or two for each variant")]
    fn fmt_instance(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateIssued {
                intent,
                instance_type,
                container,
            } => {
                write!(
                    f,
                    "create request {intent}: {instance_type}, first container {container}"
                )
            }
            Self::Created {
                instance,
                intent,
                instance_type,
                container,
            } => {
                write!(
                    f,
                    "{instance} created, {instance_type}, create request {intent}"
                )?;
                match container {
                    Some(container) => write!(f, ", first container {container}"),
                    None => Ok(()),
                }
            }
            Self::CreateFailed {
                intent,
                instance_type,
                error,
            } => {
                let done = match error {
                    CloudError::Ambiguous { .. } => "may or may not have been created",
                    _ => "was not created",
                };
                write!(
                    f,
                    "create request {intent}: {instance_type} {done}: {error}"
                )
            }
            Self::CreateWrittenOff {
                intent,
                instance_type,
            } => {
                write!(
                    f,
                    "create request {intent}: {instance_type} written off: the instance never appeared"
                )
            }
            Self::InstanceFound {
                instance,
                instance_type,
                behavior,
            } => {
                write!(f, "{instance} found, {instance_type}, {behavior:?}")
            }
            Self::AddressChanged { instance, address } => {
                write!(f, "{instance} address {address}")
            }
            Self::Reached {
                instance, after, ..
            } => write!(f, "{instance} first reached {after:?} after it appeared"),
            Self::Ready {
                instance,
                instance_type,
                after,
                ..
            } => {
                write!(
                    f,
                    "{instance} ready, {instance_type}, {after:?} after it was reached"
                )
            }
            Self::Boot {
                instance, outcome, ..
            } => {
                write!(f, "{instance} boot outcome: {}", outcome.name())
            }
            Self::BootBackoffStarted {
                instance_type,
                image,
                failures,
                until,
                why,
            } => {
                write!(
                    f,
                    "{instance_type} with image {image}: {failures} consecutive boots failed, backed off \
                     until {until}; last error: {why}"
                )
            }
            Self::BootBackoffEnded {
                instance_type,
                image,
            } => write!(
                f,
                "{instance_type} with image {image}: a boot succeeded, back-off ended"
            ),
            Self::ProbeEnded {
                instance,
                took,
                error,
                failures,
                ..
            } => match error {
                None => write!(f, "{instance} probed in {took:?}"),
                Some(error) => write!(
                    f,
                    "{instance} probe failed ({failures} consecutive failures): {error}"
                ),
            },
            Self::Broken {
                instance,
                why,
                held,
                ..
            } => {
                let then = if *held {
                    "held, so it stays"
                } else {
                    "drained"
                };
                write!(f, "{instance} is broken: {why}; {then}")
            }
            Self::PreemptionNotice {
                instance,
                instance_type,
                at,
                containers,
            } => write!(
                f,
                "{instance} ({instance_type}) will be preempted by the cloud at {at}; containers on it: \
                 {containers}"
            ),
            Self::BehaviorChanged {
                instance,
                behavior,
                cause,
            } => {
                write!(f, "{instance} is now {behavior:?}: {cause}")
            }
            Self::Terminating {
                instance,
                reason,
                complaint,
                ..
            } => {
                write!(f, "{instance} terminating: {reason}")?;
                match complaint {
                    Some(complaint) => write!(f, "; last probe error: {complaint}"),
                    None => Ok(()),
                }
            }
            Self::Uncordoned { instance } => {
                write!(f, "{instance} uncordoned: held, or a container runs on it")
            }
            Self::DestroyIssued { instance, attempt } => {
                write!(f, "{instance} destroy call sent, attempt {attempt}")
            }
            Self::Gone {
                instance,
                expected: Some(after),
                ..
            } => {
                write!(f, "{instance} gone, {after:?} after its shutdown began")
            }
            Self::Gone {
                instance,
                instance_type,
                phase,
                runners,
                expected: None,
            } => {
                write!(
                    f,
                    "{instance} ({instance_type}) disappeared while {phase:?}, with {runners} \
                     containers on it"
                )
            }
            _ => Ok(()),
        }
    }
}
