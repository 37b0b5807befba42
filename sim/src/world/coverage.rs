//! Coverage marks: conditions to be reached by at least one run. A branch taken by no seed is
//! untested.

use std::collections::BTreeMap;

/// Declares the marks.
macro_rules! marks {
    ($($(#[$doc:meta])* $mark:ident;)*) => {
        /// Condition reached in a run.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum CoverageMark { $($(#[$doc])* $mark,)* }

        impl CoverageMark {
            /// All marks.
            pub const ALL: &'static [Self] = &[$(Self::$mark,)*];

            /// Name of the mark.
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
    /// A container too large for every type was cancelled with the reason.
    UnsatisfiableCancelled;
    /// A container was cancelled after its VM disappeared.
    CancelledVmGone;
    /// A container was cancelled after its runner left no result.
    CancelledNoResult;
    /// A container was cancelled by the queue after too many attempts.
    AttemptsExhausted;
    /// A container was locked again after a failed attempt.
    Retried;
    /// A runner was stopped because its container had priority 0.
    StoppedAtPriorityZero;
    /// A runner of an earlier attempt was stopped.
    StoppedEarlierAttempt;
    /// A runner unknown to the queue was stopped.
    StoppedUnknown;
    /// A runner was stopped because its container was final.
    StoppedFinal;
    /// KILL was needed.
    KillNeeded;
    /// KILL had no effect.
    KillFailed;
    /// A VM was terminated because of an unkillable container.
    UnkillableVmDestroyed;
    /// An unkillable container was left on a held VM.
    UnkillableHeld;
    /// A create with a lost answer was matched by its intent.
    LostCreateMatched;
    /// A create with a lost answer was written off.
    CreateWrittenOff;
    /// An instance not created by the process was found.
    InstanceFound;
    /// A running container was adopted after a restart.
    RunnerAdopted;
    /// A start assumed to have failed turned out to have created a runner.
    StartUnsureFound;
    /// A start had an unknown outcome.
    StartUnsure;
    /// A cordoned VM was needed again.
    Uncordoned;
    /// An idle VM was terminated.
    IdleShutdown;
    /// A drained VM was terminated.
    DrainShutdown;
    /// A VM was terminated to make room.
    MadeRoom;
    /// A VM was terminated after a boot timeout.
    BootTimeout;
    /// An unresponsive VM was terminated.
    Unresponsive;
    /// A broken VM was drained.
    BrokenDrained;
    /// A broken VM was held.
    BrokenHeld;
    /// A VM disappeared.
    Disappeared;
    /// A destroy was retried.
    DestroyRepeated;
    /// A quota was reached.
    QuotaMet;
    /// Capacity was missing.
    CapacityMissing;
    /// A VM was drained after a preemption notice.
    PreemptionNotice;
    /// A container was interrupted by a preemption.
    Interrupted;
    /// A running container was requeued.
    RequeuedRunning;
    /// A container was interrupted often enough to fall back to on-demand types.
    FellBack;
    /// A preemptible container was started on an on-demand instance.
    StartedOnDemand;
    /// A canary create succeeded for a type with an earlier failure.
    CanarySucceeded;
    /// Boots of a type and image failed often enough to stop further creates.
    BootBackoffStarted;
    /// A boot succeeded after the back-off of its type and image.
    BootBackoffEnded;
    /// A container waited for the end of a boot back-off.
    WaitedForBoots;
    /// The cloud throttled the dispatcher.
    RateLimited;
    /// A container waited for MaxInstances.
    WaitedForInstances;
    /// A container waited for MaxPricePerHour.
    WaitedForPrice;
    /// A container waited for an entry of Budgets.
    WaitedForBudget;
    /// A container waited because of an earlier queue overload, or for InitialQuotaEstimate.
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
    /// The dispatcher was restarted with containers running.
    RestartedWhileRunning;
    /// Leadership was lost and regained.
    LeadershipRegained;
    /// A new configuration was applied.
    Reconfigured;
    /// A supervisor waited for its children.
    WaitedForChildren;
    /// A supervisor ended before its children, and the children were cancelled.
    Orphaned;
    /// A type was removed from the configuration.
    TypeRemoved;
    /// The maximum number of instances was lowered.
    LimitsCut;
    /// The API's guard refused a second runner.
    GuardRefused;
    /// A record was deleted with its container running.
    DeletedWhileRunning;
}

/// Number of times each mark was reached.
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
