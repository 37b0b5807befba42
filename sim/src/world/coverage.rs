//! Things that some run should reach: a branch that no seed ever takes is not tested.

use std::collections::BTreeMap;

/// Declares the marks.
macro_rules! marks {
    ($($(#[$doc:meta])* $mark:ident;)*) => {
        /// One interesting thing that happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum CoverageMark { $($(#[$doc])* $mark,)* }

        impl CoverageMark {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$mark,)*];

            /// Its name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$mark => stringify!($mark),)* }
            }
        }
    };
}

marks! {
    /// A container completed.
    Completed;
    /// Two containers shared a VM.
    Packed;
    /// A container that fits nowhere was cancelled with the reason.
    UnsatisfiableCancelled;
    /// A container was cancelled because its VM disappeared.
    CancelledVmGone;
    /// A container was cancelled because its runner left no result.
    CancelledNoResult;
    /// A container was cancelled by the queue after too many attempts.
    AttemptsExhausted;
    /// A container was locked again after an attempt that failed.
    Retried;
    /// A runner was stopped because its container had priority 0.
    StoppedAtPriorityZero;
    /// A runner of an earlier attempt was stopped.
    StoppedEarlierAttempt;
    /// A runner was stopped that the queue does not know.
    StoppedUnknown;
    /// A runner was stopped because its container was over.
    StoppedFinal;
    /// KILL was needed.
    KillNeeded;
    /// Not even KILL helped.
    KillFailed;
    /// A VM was given back because of an unkillable container.
    UnkillableVmDestroyed;
    /// An unkillable container was left on a VM that is held.
    UnkillableHeld;
    /// A create whose answer was lost was found again by its intent.
    LostCreateMatched;
    /// A create whose answer was lost was written off.
    CreateWrittenOff;
    /// An instance was found that this process did not ask for.
    InstanceFound;
    /// A running container was found again after a restart.
    RunnerAdopted;
    /// A runner was found that was taken for not started.
    StartUnsureFound;
    /// A start of unknown outcome happened.
    StartUnsure;
    /// A fenced VM was needed after all.
    Uncordoned;
    /// A VM was given back after idling.
    IdleShutdown;
    /// A VM was given back after draining.
    DrainShutdown;
    /// A VM was given back to make room.
    MadeRoom;
    /// A VM was given back because it did not boot.
    BootTimeout;
    /// A VM was given back because it did not answer.
    Unresponsive;
    /// A VM was broken and drained.
    BrokenDrained;
    /// A VM was broken and held.
    BrokenHeld;
    /// A VM disappeared.
    Disappeared;
    /// A destroy was repeated.
    DestroyRepeated;
    /// A quota was met.
    QuotaMet;
    /// Capacity was missing.
    CapacityMissing;
    /// A VM was drained because the cloud takes it back.
    PreemptionNotice;
    /// A container was interrupted by the cloud.
    Interrupted;
    /// One that was running went back into the line.
    RequeuedRunning;
    /// A container was interrupted so often that it takes types that are not preemptible.
    FellBack;
    /// A preemptible container was started where it cannot be interrupted.
    StartedOnDemand;
    /// A create succeeded for a type that had failed before.
    CanarySucceeded;
    /// So many boots of a type and image failed that no more were created.
    BootBackoffStarted;
    /// What did not boot did after such a pause.
    BootBackoffEnded;
    /// Something waited for the end of such a pause.
    WaitedForBoots;
    /// The cloud throttled us.
    RateLimited;
    /// Something waited for MaxInstances.
    WaitedForInstances;
    /// Something waited for MaxPricePerHour.
    WaitedForPrice;
    /// Something waited for one of Budgets.
    WaitedForBudget;
    /// Something waited because the queue had been overloaded, or for InitialQuotaEstimate.
    WaitedForOverload;
    /// A supervisor waited for SupervisorFraction.
    WaitedForSupervisors;
    /// A container was cancelled after MaxSchedulingTime.
    SchedulingTimedOut;
    /// An address changed.
    AddressChanged;
    /// A late answer was ignored.
    LateAnswer;
    /// The dispatcher was restarted.
    Restarted;
    /// The dispatcher was restarted while containers ran.
    RestartedWhileRunning;
    /// Leadership was lost and regained.
    LeadershipRegained;
    /// A configuration was taken over.
    Reconfigured;
    /// A supervisor waited for its children.
    WaitedForChildren;
    /// A supervisor ended before its children, which were cancelled.
    Orphaned;
    /// A type that was offered is not any more.
    TypeRemoved;
    /// Fewer instances are allowed than before.
    LimitsCut;
    /// The API's guard refused a second runner.
    GuardRefused;
    /// A record was deleted while its container ran.
    DeletedWhileRunning;
}

/// How often each mark was reached.
#[derive(Clone, Debug)]
pub(crate) struct Coverage(Vec<u64>);

impl Default for Coverage {
    fn default() -> Self {
        Self(vec![0; CoverageMark::ALL.len()])
    }
}

impl Coverage {
    pub(crate) fn reach(&mut self, mark: CoverageMark) {
        self.0[mark as usize] += 1;
    }

    pub(crate) fn count(&self, mark: CoverageMark) -> u64 {
        self.0[mark as usize]
    }

    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        let counted = CoverageMark::ALL.iter().map(|m| (m.name(), self.count(*m)));
        counted.collect()
    }
}
