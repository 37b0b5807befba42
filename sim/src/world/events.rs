//! Everything that can happen in the world, as entries of the scheduler's heap.

use longshore_core::command::Command;
use longshore_core::ids::{Address, CommandId, ContainerId, ImageId, InstanceId, TypeName};
use longshore_core::input::{ContainerRecord, IdleBehavior, Input, InstanceRecord};
use longshore_core::time::Timestamp;

/// When every run begins.
pub(crate) const START: Timestamp = Timestamp::from_nanos(1_800_000_000_000_000_000);

/// Which dispatcher process sent a command: an answer to an earlier life of it reaches nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Origin {
    pub(crate) process: usize,
    pub(crate) incarnation: u32,
}

/// One thing that will happen. Small, since many wait and are moved about: what is large is boxed.
#[derive(Clone, Debug)]
pub(crate) enum Happening {
    /// A command reaches the part of the world that it is for.
    Arrive(Origin, Box<Command>),
    /// An input reaches a process.
    Deliver(Origin, Box<Input>),
    Process(usize, ProcessStep),
    Cloud(CloudStep),
    Vm(Box<VmStep>),
    Runner(RunnerId, RunnerStep),
    Queue(Box<QueueStep>),
    Users(Box<UserStep>),
    Operator(OperatorStep),
    /// A VM is no more, and with it everything on it.
    VmEnds(InstanceId),
    /// No fault strikes from now on.
    StopFaults,
    /// The oracles that are too dear for every event.
    Look,
}

/// What happens in the cloud by itself.
#[derive(Clone, Debug)]
pub(crate) enum CloudStep {
    /// The weather changes, perhaps.
    Tick,
    /// An instance gets its address, or another one.
    Address(InstanceId),
    /// A tag is written at last.
    Tagged(InstanceId, IdleBehavior),
    /// A destroyed instance ends.
    Ends(InstanceId),
    /// An instance is taken away.
    Vanishes(InstanceId),
    /// It is announced that an instance is taken back.
    Noticed(InstanceId),
    /// An instance is taken back, after an announcement or without.
    Preempted { id: InstanceId, announced: bool },
    /// The second page of a list is read.
    ListRest(Box<FirstPage>),
}

/// A list of two pages, the second of which is not read yet.
#[derive(Clone, Debug)]
pub(crate) struct FirstPage {
    pub(crate) from: Origin,
    pub(crate) id: CommandId,
    pub(crate) records: Vec<InstanceRecord>,
    /// The second page begins after this one.
    pub(crate) last: InstanceId,
}

/// What happens to VMs by themselves.
#[derive(Clone, Debug)]
pub(crate) enum VmStep {
    /// An instance begins to boot.
    Born {
        instance: InstanceId,
        type_name: TypeName,
        image: ImageId,
    },
    /// It has an address, or another one.
    Moved {
        instance: InstanceId,
        address: Address,
    },
    /// Its metadata tell that it is taken back.
    Noticed { instance: InstanceId, at: Timestamp },
    /// It boots again.
    Reboots { instance: InstanceId },
    /// A start that was given up takes effect all the same.
    LateStart {
        instance: InstanceId,
        container: ContainerId,
    },
}

/// A runner process, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RunnerId(pub(crate) u64);

/// What a runner does next.
#[derive(Clone, Debug)]
pub(crate) enum RunnerStep {
    /// It asks whether it may run its container.
    AskToRun,
    /// Its container's program ends by itself.
    ProgramEnds,
    /// It tells the result.
    Report,
    /// It is gone.
    Exit,
    /// It dies without a word.
    Crash,
    /// What it once told comes a second time, wherever it was on its way.
    ToldAgain(Box<(ContainerId, Told)>),
}

/// What a runner tells the queue.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Told {
    /// That it runs its container.
    Start,
    /// How that ended.
    Result(Report),
}

/// What a runner says in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    Complete,
    Cancelled,
    /// It did not begin: somebody else may.
    Requeue,
}

/// What happens in the queue by itself.
#[derive(Clone, Debug)]
pub(crate) enum QueueStep {
    /// The weather changes, perhaps.
    Tick,
    /// The second half of a reading: locked ones are read first, then queued ones.
    PollRest {
        from: Origin,
        id: CommandId,
        locked: Vec<ContainerRecord>,
        queued_max: u32,
    },
    /// Everybody is told that something changed.
    Hint,
    /// Somebody else gives back what they had locked.
    OtherUnlocks(ContainerId),
}

/// What users do.
#[derive(Clone, Debug)]
pub(crate) enum UserStep {
    /// One of the workloads goes on.
    Submit(usize),
    /// A supervisor goes on.
    Brood(ContainerId),
    /// Somebody does not want these any more.
    GiveUp(Vec<ContainerId>),
    /// Somebody changes their mind, perhaps.
    Tick,
    /// A priority that was 0 for a moment is back.
    Restore(ContainerId, u64),
}

/// What the operator does.
#[derive(Clone, Debug)]
pub(crate) enum OperatorStep {
    /// Looks whether something is to be done.
    Tick,
    /// Lets go of a VM.
    Release(InstanceId),
}

/// What happens to a process by itself.
#[derive(Clone, Debug)]
pub(crate) enum ProcessStep {
    /// The weather changes, perhaps.
    Tick,
    /// Its next deadline is due.
    Wake(u32),
    /// It drains its commands at last.
    Drain(u32),
    /// It is started, or started again.
    Restart,
    /// It is told whether it may act.
    Leader(u32, bool),
    /// It ends for good.
    Retire,
}
