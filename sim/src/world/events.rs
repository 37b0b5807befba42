//! Events of the world, as entries of the scheduler's heap.

use longshore_core::command::Command;
use longshore_core::ids::{Address, CommandId, ContainerId, ImageId, InstanceId, TypeName};
use longshore_core::input::{ContainerRecord, IdleBehavior, Input, InstanceRecord};
use longshore_core::time::Timestamp;

/// Start time of every run.
pub(crate) const START: Timestamp = Timestamp::from_nanos(1_800_000_000_000_000_000);

/// Process and incarnation that sent a command: an answer to an earlier incarnation is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Origin {
    pub(crate) process: usize,
    pub(crate) incarnation: u32,
}

/// Scheduled event of the world. Large parts are boxed to keep the many heap entries small.
#[derive(Clone, Debug)]
pub(crate) enum Happening {
    /// Arrival of a command at its part of the world.
    Arrive(Origin, Box<Command>),
    /// Delivery of an input to a process.
    Deliver(Origin, Box<Input>),
    Process(usize, ProcessStep),
    Cloud(CloudStep),
    Vm(Box<VmStep>),
    Runner(RunnerId, RunnerStep),
    Queue(Box<QueueStep>),
    Users(Box<UserStep>),
    Operator(OperatorStep),
    /// End of a VM and everything on it.
    VmEnds(InstanceId),
    /// End of all faults.
    StopFaults,
    /// Run of the expensive checks.
    Look,
}

/// Spontaneous events of the cloud.
#[derive(Clone, Debug)]
pub(crate) enum CloudStep {
    /// Draw of cloud-wide faults.
    Tick,
    /// Assignment or change of an instance's address.
    Address(InstanceId),
    /// Delayed write of a tag.
    Tagged(InstanceId, IdleBehavior),
    /// End of a destroyed instance.
    Ends(InstanceId),
    /// Loss of an instance without notice.
    Vanishes(InstanceId),
    /// Preemption notice for an instance.
    Noticed(InstanceId),
    /// Preemption of an instance, with or without notice.
    Preempted { id: InstanceId, announced: bool },
    /// Read of the second page of a list.
    ListRest(Box<FirstPage>),
}

/// List of two pages, with the second not read yet.
#[derive(Clone, Debug)]
pub(crate) struct FirstPage {
    pub(crate) from: Origin,
    pub(crate) id: CommandId,
    pub(crate) records: Vec<InstanceRecord>,
    /// Last id of the first page.
    pub(crate) last: InstanceId,
}

/// Spontaneous events of VMs.
#[derive(Clone, Debug)]
pub(crate) enum VmStep {
    /// Start of an instance's boot.
    Born {
        instance: InstanceId,
        type_name: TypeName,
        image: ImageId,
    },
    /// Assignment or change of the address.
    Moved {
        instance: InstanceId,
        address: Address,
    },
    /// Preemption notice in the VM's metadata.
    Noticed { instance: InstanceId, at: Timestamp },
    /// Reboot of the VM.
    Reboots { instance: InstanceId },
    /// Delayed start of a runner, after the caller gave up.
    LateStart {
        instance: InstanceId,
        container: ContainerId,
    },
}

/// Number of a runner process, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RunnerId(pub(crate) u64);

/// Next step of a runner.
#[derive(Clone, Debug)]
pub(crate) enum RunnerStep {
    /// Request for permission to run the container.
    AskToRun,
    /// End of the container's program.
    ProgramEnds,
    /// Report of the result.
    Report,
    /// Exit of the runner.
    Exit,
    /// Crash of the runner without a report.
    Crash,
    /// Duplicate of an earlier report, delayed on its way.
    ToldAgain(Box<(ContainerId, Told)>),
}

/// Report of a runner to the queue.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Told {
    /// Start of the container.
    Start,
    /// Result of the container.
    Result(Report),
}

/// Final result reported by a runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    Complete,
    Cancelled,
    /// Container not begun and free for another attempt.
    Requeue,
}

/// Spontaneous events of the queue.
#[derive(Clone, Debug)]
pub(crate) enum QueueStep {
    /// Draw of queue-wide faults.
    Tick,
    /// Second half of a poll: locked containers are read first, then queued containers.
    PollRest {
        from: Origin,
        id: CommandId,
        locked: Vec<ContainerRecord>,
        queued_max: u32,
    },
    /// Push of a change hint to all processes.
    Hint,
    /// Unlock of a container by another dispatcher.
    OtherUnlocks(ContainerId),
}

/// Events of users.
#[derive(Clone, Debug)]
pub(crate) enum UserStep {
    /// Next submission of a workload.
    Submit(usize),
    /// Next step of a supervisor.
    Brood(ContainerId),
    /// Cancellation of the containers by the user.
    GiveUp(Vec<ContainerId>),
    /// Draw of user faults.
    Tick,
    /// Restore of a priority set to 0 for a moment.
    Restore(ContainerId, u64),
}

/// Events of the operator.
#[derive(Clone, Debug)]
pub(crate) enum OperatorStep {
    /// Draw of operator faults.
    Tick,
    /// Release of a held VM.
    Release(InstanceId),
}

/// Spontaneous events of a process.
#[derive(Clone, Debug)]
pub(crate) enum ProcessStep {
    /// Draw of process faults.
    Tick,
    /// Core deadline of the given incarnation.
    Wake(u32),
    /// Delayed drain of the commands.
    Drain(u32),
    /// Start or restart of the process.
    Restart,
    /// Gain or loss of leadership.
    Leader(u32, bool),
    /// Final end of the process.
    Retire,
}
