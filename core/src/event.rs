//! Events for logs, metrics and traces, which have no other source.

mod text;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cancel_reason::CancelReason;
use crate::command::Signal;
use crate::fleet::vm::{BehaviorCause, Phase, ShutdownReason};
use crate::ids::{Address, CloudId, CommandId, ContainerId, ImageId, IntentId, TypeName, VmName};
use crate::input::{CloudError, ContainerState, IdleBehavior};
use crate::signals::StopReason;
use crate::time::Timestamp;

pub use crate::command::CloudCall;

/// Severity of an event. The events from `Info` upwards cover the life of every container and
/// instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Detail for debugging.
    Debug,
    /// Normal operation.
    Info,
    /// Failure with a later retry, or with a cost.
    Warn,
    /// Bug of Longshore or of an adapter.
    Error,
}

/// Outcome of an instance's boot; reported once for each instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BootOutcome {
    /// Ready for containers.
    Success,
    /// Not ready in time, or reported broken.
    Failure,
    /// Shut down before readiness.
    Aborted,
    /// Disappeared before readiness.
    Disappeared,
}

impl BootOutcome {
    /// Label in the peer's metric.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Aborted => "aborted",
            Self::Disappeared => "disappeared",
        }
    }
}

/// Event of the dispatcher. `instance` is the instance's id in its cloud, or the intent before an
/// id exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "the fields are what the names say; the variants are explained"
)]
pub enum Event {
    /// Leadership gained or lost.
    Leadership { held: bool },
    /// New configuration in force.
    Reconfigured { types: usize },
    /// Answer to a command not in flight (any more).
    LateAnswer { command: CommandId },
    /// Answer of the wrong kind from an adapter.
    WrongAnswer { command: CommandId },
    /// Failed read of the queue.
    QueueUnavailable { error: String, overloaded: bool },
    /// First sight of a container.
    ContainerSeen {
        container: ContainerId,
        state: ContainerState,
        priority: u64,
    },
    /// Change of a container's state, by this dispatcher or not.
    ContainerState {
        container: ContainerId,
        from: ContainerState,
        to: ContainerState,
    },
    /// Change refused or failed in the queue.
    UpdateFailed {
        container: ContainerId,
        update: String,
        error: String,
    },
    /// Container final or deleted, and forgotten.
    ContainerDropped {
        container: ContainerId,
        state: ContainerState,
        deleted: bool,
    },
    /// Cancellation of a container unable to go on.
    ContainerCancelled {
        container: ContainerId,
        #[serde(rename = "error")]
        reason: CancelReason,
    },
    /// Ready instance reserved for a container.
    Assigned {
        container: ContainerId,
        instance: VmName,
    },
    /// Start in flight. `waited` counts from the submission; `ready_wait` from the first moment
    /// with both the container and a ready instance with room, so it is the dispatcher's own share.
    StartIssued {
        container: ContainerId,
        instance: VmName,
        instance_type: TypeName,
        waited: Duration,
        ready_wait: Duration,
        /// True for the first start by this process.
        first: bool,
    },
    /// Container accepted by its runner.
    Started {
        container: ContainerId,
        instance: VmName,
    },
    /// Failed start without effect.
    StartFailed {
        container: ContainerId,
        instance: VmName,
        error: String,
    },
    /// Start with unknown outcome; the next probe decides.
    StartUnsure {
        container: ContainerId,
        instance: VmName,
        error: String,
    },
    /// Discovery of a runner not started by this process.
    RunnerFound {
        container: ContainerId,
        instance: VmName,
    },
    /// End of a runner.
    RunnerExited {
        container: ContainerId,
        instance: VmName,
    },
    /// Begin of a stop escalation.
    Stopping {
        container: ContainerId,
        instance: VmName,
        reason: StopReason,
    },
    /// Signal sent.
    Signalling {
        container: ContainerId,
        instance: VmName,
        signal: Signal,
    },
    /// Failure of KILL.
    Unkillable {
        container: ContainerId,
        instance: VmName,
        held: bool,
    },
    /// Create request sent.
    CreateIssued {
        intent: IntentId,
        instance_type: TypeName,
        container: ContainerId,
    },
    /// Instance created.
    Created {
        instance: VmName,
        intent: IntentId,
        instance_type: TypeName,
        /// First container of the create request.
        container: Option<ContainerId>,
    },
    /// Create request refused, or without a clear answer (`Ambiguous`).
    CreateFailed {
        intent: IntentId,
        instance_type: TypeName,
        error: CloudError,
    },
    /// Create request with a lost answer written off.
    CreateWrittenOff {
        intent: IntentId,
        instance_type: TypeName,
    },
    /// Discovery of an instance of the set not created by this process.
    InstanceFound {
        instance: VmName,
        instance_type: TypeName,
        behavior: IdleBehavior,
    },
    /// Change of an instance's address.
    AddressChanged { instance: VmName, address: Address },
    /// First successful contact, `after` its first appearance.
    Reached {
        instance: VmName,
        after: Duration,
        own: bool,
    },
    /// Ready for containers, `after` the first contact.
    Ready {
        instance: VmName,
        instance_type: TypeName,
        after: Duration,
        own: bool,
    },
    /// End of a boot.
    Boot {
        instance: VmName,
        instance_type: TypeName,
        outcome: BootOutcome,
    },
    /// Back-off after consecutive failed boots of a type with an image: none is created before
    /// `until`.
    #[serde(alias = "BootsPaused")]
    BootBackoffStarted {
        instance_type: TypeName,
        image: ImageId,
        failures: u32,
        until: Timestamp,
        /// Error of the last failed boot.
        why: String,
    },
    /// Successful boot after a back-off.
    #[serde(alias = "BootsResumed")]
    BootBackoffEnded {
        instance_type: TypeName,
        image: ImageId,
    },
    /// Probe answered or failed.
    ProbeEnded {
        instance: VmName,
        instance_type: TypeName,
        took: Duration,
        error: Option<String>,
        /// Consecutive failures.
        failures: u32,
        /// True if the error differs from the previous probe's error.
        news: bool,
        /// True if another host may answer at the address.
        #[serde(alias = "impostor")]
        identity_mismatch: bool,
    },
    /// Instance reported broken, or with a run lock but no runner.
    Broken {
        instance: VmName,
        instance_type: TypeName,
        why: String,
        held: bool,
    },
    /// Preemption announced by the cloud for the time `at`, with the number of containers affected.
    #[serde(alias = "LossAnnounced")]
    PreemptionNotice {
        instance: VmName,
        instance_type: TypeName,
        at: Timestamp,
        containers: usize,
    },
    /// Runner lost by the preemption of its instance; `times` counts in this process.
    Interrupted {
        container: ContainerId,
        instance: VmName,
        instance_type: TypeName,
        times: u32,
    },
    /// Container limited to on-demand types after too many interruptions.
    FellBack {
        container: ContainerId,
        interruptions: u32,
    },
    /// Change of an instance's idle behavior.
    BehaviorChanged {
        instance: VmName,
        behavior: IdleBehavior,
        cause: BehaviorCause,
    },
    /// Instance cordoned for termination; `complaint` is the error of its last probe, if failed.
    #[serde(alias = "Leaving")]
    Terminating {
        instance: VmName,
        instance_type: TypeName,
        reason: ShutdownReason,
        complaint: Option<String>,
    },
    /// Cordon lifted, since a container runs on the instance.
    #[serde(alias = "Stayed")]
    Uncordoned { instance: VmName },
    /// Destroy call sent, for the nth time.
    DestroyIssued { instance: VmName, attempt: u32 },
    /// End of an instance.
    Gone {
        instance: VmName,
        instance_type: TypeName,
        phase: Phase,
        /// Number of runners on the instance, including unconfirmed ones.
        runners: usize,
        /// Time since the first destroy request; `None` without a request.
        expected: Option<Duration>,
    },
    /// Cloud call completed.
    CloudCalled {
        cloud: CloudId,
        call: CloudCall,
        error: Option<CloudError>,
    },
}

impl Event {
    /// Severity of the event.
    #[must_use]
    pub fn level(&self) -> Level {
        match self {
            Self::WrongAnswer { .. } => Level::Error,
            Self::QueueUnavailable { .. }
            | Self::UpdateFailed { .. }
            | Self::ContainerDropped { deleted: true, .. }
            | Self::StartUnsure { .. }
            | Self::Unkillable { .. }
            | Self::CreateWrittenOff { .. }
            | Self::Broken { .. }
            | Self::BootBackoffStarted { .. }
            | Self::PreemptionNotice { .. }
            | Self::Interrupted { .. }
            | Self::Gone { expected: None, .. }
            | Self::CloudCalled { error: Some(_), .. }
            | Self::Stopping {
                reason: StopReason::UnknownContainer,
                ..
            }
            | Self::StartFailed { .. }
            | Self::ProbeEnded {
                news: true,
                identity_mismatch: true,
                ..
            }
            | Self::Boot {
                outcome: BootOutcome::Failure | BootOutcome::Disappeared,
                ..
            } => Level::Warn,
            Self::ProbeEnded { news: true, .. } => Level::Info,
            Self::LateAnswer { .. }
            | Self::CloudCalled { .. }
            | Self::ProbeEnded { .. }
            | Self::Assigned { .. }
            | Self::Signalling { .. } => Level::Debug,
            _ => Level::Info,
        }
    }
}
