//! Outgoing commands and events, and the commands in flight.

use std::collections::VecDeque;
use std::time::Duration;

use crate::command::{Action, Command};
use crate::event::Event;
use crate::ids::{CloudId, CommandId, ContainerId, VmKey};
use crate::input::{Answer, CloudError, QueueError, VmError};
use crate::time::Timestamp;
use crate::timers::{TimeoutReason, Timers};
use crate::unordered_map::UnorderedMap;

/// Purpose of a command in flight.
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

    /// True if an answer is of the kind for this purpose.
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

    /// Answer on a timeout: the command may have taken effect.
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

/// Command in flight.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Pending {
    pub(crate) purpose: Purpose,
    pub(crate) issued_at: Timestamp,
}

/// Outgoing commands and events. Sending and completing cost as much as a timer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outbox {
    last_id: u64,
    commands: VecDeque<Command>,
    events: VecDeque<Event>,
    pending: UnorderedMap<CommandId, Pending>,
}

impl Outbox {
    /// Queues a command and sets its deadline.
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

    /// Completes a command; `None` if not in flight.
    pub(crate) fn settle(&mut self, timers: &mut Timers, id: CommandId) -> Option<Pending> {
        let pending = self.pending.remove(&id)?;
        timers.cancel(TimeoutReason::NoAnswer(id));
        Some(pending)
    }

    pub(crate) fn awaited(&self, id: CommandId) -> Option<&Pending> {
        self.pending.get(&id)
    }

    /// Commands in flight, in order. O(n log n), for views.
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

    /// Drops every queued command and every command in flight; id numbers continue, so that a late
    /// answer to an old command never matches a new command.
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
