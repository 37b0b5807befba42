//! Commands and events on their way out, and the commands whose answers are awaited.

use std::collections::VecDeque;
use std::time::Duration;

use crate::command::{Action, Command};
use crate::event::Event;
use crate::ids::{CloudId, CommandId, ContainerId, VmKey};
use crate::input::{Answer, CloudError, QueueError, VmError};
use crate::time::Timestamp;
use crate::timers::{TimeoutReason, Timers};
use crate::unordered_map::UnorderedMap;

/// What an awaited answer is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    Poll,
    Lookup(Vec<ContainerId>),
    Update(ContainerId),
    List(CloudId),
    Create(VmKey),
    Destroy(VmKey),
    Tag(VmKey),
    Probe(VmKey),
    Start(VmKey, ContainerId),
    Signal(VmKey, ContainerId),
}

impl Purpose {
    /// Label for metrics.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::Lookup(_) => "lookup",
            Self::Update(_) => "update",
            Self::List(_) => "list",
            Self::Create(_) => "create",
            Self::Destroy(_) => "destroy",
            Self::Tag(_) => "tag",
            Self::Probe(_) => "probe",
            Self::Start(..) => "start",
            Self::Signal(..) => "signal",
        }
    }

    /// Whether an answer is of the kind that this purpose asks for.
    pub(crate) fn accepts(&self, answer: &Answer) -> bool {
        matches!(
            (self, answer),
            (Self::Poll | Self::Lookup(_), Answer::Containers(_))
                | (Self::Update(_), Answer::Updated(_))
                | (Self::List(_), Answer::Instances(_))
                | (Self::Create(_), Answer::Created(_))
                | (Self::Destroy(_) | Self::Tag(_), Answer::CloudDone(_))
                | (Self::Probe(_), Answer::Probed(_))
                | (Self::Start(..), Answer::Started(_))
                | (Self::Signal(..), Answer::Signalled(_))
        )
    }

    /// What no answer in time comes to: it may have been done.
    pub(crate) fn timed_out(&self) -> Answer {
        let text = || "no answer in time".to_owned();
        let queue = || QueueError::Unavailable(text());
        let cloud = || CloudError::Ambiguous { message: text() };
        let vm = || VmError::Lost(text());
        match self {
            Self::Poll | Self::Lookup(_) => Answer::Containers(Err(queue())),
            Self::Update(_) => Answer::Updated(Err(queue())),
            Self::List(_) => Answer::Instances(Err(cloud())),
            Self::Create(_) => Answer::Created(Err(cloud())),
            Self::Destroy(_) | Self::Tag(_) => Answer::CloudDone(Err(cloud())),
            Self::Probe(_) => Answer::Probed(Err(vm())),
            Self::Start(..) => Answer::Started(Err(vm())),
            Self::Signal(..) => Answer::Signalled(Err(vm())),
        }
    }
}

/// A command whose answer is awaited.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Pending {
    pub(crate) purpose: Purpose,
    pub(crate) issued_at: Timestamp,
}

/// Everything on its way out. Sending and settling cost what a timer costs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outbox {
    last_id: u64,
    commands: VecDeque<Command>,
    events: VecDeque<Event>,
    pending: UnorderedMap<CommandId, Pending>,
}

impl Outbox {
    /// Queues a command and starts the clock for its answer.
    pub(crate) fn send(
        &mut self,
        now: Timestamp,
        timers: &mut Timers,
        patience: Duration,
        purpose: Purpose,
        action: Action,
    ) -> CommandId {
        self.last_id += 1;
        let id = CommandId(self.last_id);
        let deadline = now + patience;
        timers.set(TimeoutReason::NoAnswer(id), deadline);
        let issued_at = now;
        self.pending.insert(id, Pending { purpose, issued_at });
        self.commands.push_back(Command {
            id,
            deadline,
            action,
        });
        id
    }

    /// Queues an event.
    pub(crate) fn event(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// Ends the wait for an answer; `None` if nobody waits.
    pub(crate) fn settle(&mut self, timers: &mut Timers, id: CommandId) -> Option<Pending> {
        let pending = self.pending.remove(&id)?;
        timers.cancel(TimeoutReason::NoAnswer(id));
        Some(pending)
    }

    pub(crate) fn awaited(&self, id: CommandId) -> Option<&Pending> {
        self.pending.get(&id)
    }

    /// The commands whose answers are awaited, in their order. O(n log n): for views.
    pub(crate) fn in_flight(&self) -> impl Iterator<Item = &Pending> {
        let in_order = self.pending.in_order().into_iter();
        in_order.map(|(_, pending)| pending)
    }

    pub(crate) fn pop_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    pub(crate) fn pop_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Drops every command that has not left and every wait; ids go on where they were, so that an
    /// answer to an old command is never taken for one to a new.
    pub(crate) fn abandon(&mut self) {
        self.commands.clear();
        self.pending.clear();
    }

    pub(crate) fn hash_into(&self, hasher: &mut impl std::hash::Hasher) {
        use std::hash::Hash as _;
        self.last_id.hash(hasher);
        self.pending.hash(hasher);
    }
}
