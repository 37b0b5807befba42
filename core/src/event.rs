//! Everything worth logging or counting. Log lines, metrics and traces are made from events alone.

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

/// How much an event matters to an operator. At `Info` one can follow a container and a VM from
/// birth to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For whoever debugs.
    Debug,
    /// The course of things.
    Info,
    /// Something failed that will be tried again, or costs money.
    Warn,
    /// A bug of ours or of an adapter.
    Error,
}

/// How the boot of an instance ended; once for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BootOutcome {
    /// It became ready.
    Success,
    /// It did not in time, or reports itself broken.
    Failure,
    /// It was shut down before.
    Aborted,
    /// It vanished before.
    Disappeared,
}

impl BootOutcome {
    /// The label that the peer's metric has for it.
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

/// One thing that happened. `instance` is the cloud's name, or the intent's while there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "the fields are what the names say; the variants are explained"
)]
pub enum Event {
    /// The right to act was gained or lost.
    Leadership { held: bool },
    /// A new configuration is in force.
    Reconfigured { types: usize },
    /// An answer came that nobody waits for (any more).
    LateAnswer { command: CommandId },
    /// An adapter gave an answer of the wrong kind.
    WrongAnswer { command: CommandId },
    /// The queue could not be read.
    QueueUnavailable { error: String, overloaded: bool },
    /// A container was seen for the first time.
    ContainerSeen {
        container: ContainerId,
        state: ContainerState,
        priority: u64,
    },
    /// Its state changed, by our doing or not.
    ContainerState {
        container: ContainerId,
        from: ContainerState,
        to: ContainerState,
    },
    /// The queue did not make a change.
    UpdateFailed {
        container: ContainerId,
        update: String,
        error: String,
    },
    /// It is over, or gone, and forgotten.
    ContainerDropped {
        container: ContainerId,
        state: ContainerState,
        deleted: bool,
    },
    /// It is ended because it cannot go on.
    ContainerCancelled {
        container: ContainerId,
        #[serde(rename = "error")]
        reason: CancelReason,
    },
    /// A ready VM is kept for it.
    Assigned {
        container: ContainerId,
        instance: VmName,
    },
    /// Its start is under way. `waited` counts from its submission; `ready_wait` from when both it
    /// and a ready VM with room were there, so it is the dispatcher's own share.
    StartIssued {
        container: ContainerId,
        instance: VmName,
        instance_type: TypeName,
        waited: Duration,
        ready_wait: Duration,
        /// Whether this process starts it for the first time.
        first: bool,
    },
    /// Its runner has taken it.
    Started {
        container: ContainerId,
        instance: VmName,
    },
    /// Its runner was not started: nothing was done.
    StartFailed {
        container: ContainerId,
        instance: VmName,
        error: String,
    },
    /// Nobody knows whether its runner has taken it; a probe will tell.
    StartUnsure {
        container: ContainerId,
        instance: VmName,
        error: String,
    },
    /// A runner was found that we did not start.
    RunnerFound {
        container: ContainerId,
        instance: VmName,
    },
    /// A runner is gone.
    RunnerExited {
        container: ContainerId,
        instance: VmName,
    },
    /// A runner must end.
    Stopping {
        container: ContainerId,
        instance: VmName,
        reason: StopReason,
    },
    /// A signal leaves.
    Signalling {
        container: ContainerId,
        instance: VmName,
        signal: Signal,
    },
    /// KILL did not help either.
    Unkillable {
        container: ContainerId,
        instance: VmName,
        held: bool,
    },
    /// An instance was asked for.
    CreateIssued {
        intent: IntentId,
        instance_type: TypeName,
        container: ContainerId,
    },
    /// The cloud made one for us.
    Created {
        instance: VmName,
        intent: IntentId,
        instance_type: TypeName,
        /// The first that it was asked for.
        container: Option<ContainerId>,
    },
    /// The cloud did not make one, or did not say so; `Ambiguous` means the latter.
    CreateFailed {
        intent: IntentId,
        instance_type: TypeName,
        error: CloudError,
    },
    /// A create whose answer was lost is written off.
    CreateWrittenOff {
        intent: IntentId,
        instance_type: TypeName,
    },
    /// An instance of ours was found that this process did not ask for.
    InstanceFound {
        instance: VmName,
        instance_type: TypeName,
        behavior: IdleBehavior,
    },
    /// It has another address.
    AddressChanged { instance: VmName, address: Address },
    /// It answered for the first time, so long after it appeared.
    Reached {
        instance: VmName,
        after: Duration,
        own: bool,
    },
    /// It is ready for containers, so long after it was first reached.
    Ready {
        instance: VmName,
        instance_type: TypeName,
        after: Duration,
        own: bool,
    },
    /// The end of a boot.
    Boot {
        instance: VmName,
        instance_type: TypeName,
        outcome: BootOutcome,
    },
    /// Too many boots of a type with an image failed in a row: no more are created until then.
    #[serde(alias = "BootsPaused")]
    BootBackoffStarted {
        instance_type: TypeName,
        image: ImageId,
        failures: u32,
        until: Timestamp,
        /// The last complaint.
        why: String,
    },
    /// One of them booted at last.
    #[serde(alias = "BootsResumed")]
    BootBackoffEnded {
        instance_type: TypeName,
        image: ImageId,
    },
    /// A probe was answered, or was not.
    ProbeEnded {
        instance: VmName,
        instance_type: TypeName,
        took: Duration,
        error: Option<String>,
        /// In a row.
        failures: u32,
        /// The error is not the one of the probe before.
        news: bool,
        /// Somebody else may answer at its address.
        #[serde(alias = "impostor")]
        identity_mismatch: bool,
    },
    /// It reports itself broken, or holds a lock without a runner.
    Broken {
        instance: VmName,
        instance_type: TypeName,
        why: String,
        held: bool,
    },
    /// The cloud has announced that it takes it back at that time, with so many containers on it.
    #[serde(alias = "LossAnnounced")]
    PreemptionNotice {
        instance: VmName,
        instance_type: TypeName,
        at: Timestamp,
        containers: usize,
    },
    /// A container's runner went with an instance that the cloud took back: not its fault, for the
    /// nth time that this process saw.
    Interrupted {
        container: ContainerId,
        instance: VmName,
        instance_type: TypeName,
        times: u32,
    },
    /// Interrupted so often that it takes types that are not preemptible from now on.
    FellBack {
        container: ContainerId,
        interruptions: u32,
    },
    /// It is used in another way from now on.
    BehaviorChanged {
        instance: VmName,
        behavior: IdleBehavior,
        cause: BehaviorCause,
    },
    /// It is about to be given back; its last complaint, if its last probe failed.
    #[serde(alias = "Leaving")]
    Terminating {
        instance: VmName,
        instance_type: TypeName,
        reason: ShutdownReason,
        complaint: Option<String>,
    },
    /// It was needed after all: something runs on it.
    #[serde(alias = "Stayed")]
    Uncordoned { instance: VmName },
    /// It is being destroyed, for the nth time.
    DestroyIssued { instance: VmName, attempt: u32 },
    /// It is gone.
    Gone {
        instance: VmName,
        instance_type: TypeName,
        phase: Phase,
        /// How many runners were on it, or may have been.
        runners: usize,
        /// Whether we had asked for it; how long ago.
        expected: Option<Duration>,
    },
    /// A call to a cloud ended.
    CloudCalled {
        cloud: CloudId,
        call: CloudCall,
        error: Option<CloudError>,
    },
}

impl Event {
    /// How much it matters.
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
