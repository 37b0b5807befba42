//! Bugs that can be planted, to test the tests: each breaks one rule at the place where it is kept,
//! and the simulator must notice.
//!
//! The names are always there, so that the places read the same in every build. Only a build with
//! the feature `mutant-bugs` can plant one; any other knows at compile time that there is none.

/// Declares the bugs; what each breaks is its documentation.
macro_rules! bugs {
    ($($(#[doc = $doc:literal])+ $bug:ident: $rule:literal;)*) => {
        /// A bug that can be planted: what it breaks.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Mutant {
            $($(#[doc = $doc])+ #[doc = concat!("\n\nBreaks “", $rule, "”.")] $bug,)*
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$bug,)*];

            /// Its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$bug => stringify!($bug),)* }
            }

            /// What it does, in a sentence.
            #[must_use]
            pub const fn what(self) -> &'static str {
                match self { $(Self::$bug => concat!($($doc),+),)* }
            }

            /// The rule that it breaks.
            #[must_use]
            pub const fn rule(self) -> &'static str {
                match self { $(Self::$bug => $rule,)* }
            }
        }
    };
}

bugs! {
    /// An idle VM is destroyed without a fresh probe.
    CordonUnconfirmed: "§4: fence, confirm, destroy";
    /// A destroy is sent once and never again.
    DestroyForgotten: "§4: a destroy is retried until the VM is gone";
    /// A VM that one list lacks is gone.
    OneListIsEnough: "§4: missing from one list is not dead";
    /// Two lists that lack a VM are enough however young it is and however quickly they came.
    GraceIgnored: "§4: DisappearGrace";
    /// A start whose answer was lost counts as not done.
    UnsureIsGone: "§1: never start while an earlier runner may be alive";
    /// What an operator sets a VM to is not taken over.
    BehaviorRequestIgnored: "§4: hold, drain, run";
    /// A place on a VM is used although the VM was held or drained meanwhile.
    HoldIgnoredAtStart: "§3: nothing starts on a VM that is held";
    /// A VM's word that it is broken is not heard.
    BrokenIgnored: "§3: nothing starts on a VM that is broken";
    /// An announcement that the cloud takes a VM back is not heard.
    PreemptionNoticeIgnored: "§4: spot notice: drain at once";
    /// A VM that answers is ready, whatever its boot probe says.
    UnreadyUsed: "§3: nothing starts on a VM that is not verified";
    /// A runner that was found takes no room.
    AdoptedRunnerWeightless: "§3: by remaining resources";
    /// A container starts while its lock is still being asked for.
    StartBeforeLock: "§1: Queued, then Locked, then started";
    /// One instance more than `MaxInstances`.
    OneTooMany: "§6: MaxInstances";
    /// Wishes under way cost nothing.
    PendingCreatesUnpriced: "§6: MaxPricePerHour, intents counted";
    /// After a pause everything is tried at once.
    NoCanary: "§6: one canary when the pause ends";
    /// A create that failed is repeated at once.
    FailuresIgnored: "§6: never a tight loop";
    /// What never boots is created again and again.
    BootsRepeated: "§4: the boot breaker";
    /// Our own rates are counted and not kept.
    RatesIgnored: "§6: token buckets";
    /// Probes leave whenever they are due.
    ProbeRateIgnored: "§4: MaxProbesPerSecond";
    /// A quota that was met once is never tried again.
    QuotaNeverRetried: "§6: until fewer instances, or a retry timer";
    /// A snapshot judges what happened after it began.
    JudgedByOldSnapshot: "§1: judged by a snapshot that started after the event";
    /// A snapshot wins over our own newer change.
    StaleSnapshotTaken: "§1: own answers that came later win";
    /// A change of a record does not wait for the one before.
    ChangesOverlap: "§1: one operation in flight per container";
    /// A refused change is never tried again.
    RefusalIsFinal: "§1: everything but a misfit is a wait";
    /// A container is placed while a runner of an earlier attempt is alive.
    EarlierRunnerIgnored: "§1: kill it first";
    /// KILL never follows TERM.
    KillNeverSent: "§5: TERM, then KILL";
    /// A VM with an unkillable container is kept for ever.
    UnkillableStays: "§5: then the VM is destroyed";
    /// A held VM goes when it idles.
    IdleHoldIgnored: "§4: a held VM is never shut down";
    /// The operator's wish is not written into the tag.
    TagForgotten: "§4: tags are the only memory";
    /// A create whose answer was lost counts as not done.
    LostCreateForgotten: "§4: counted until it shows up or TimeoutCreateAmbiguous";
    /// A runner that the queue never knew is left alone.
    UnknownRunnerSpared: "§1: a runner for an unknown container is killed";
    /// The runner of a deleted record is left alone.
    DeletedRunnerSpared: "§1: a container that vanishes is dropped and its runner killed";
    /// The loss of leadership is not heard.
    LostLeadershipIgnored: "§7: a lost lease stops all commands";
    /// Every VM boots from the configured image.
    ImageIgnored: "§2: VMs booted with another image are not used";
    /// A probe that hangs is awaited for ever.
    HungProbeAwaited: "§4: each probe has its own deadline";
    /// A VM that does not boot is waited for for ever.
    BootTimeoutIgnored: "§4: TimeoutBooting";
    /// A VM that falls silent is kept for ever.
    SilenceIgnored: "§4: TimeoutProbe";
    /// What waits for room is shown without a reason.
    ReasonForgotten: "§8: every waiting container has a reason";
    /// What waits for room is shown with a reason that is not so.
    ReasonWrong: "§8: the reason is true";
    /// A container is started on two VMs.
    DoubleStart: "§1: one operation in flight per container";
    /// A quota that was met is of no consequence.
    NoBackoff: "§6: never a tight loop";
    /// A VM is given up after half of the time that it has.
    TimeoutProbeEarly: "§4: TimeoutProbe";
    /// What was destroyed is remembered for ever.
    TombstonesKept: "simulation: memory is bounded by what lives";
    /// What was spent is counted and of no consequence.
    BudgetsIgnored: "§6: Budgets";
    /// As many containers start as if the queue had never been overloaded.
    OverloadIgnored: "§3: MaxContainers back-off";
    /// Supervisors take all there is.
    SupervisorsUncounted: "§3: SupervisorFraction";
    /// Time counts in which the operator's own limits stood in the way.
    OwnLimitsCount: "§1: MaxSchedulingTime";
    /// What is blocked has no VM kept for it.
    NoVmKept: "§3: backfill never takes the last VM that a blocked one waits for";
    /// A queued container of priority 0 is remembered for ever.
    PriorityZeroKept: "§1: Queued, priority 0: forget";
}

/// The bug planted in a dispatcher, if any. Without the feature it has no size, and no bug.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mutants {
    #[cfg(feature = "mutants")]
    bug: Option<Mutant>,
}

impl Mutants {
    /// Exactly one active mutant.
    #[cfg(feature = "mutants")]
    pub(crate) fn only(mutant: Mutant) -> Self {
        Self { bug: Some(mutant) }
    }

    /// Whether this bug is planted.
    #[cfg(feature = "mutants")]
    pub(crate) fn has(self, bug: Mutant) -> bool {
        self.bug == Some(bug)
    }

    /// Whether this bug is planted: never.
    #[cfg(not(feature = "mutants"))]
    pub(crate) const fn has(self, _bug: Mutant) -> bool {
        false
    }
}

/// Not part of what is known: fingerprints are the same in every build.
impl std::hash::Hash for Mutants {
    fn hash<H: std::hash::Hasher>(&self, _state: &mut H) {}
}

#[cfg(all(test, not(feature = "mutants")))]
mod tests {
    use super::*;

    #[test]
    fn without_the_feature_there_is_nothing_to_carry_along() {
        assert_eq!(size_of::<Mutants>(), 0);
        assert!(Mutant::ALL.iter().all(|bug| !Mutants::default().has(*bug)));
    }
}
