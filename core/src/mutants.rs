//! Mutants: deliberate bugs, to test the tests. Each mutant breaks a rule at the place of the rule,
//! and the simulator must notice.
//!
//! The names exist in every build, so that the places read the same. Only a build with the feature
//! `mutants` can activate a mutant; without the feature, the check is a constant.
//!
//! A guard is a single line. Longer code of a mutant lives in a file `mutants.rs` beside the
//! mutated code, compiled only with the feature.

/// Declares the mutants; the documentation of a mutant is the description.
macro_rules! bugs {
    ($($(#[doc = $doc:literal])+ $bug:ident: $rule:literal;)*) => {
        /// Deliberate bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Mutant {
            $($(#[doc = $doc])+ #[doc = concat!("\n\nBreaks “", $rule, "”.")] $bug,)*
        }

        impl Mutant {
            /// All mutants.
            pub const ALL: &'static [Self] = &[$(Self::$bug,)*];

            /// Name of the variant.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$bug => stringify!($bug),)* }
            }

            /// Description in a sentence.
            #[must_use]
            pub const fn what(self) -> &'static str {
                match self { $(Self::$bug => concat!($($doc),+),)* }
            }

            /// Broken rule.
            #[must_use]
            pub const fn rule(self) -> &'static str {
                match self { $(Self::$bug => $rule,)* }
            }
        }
    };
}

bugs! {
    /// An idle instance is destroyed without a fresh probe.
    CordonUnconfirmed: "§4: fence, confirm, destroy";
    /// A destroy is sent once and never again.
    DestroyForgotten: "§4: a destroy is retried until the VM is gone";
    /// An instance missing from a single list counts as gone.
    OneListIsEnough: "§4: missing from one list is not dead";
    /// An instance missing from two lists counts as gone, without any grace period.
    GraceIgnored: "§4: DisappearGrace";
    /// A start with a lost answer counts as not done.
    UnsureIsGone: "§1: never start while an earlier runner may be alive";
    /// The idle behavior set by an operator is ignored.
    BehaviorRequestIgnored: "§4: hold, drain, run";
    /// A container is started on an instance held or drained since the assignment.
    HoldIgnoredAtStart: "§3: nothing starts on a VM that is held";
    /// The report of a broken instance is ignored.
    BrokenIgnored: "§3: nothing starts on a VM that is broken";
    /// A preemption notice is ignored.
    PreemptionNoticeIgnored: "§4: spot notice: drain at once";
    /// A reachable instance counts as ready, even if the boot probe fails.
    UnreadyUsed: "§3: nothing starts on a VM that is not verified";
    /// An adopted runner takes no room.
    AdoptedRunnerWeightless: "§3: by remaining resources";
    /// A container is started while the lock is in flight.
    StartBeforeLock: "§1: Queued, then Locked, then started";
    /// One instance more than `MaxInstances` is allowed.
    OneTooMany: "§6: MaxInstances";
    /// Create requests in flight cost nothing.
    PendingCreatesUnpriced: "§6: MaxPricePerHour, intents counted";
    /// Everything is tried at once after a back-off.
    NoCanary: "§6: one canary when the pause ends";
    /// A failed create is repeated at once.
    FailuresIgnored: "§6: never a tight loop";
    /// A type that never boots is created again and again.
    BootsRepeated: "§4: the boot breaker";
    /// Configured rate limits are counted and not enforced.
    RatesIgnored: "§6: token buckets";
    /// Probes ignore the rate limit.
    ProbeRateIgnored: "§4: MaxProbesPerSecond";
    /// A reached quota is never tried again.
    QuotaNeverRetried: "§6: until fewer instances, or a retry timer";
    /// A snapshot begun before an event decides about the event.
    JudgedByOldSnapshot: "§1: judged by a snapshot that started after the event";
    /// An old snapshot overrides a newer update.
    StaleSnapshotTaken: "§1: own answers that came later win";
    /// An update of a record does not wait for the previous update.
    ChangesOverlap: "§1: one operation in flight per container";
    /// A refused update is never retried.
    RefusalIsFinal: "§1: everything but a misfit is a wait";
    /// A container is placed while a runner of an earlier attempt is alive.
    EarlierRunnerIgnored: "§1: kill it first";
    /// KILL never follows TERM.
    KillNeverSent: "§5: TERM, then KILL";
    /// An instance with an unkillable container is kept for ever.
    UnkillableStays: "§5: then the VM is destroyed";
    /// An idle held instance is terminated.
    IdleHoldIgnored: "§4: a held VM is never shut down";
    /// The idle behavior is not written into the tag.
    TagForgotten: "§4: tags are the only memory";
    /// A create with a lost answer counts as not done.
    LostCreateForgotten: "§4: counted until it shows up or TimeoutCreateAmbiguous";
    /// A runner unknown to the queue is not stopped.
    UnknownRunnerSpared: "§1: a runner for an unknown container is killed";
    /// The runner of a deleted record is not stopped.
    DeletedRunnerSpared: "§1: a container that vanishes is dropped and its runner killed";
    /// The loss of leadership is ignored.
    LostLeadershipIgnored: "§7: a lost lease stops all commands";
    /// Every instance boots from the configured image.
    ImageIgnored: "§2: VMs booted with another image are not used";
    /// A hanging probe never times out.
    HungProbeAwaited: "§4: each probe has its own deadline";
    /// A boot never times out.
    BootTimeoutIgnored: "§4: TimeoutBooting";
    /// An unresponsive instance is kept for ever.
    SilenceIgnored: "§4: TimeoutProbe";
    /// A container waiting for room has no reason.
    ReasonForgotten: "§8: every waiting container has a reason";
    /// A container waiting for room has a wrong reason.
    ReasonWrong: "§8: the reason is true";
    /// A container is started on two instances.
    DoubleStart: "§1: one operation in flight per container";
    /// A reached quota has no effect.
    NoBackoff: "§6: never a tight loop";
    /// An instance is terminated after half of the probe timeout.
    TimeoutProbeEarly: "§4: TimeoutProbe";
    /// Tombstones are never removed.
    TombstonesKept: "simulation: memory is bounded by what lives";
    /// An exhausted budget has no effect.
    BudgetsIgnored: "§6: Budgets";
    /// An overloaded queue does not limit the containers.
    OverloadIgnored: "§3: MaxContainers back-off";
    /// Supervisors are not limited.
    SupervisorsUncounted: "§3: SupervisorFraction";
    /// Time blocked by limits of the operator counts towards the timeout.
    OwnLimitsCount: "§1: MaxSchedulingTime";
    /// No busy instance is kept for a blocked class.
    NoVmKept: "§3: backfill never takes the last VM that a blocked one waits for";
    /// A queued container of priority 0 is never forgotten.
    PriorityZeroKept: "§1: Queued, priority 0: forget";
}

/// Active mutant of a dispatcher, if any. Zero-sized without the feature.
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

    /// True if the mutant is active.
    #[cfg(feature = "mutants")]
    pub(crate) fn has(self, bug: Mutant) -> bool {
        self.bug == Some(bug)
    }

    /// Always false without the feature.
    #[cfg(not(feature = "mutants"))]
    pub(crate) const fn has(self, _bug: Mutant) -> bool {
        false
    }
}

/// No part of the state: the state hash is the same in every build.
impl std::hash::Hash for Mutants {
    fn hash<H: std::hash::Hasher>(&self, _state: &mut H) {}
}

#[cfg(all(test, not(feature = "mutants")))]
mod tests {
    use super::*;

    #[test]
    fn mutants_without_feature_zero_sized() {
        assert_eq!(size_of::<Mutants>(), 0);
        assert!(Mutant::ALL.iter().all(|bug| !Mutants::default().has(*bug)));
    }
}
