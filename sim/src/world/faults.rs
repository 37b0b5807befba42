//! Faults of the world: kinds, rates and number of strikes.

use std::collections::BTreeMap;

use crate::world::rng::{Ratio, Rng};

/// Declares the faults with their parts, names and usual rates.
macro_rules! faults {
    ($($(#[$doc:meta])* $fault:ident: $part:literal, $times:literal / $of:literal;)*) => {
        /// Fault of the simulated world.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Fault { $($(#[$doc])* $fault,)* }

        impl Fault {
            /// All faults.
            pub const ALL: &'static [Self] = &[$(Self::$fault,)*];

            /// Part of the world with the fault.
            #[must_use]
            pub fn part(self) -> &'static str {
                match self { $(Self::$fault => $part,)* }
            }

            /// Name of the fault.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$fault => stringify!($fault),)* }
            }

            /// Strikes per occasion in a run with the fault.
            #[must_use]
            pub fn usual(self) -> Ratio {
                match self { $(Self::$fault => Ratio::new($times, $of),)* }
            }
        }
    };
}

faults! {
    /// A create fails without a particular reason.
    CreateFails: "cloud", 1 / 10;
    /// A create is refused permanently.
    CreateRefused: "cloud", 1 / 20;
    /// A create succeeds and its answer is lost.
    CreateAnswerLost: "cloud", 1 / 8;
    /// A create succeeds and is answered with an error.
    CreateMadeButFailed: "cloud", 1 / 12;
    /// A single create makes two instances.
    CreateTwice: "cloud", 1 / 20;
    /// A create takes minutes.
    CreateSlow: "cloud", 1 / 10;
    /// The account's quota shrinks for a while, perhaps below the current usage.
    QuotaShrinks: "cloud", 1 / 8;
    /// A type is sold out for a while.
    SoldOut: "cloud", 1 / 6;
    /// All types of a group, or of a zone, are sold out for a while.
    SoldOutGroup: "cloud", 1 / 10;
    /// All types are sold out for a while.
    SoldOutEverywhere: "cloud", 1 / 20;
    /// A call is throttled.
    Throttled: "cloud", 1 / 25;
    /// A call is throttled with a time for the retry.
    ThrottledUntil: "cloud", 1 / 25;
    /// The cloud's API is down for a while.
    CloudDown: "cloud", 1 / 40;
    /// A list lacks some instance.
    ListPartial: "cloud", 1 / 15;
    /// A list is stale.
    ListStale: "cloud", 1 / 10;
    /// A list comes in pages, with changes of the world between the pages.
    ListPaged: "cloud", 1 / 8;
    /// New instances are listed late.
    ListLate: "cloud", 1 / 5;
    /// Ended instances are listed as alive for a while.
    ListShowsDead: "cloud", 1 / 5;
    /// A list fails.
    ListFails: "cloud", 1 / 15;
    /// A tag is written late.
    TagLate: "cloud", 1 / 5;
    /// A tag write is acknowledged and not done.
    TagLost: "cloud", 1 / 8;
    /// A tag write fails.
    TagFails: "cloud", 1 / 5;
    /// A destroy fails.
    DestroyFails: "cloud", 1 / 6;
    /// A destroy is acknowledged and not done.
    DestroyLies: "cloud", 1 / 8;
    /// A destroy takes many minutes.
    DestroySlow: "cloud", 1 / 10;
    /// An instance disappears without notice.
    Vanishes: "cloud", 1 / 12;
    /// A preemptible instance gets a preemption notice and is preempted two minutes later.
    SpotNotice: "cloud", 1 / 5;
    /// A preemptible instance is preempted without notice.
    SpotTaken: "cloud", 1 / 8;
    /// An address is assigned late.
    AddressLate: "cloud", 1 / 8;
    /// An instance's address changes.
    AddressChanges: "cloud", 1 / 15;
    /// A new instance gets the id of an instance ended a while ago.
    IdReused: "cloud", 1 / 4;
    /// A new instance gets the address of an ended instance.
    AddressReused: "cloud", 1 / 4;
    /// The answer of a cloud call other than create is lost.
    CloudAnswerLost: "cloud", 1 / 25;
    /// The answer of a cloud call is delivered twice.
    CloudAnswerTwice: "cloud", 1 / 25;
    /// The answer of a cloud call is late, perhaps after its deadline.
    CloudAnswerLate: "cloud", 1 / 25;

    /// A VM never boots.
    NeverBoots: "vm", 1 / 12;
    /// A VM boots late.
    BootsLate: "vm", 1 / 8;
    /// A VM's boot probe fails permanently.
    BootProbeFails: "vm", 1 / 12;
    /// A VM cannot prove its identity.
    Impostor: "vm", 1 / 20;
    /// A VM's host key changes some time after its boot.
    HostKeyChanges: "vm", 1 / 25;
    /// A VM reboots some time after its boot, and all running processes are lost.
    Reboots: "vm", 1 / 12;
    /// A VM's disk is full for a while, and starts fail.
    DiskFull: "vm", 1 / 15;
    /// The runner's program is deleted from a VM, until a boot probe restores the program.
    RunnerMissing: "vm", 1 / 25;
    /// A VM keeps a runner of an old version without support for signals.
    RunnerOld: "vm", 1 / 25;
    /// A VM hangs permanently some time after its boot.
    Freezes: "vm", 1 / 15;
    /// A VM is unreachable for a while.
    Silent: "vm", 1 / 8;
    /// A VM reports itself broken some time after its boot.
    Breaks: "vm", 1 / 12;
    /// Every start on the VM fails.
    RefusesStarts: "vm", 1 / 20;
    /// A connection hangs before the authentication of either side.
    HangsBeforeAuth: "vm", 1 / 60;
    /// A command is done, and the end of its output is cut off.
    OutputTruncated: "vm", 1 / 60;
    /// A connection drops in the middle of a command, before or after the command ran.
    ConnectionDrops: "vm", 1 / 40;
    /// A command hangs.
    CommandHangs: "vm", 1 / 60;
    /// The runners of a VM cannot be listed.
    NoRunnerList: "vm", 1 / 40;
    /// The answer of a VM is delivered twice.
    VmAnswerTwice: "vm", 1 / 50;
    /// The answer of a VM is late, perhaps after its deadline.
    VmAnswerLate: "vm", 1 / 50;

    /// A start is done and its answer is lost.
    StartAnswerLost: "runner", 1 / 10;
    /// A start is refused by the VM.
    StartRefused: "runner", 1 / 12;
    /// A start is given up, and the runner nevertheless appears later.
    DetachLate: "runner", 1 / 40;
    /// A runner takes long to set up its container.
    SlowSetup: "runner", 1 / 8;
    /// A runner crashes before the report of Running.
    CrashBeforeRunning: "runner", 1 / 12;
    /// A runner crashes with its container running.
    CrashWhileRunning: "runner", 1 / 15;
    /// A runner crashes after the end of the program, before the report of the result.
    CrashBeforeReport: "runner", 1 / 20;
    /// A runner crashes right after the report of the result, and leaves its lock behind.
    CrashAfterComplete: "runner", 1 / 15;
    /// A runner lingers after the report of the result.
    LingersAfterComplete: "runner", 1 / 12;
    /// A runner ends and some other process keeps its lock.
    StaleLock: "runner", 1 / 20;
    /// A container ignores TERM.
    IgnoresTerm: "runner", 1 / 6;
    /// A container ignores KILL.
    IgnoresKill: "runner", 1 / 12;
    /// A runner's report is repeated, up to five minutes later.
    ReportsTwice: "runner", 1 / 8;

    /// The queue refuses all calls with 503 for a while.
    QueueStorm: "queue", 1 / 10;
    /// The queue answers slowly for a while.
    QueueSlow: "queue", 1 / 15;
    /// The dispatcher's token is refused for a while.
    TokenExpired: "queue", 1 / 25;
    /// Another dispatcher locks a container at the moment of the dispatcher's own lock.
    LockConflict: "queue", 1 / 25;
    /// The queue's clock is far off: the time of a record is wrong.
    ClockSkew: "queue", 1 / 10;
    /// A single call to the queue gets 503.
    QueueBusy: "queue", 1 / 25;
    /// A change is made and its answer is lost.
    UpdateAnswerLost: "queue", 1 / 25;
    /// A change is lost, with no answer.
    UpdateLost: "queue", 1 / 25;
    /// The answer of the queue is delivered twice.
    QueueAnswerTwice: "queue", 1 / 25;
    /// The answer of the queue is late, perhaps after its deadline.
    QueueAnswerLate: "queue", 1 / 40;
    /// A poll of the queue lacks some containers.
    ShortPoll: "queue", 1 / 15;
    /// The queue omits a change hint.
    NoHint: "queue", 1 / 3;

    /// A user sets a priority to 0.
    UserCancels: "users", 1 / 10;
    /// A user cancels everything at once.
    CancelStorm: "users", 1 / 15;
    /// A user changes a priority.
    UserReprioritizes: "users", 1 / 4;
    /// A user sets a priority to 0 and back.
    UserFlaps: "users", 1 / 12;
    /// A priority becomes 0 at the moment of a lock, an unlock, a start or a report.
    CancelledAtWorst: "users", 1 / 60;
    /// A record is deleted from the database.
    RecordDeleted: "users", 1 / 25;
    /// A record is malformed.
    RecordMalformed: "users", 1 / 25;
    /// A container asks for more than every type has.
    Unsatisfiable: "users", 1 / 25;

    /// An operator holds a VM for a while.
    OperatorHolds: "operator", 1 / 8;
    /// An operator drains a VM.
    OperatorDrains: "operator", 1 / 10;
    /// An operator kills a VM.
    OperatorKillsVm: "operator", 1 / 15;
    /// An operator kills a container.
    OperatorKillsContainer: "operator", 1 / 15;

    /// The dispatcher crashes between two commands.
    CrashAtCommand: "process", 1 / 600;
    /// The dispatcher crashes at any time.
    Crash: "process", 1 / 15;
    /// A restart takes minutes.
    RestartSlow: "process", 1 / 4;
    /// The configuration changes in a running process.
    Reconfigured: "process", 1 / 15;
    /// The configuration differs after a restart.
    RestartReconfigured: "process", 1 / 4;
    /// The host's clock is set back or forth, with effect from the next process on, as the daemon's
    /// clock is steady within a process.
    ClockSteps: "process", 1 / 4;
    /// The dispatcher's host stalls for a while, and all inputs of the time are delivered at once.
    Stalls: "process", 1 / 30;
    /// The dispatcher loses leadership for a while.
    LeadershipLost: "process", 1 / 20;
    /// Two dispatchers hold leadership at once.
    TwoLeaders: "process", 1 / 60;
    /// Several inputs are delivered before commands are drained.
    DrainsLate: "process", 1 / 10;
}

/// Faults of a run, with the rate of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultPlan {
    /// Rate by fault; an absent fault never strikes.
    pub ratios: BTreeMap<Fault, Ratio>,
}

impl FaultPlan {
    /// Returns a plan without faults.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }
}

/// Fault state of a run: strikes are drawn until the end of faults, and always counted.
#[derive(Clone, Debug)]
pub(crate) struct Faults {
    ratios: Vec<Ratio>,
    counts: Vec<u64>,
    /// Strikes requested by a story, independent of the ratios.
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

    /// True if the fault strikes on the current occasion.
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

    /// True if the fault can still strike by chance.
    pub(crate) fn may_strike(&self, fault: Fault) -> bool {
        !self.stopped && self.ratios[fault as usize].times > 0
    }

    /// Makes the next `times` occasions strike.
    pub(crate) fn script(&mut self, fault: Fault, times: u32) {
        self.scripted[fault as usize] = times;
    }

    /// Ends the drawing of faults.
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
