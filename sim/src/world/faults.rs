//! What may go wrong, how often, and how often it did.

use std::collections::BTreeMap;

use crate::world::rng::{Ratio, Rng};

/// Declares the faults with their parts, names and usual rates.
macro_rules! faults {
    ($($(#[$doc:meta])* $fault:ident: $part:literal, $times:literal / $of:literal;)*) => {
        /// One way in which the world misbehaves.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Fault { $($(#[$doc])* $fault,)* }

        impl Fault {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$fault,)*];

            /// The part of the world that it belongs to.
            #[must_use]
            pub fn part(self) -> &'static str {
                match self { $(Self::$fault => $part,)* }
            }

            /// Its name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$fault => stringify!($fault),)* }
            }

            /// How often it strikes, per occasion, in a run that has it.
            #[must_use]
            pub fn usual(self) -> Ratio {
                match self { $(Self::$fault => Ratio::new($times, $of),)* }
            }
        }
    };
}

faults! {
    /// A create fails for no particular reason.
    CreateFails: "cloud", 1 / 10;
    /// A create is refused for good.
    CreateRefused: "cloud", 1 / 20;
    /// A create is made and its answer is lost.
    CreateAnswerLost: "cloud", 1 / 8;
    /// A create is made and answered with an error.
    CreateMadeButFailed: "cloud", 1 / 12;
    /// One create makes two instances.
    CreateTwice: "cloud", 1 / 20;
    /// A create takes minutes.
    CreateSlow: "cloud", 1 / 10;
    /// The account's quota shrinks for a while, perhaps below what exists.
    QuotaShrinks: "cloud", 1 / 8;
    /// A type is sold out for a while.
    SoldOut: "cloud", 1 / 6;
    /// All types of a group, or of a zone, are sold out for a while.
    SoldOutGroup: "cloud", 1 / 10;
    /// Nothing at all is to be had for a while.
    SoldOutEverywhere: "cloud", 1 / 20;
    /// A call is throttled.
    Throttled: "cloud", 1 / 25;
    /// A call is throttled, and told when to come again.
    ThrottledUntil: "cloud", 1 / 25;
    /// The cloud's API is down for a while.
    CloudDown: "cloud", 1 / 40;
    /// A list lacks some instance.
    ListPartial: "cloud", 1 / 15;
    /// A list is the one of a moment ago.
    ListStale: "cloud", 1 / 10;
    /// A list comes in pages, between which the world goes on.
    ListPaged: "cloud", 1 / 8;
    /// New instances are listed late.
    ListLate: "cloud", 1 / 5;
    /// Dead instances are listed as alive for a while.
    ListShowsDead: "cloud", 1 / 5;
    /// A list fails.
    ListFails: "cloud", 1 / 15;
    /// A tag is written late.
    TagLate: "cloud", 1 / 5;
    /// Writing a tag is answered well and not done.
    TagLost: "cloud", 1 / 8;
    /// Writing a tag fails.
    TagFails: "cloud", 1 / 5;
    /// A destroy fails.
    DestroyFails: "cloud", 1 / 6;
    /// A destroy is answered well and not done.
    DestroyLies: "cloud", 1 / 8;
    /// A destroy takes many minutes.
    DestroySlow: "cloud", 1 / 10;
    /// An instance is taken away without notice.
    Vanishes: "cloud", 1 / 12;
    /// A preemptible instance is announced to be taken back, and is two minutes later.
    SpotNotice: "cloud", 1 / 5;
    /// A preemptible instance is taken back without any notice.
    SpotTaken: "cloud", 1 / 8;
    /// An address is assigned late.
    AddressLate: "cloud", 1 / 8;
    /// An instance's address changes.
    AddressChanges: "cloud", 1 / 15;
    /// A new instance gets the name of one that ended a while ago.
    IdReused: "cloud", 1 / 4;
    /// A new instance gets the address of a dead one.
    AddressReused: "cloud", 1 / 4;
    /// The answer of a cloud call other than create is lost.
    CloudAnswerLost: "cloud", 1 / 25;
    /// The answer of a cloud call comes twice.
    CloudAnswerTwice: "cloud", 1 / 25;
    /// The answer of a cloud call comes late, perhaps after its deadline.
    CloudAnswerLate: "cloud", 1 / 25;

    /// A VM never boots.
    NeverBoots: "vm", 1 / 12;
    /// A VM boots late.
    BootsLate: "vm", 1 / 8;
    /// A VM's boot probe fails for ever.
    BootProbeFails: "vm", 1 / 12;
    /// A VM cannot prove its identity.
    Impostor: "vm", 1 / 20;
    /// A VM shows another host key than before, some time after its boot.
    HostKeyChanges: "vm", 1 / 25;
    /// A VM boots again, some time after its boot: nothing on it survives.
    Reboots: "vm", 1 / 12;
    /// A VM's disk is full for a while: nothing can be started.
    DiskFull: "vm", 1 / 15;
    /// The runner's program is deleted from a VM, until a boot probe puts it back.
    RunnerMissing: "vm", 1 / 25;
    /// A VM keeps a runner of an old version, which does not understand how it is told to stop.
    RunnerOld: "vm", 1 / 25;
    /// A VM hangs for good some time after its boot.
    Freezes: "vm", 1 / 15;
    /// A VM cannot be reached for a while.
    Silent: "vm", 1 / 8;
    /// A VM reports itself broken some time after its boot.
    Breaks: "vm", 1 / 12;
    /// Every start on this VM fails.
    RefusesStarts: "vm", 1 / 20;
    /// A connection hangs before either side has proved who it is.
    HangsBeforeAuth: "vm", 1 / 60;
    /// A command is done, and the end of what it says is cut off.
    OutputTruncated: "vm", 1 / 60;
    /// A connection drops in the middle of a command; it was perhaps run.
    ConnectionDrops: "vm", 1 / 40;
    /// A command hangs.
    CommandHangs: "vm", 1 / 60;
    /// The runners of a VM cannot be listed.
    NoRunnerList: "vm", 1 / 40;
    /// The answer of a VM comes twice.
    VmAnswerTwice: "vm", 1 / 50;
    /// The answer of a VM comes late, perhaps after its deadline.
    VmAnswerLate: "vm", 1 / 50;

    /// A start is done and its answer is lost.
    StartAnswerLost: "runner", 1 / 10;
    /// A start is refused by the VM.
    StartRefused: "runner", 1 / 12;
    /// A start is given up, and the runner appears later all the same.
    DetachLate: "runner", 1 / 40;
    /// A runner needs long until its container runs.
    SlowSetup: "runner", 1 / 8;
    /// A runner dies before it reports Running.
    CrashBeforeRunning: "runner", 1 / 12;
    /// A runner dies while its container runs.
    CrashWhileRunning: "runner", 1 / 15;
    /// A runner dies when its program has ended, before it tells the result.
    CrashBeforeReport: "runner", 1 / 20;
    /// A runner dies as soon as it has told the result, and leaves its lock behind.
    CrashAfterComplete: "runner", 1 / 15;
    /// A runner stays after it reported the result.
    LingersAfterComplete: "runner", 1 / 12;
    /// A runner ends and something keeps its lock.
    StaleLock: "runner", 1 / 20;
    /// A container ignores TERM.
    IgnoresTerm: "runner", 1 / 6;
    /// A container cannot be killed either.
    IgnoresKill: "runner", 1 / 12;
    /// What a runner reports comes a second time, up to five minutes later.
    ReportsTwice: "runner", 1 / 8;

    /// The queue refuses everything with 503 for a while.
    QueueStorm: "queue", 1 / 10;
    /// The queue needs long for everything for a while.
    QueueSlow: "queue", 1 / 15;
    /// Our token is refused for a while.
    TokenExpired: "queue", 1 / 25;
    /// Somebody else locks a container in the moment in which we do.
    LockConflict: "queue", 1 / 25;
    /// The queue's clock is far from ours: a record seems to be of another time.
    ClockSkew: "queue", 1 / 10;
    /// A single call to the queue gets 503.
    QueueBusy: "queue", 1 / 25;
    /// A change is made and its answer is lost.
    UpdateAnswerLost: "queue", 1 / 25;
    /// A change is not made and there is no answer.
    UpdateLost: "queue", 1 / 25;
    /// The answer of the queue comes twice.
    QueueAnswerTwice: "queue", 1 / 25;
    /// The answer of the queue comes late, perhaps after its deadline.
    QueueAnswerLate: "queue", 1 / 40;
    /// A reading of the queue lacks some containers.
    ShortPoll: "queue", 1 / 15;
    /// The queue does not tell that something changed.
    NoHint: "queue", 1 / 3;

    /// A user sets a priority to 0.
    UserCancels: "users", 1 / 10;
    /// A user cancels everything at once.
    CancelStorm: "users", 1 / 15;
    /// A user changes a priority.
    UserReprioritizes: "users", 1 / 4;
    /// A user sets a priority to 0 and back.
    UserFlaps: "users", 1 / 12;
    /// A priority becomes 0 in the moment of a lock, an unlock, a start or a report.
    CancelledAtWorst: "users", 1 / 60;
    /// A record is deleted from the database.
    RecordDeleted: "users", 1 / 25;
    /// A record is malformed.
    RecordMalformed: "users", 1 / 25;
    /// A container asks for more than any type has.
    Unsatisfiable: "users", 1 / 25;

    /// An operator holds a VM for a while.
    OperatorHolds: "operator", 1 / 8;
    /// An operator drains a VM.
    OperatorDrains: "operator", 1 / 10;
    /// An operator kills a VM.
    OperatorKillsVm: "operator", 1 / 15;
    /// An operator kills a container.
    OperatorKillsContainer: "operator", 1 / 15;

    /// The dispatcher dies between two commands.
    CrashAtCommand: "process", 1 / 600;
    /// The dispatcher dies at any time.
    Crash: "process", 1 / 15;
    /// A restart takes minutes.
    RestartSlow: "process", 1 / 4;
    /// The configuration changes while it runs.
    Reconfigured: "process", 1 / 15;
    /// The configuration is another one after a restart.
    RestartReconfigured: "process", 1 / 4;
    /// The host's clock is set, back or forth: seen by the next process, as the daemon's clock is
    /// steady within a life.
    ClockSteps: "process", 1 / 4;
    /// The dispatcher's host stands still for a while, and everything that came meanwhile is heard
    /// at once.
    Stalls: "process", 1 / 30;
    /// The dispatcher loses the right to act for a while.
    LeadershipLost: "process", 1 / 20;
    /// Two dispatchers believe that they may act.
    TwoLeaders: "process", 1 / 60;
    /// Several inputs are taken before commands are drained.
    DrainsLate: "process", 1 / 10;
}

/// Which faults a run has, and how often each strikes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultPlan {
    /// Absent means never.
    pub ratios: BTreeMap<Fault, Ratio>,
}

impl FaultPlan {
    /// No faults at all.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }
}

/// The faults of a run: drawn while the world is stormy, counted always.
#[derive(Clone, Debug)]
pub(crate) struct Faults {
    ratios: Vec<Ratio>,
    counts: Vec<u64>,
    /// Strikes that a story asked for, whatever the ratios say.
    scripted: Vec<u32>,
    /// Strikes left; at 0 no more are drawn.
    pub(crate) budget: u64,
    stopped: bool,
}

impl Faults {
    pub(crate) fn new(plan: &FaultPlan, budget: u64) -> Self {
        let ratio = |fault: &Fault| plan.ratios.get(fault).copied().unwrap_or(Ratio::NEVER);
        Self {
            ratios: Fault::ALL.iter().map(ratio).collect(),
            counts: vec![0; Fault::ALL.len()],
            scripted: vec![0; Fault::ALL.len()],
            budget,
            stopped: false,
        }
    }

    /// Whether it strikes on this occasion.
    pub(crate) fn strikes(&mut self, rng: &mut Rng, fault: Fault) -> bool {
        let index = fault as usize;
        let scripted = self.scripted[index] > 0;
        if scripted {
            self.scripted[index] -= 1;
        } else if self.stopped || self.budget == 0 || !rng.happens(self.ratios[index]) {
            return false;
        } else {
            self.budget -= 1;
        }
        self.counts[index] += 1;
        true
    }

    /// Whether it may ever strike again by chance.
    pub(crate) fn may_strike(&self, fault: Fault) -> bool {
        !self.stopped && self.ratios[fault as usize].times > 0
    }

    /// The next `times` occasions strike.
    pub(crate) fn script(&mut self, fault: Fault, times: u32) {
        self.scripted[fault as usize] = times;
    }

    /// From here on nothing new goes wrong.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stopped
    }

    pub(crate) fn count(&self, fault: Fault) -> u64 {
        self.counts[fault as usize]
    }

    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        let counted = Fault::ALL.iter().map(|f| (f.name(), self.count(*f)));
        counted.collect()
    }
}
