//! What must never happen, seen from the truth and from what a process was told.

use std::collections::{BTreeMap, BTreeSet};

use std::time::Duration;

use longshore_core::ShutdownReason;
use longshore_core::command::{Action, CloudAction, QueueAction, VmAction};
use longshore_core::ids::{CommandId, ContainerId, InstanceId, IntentId, TypeName};
use longshore_core::input::{
    Answer, CloudError, ContainerState, IdleBehavior, Input, InstanceRecord, OperatorRequest,
    ProbeReport,
};
use longshore_core::time::Timestamp;

use crate::world::dense_map::{DenseMap, container_id};

/// What one life of a process was told and has asked for: the rules about its commands are judged
/// by this, since it cannot know more.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) leader: bool,
    /// Commands without an answer yet; the same by when they are given up, and by what they are about.
    open: BTreeMap<CommandId, Open>,
    deadlines: BTreeSet<(Timestamp, CommandId)>,
    /// (The latter only of what somebody asks for.)
    open_about: BTreeMap<About, BTreeSet<CommandId>>,
    /// Those that change a container's record, start it or stop it.
    open_of: BTreeMap<ContainerId, BTreeSet<CommandId>>,
    /// Creates that may still make an instance.
    pub(crate) wishes: BTreeMap<IntentId, CreateRequest>,
    /// Instances it was shown, and how many lists in a row lacked each since.
    pub(crate) known: DenseMap<InstanceId, u32>,
    /// Instances that it was ever shown, since when, unless the cloud has said since that they ended.
    pub(crate) heard_of: DenseMap<InstanceId, Timestamp>,
    /// When each last said that it is ready and what runs on it.
    pub(crate) heard: DenseMap<InstanceId, Timestamp>,
    pub(crate) behavior: BTreeMap<InstanceId, (IdleBehavior, Timestamp)>,
    pub(crate) proved: DenseMap<InstanceId, ()>,
    pub(crate) broken: DenseMap<InstanceId, ()>,
    /// Instances that the cloud has said it takes back.
    pub(crate) preempted: BTreeSet<InstanceId>,
    /// What the queue said last, and since when that is true at least.
    pub(crate) states: DenseMap<ContainerId, (ContainerState, Timestamp)>,
    /// Why instances are being given back, and since when.
    pub(crate) leaving: BTreeMap<InstanceId, (ShutdownReason, Timestamp)>,
    /// Those that were gone while they were given back: for what reason, and until when a list that is
    /// behind may show them once more, to be given back for the same.
    pub(crate) buried: BTreeMap<InstanceId, (ShutdownReason, Timestamp)>,
    pub(crate) destroyed: BTreeSet<InstanceId>,
    /// Creates whose answer was lost, and that were not heard of since.
    pub(crate) lost: BTreeSet<IntentId>,
    /// Types that could not be created lately.
    pub(crate) failed: BTreeSet<TypeName>,
    /// Containers whose start had no certain end.
    pub(crate) unsure: BTreeSet<ContainerId>,
}

/// What an open command is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Open {
    pub(crate) since: Timestamp,
    pub(crate) deadline: Timestamp,
    pub(crate) about: About,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum About {
    Reading,
    Record(ContainerId),
    Create(IntentId),
    Destroy(InstanceId),
    Tag(InstanceId),
    Probe(InstanceId),
    Start(InstanceId, ContainerId),
    Signal(InstanceId, ContainerId),
}

impl About {
    /// The container that it changes, starts or stops.
    pub(crate) fn container(&self) -> Option<ContainerId> {
        match self {
            Self::Record(id) | Self::Start(_, id) | Self::Signal(_, id) => Some(*id),
            _ => None,
        }
    }

    /// Whether anybody asks if something like this is under way.
    fn is_filed(&self) -> bool {
        matches!(self, Self::Record(_) | Self::Create(_) | Self::Start(..))
    }

    /// What a command is about.
    pub(crate) fn of(action: &Action) -> Self {
        match action {
            Action::Queue(QueueAction::Poll { .. } | QueueAction::Lookup { .. })
            | Action::Cloud {
                action: CloudAction::List,
                ..
            } => Self::Reading,
            Action::Queue(
                QueueAction::Lock { id }
                | QueueAction::Unlock { id }
                | QueueAction::Requeue { id, .. }
                | QueueAction::Cancel { id, .. },
            ) => Self::Record(*id),
            Action::Cloud { action, .. } => match action {
                CloudAction::List => Self::Reading,
                CloudAction::Create { intent, .. } => Self::Create(*intent),
                CloudAction::Destroy { instance } => Self::Destroy(instance.clone()),
                CloudAction::Tag { instance, .. } => Self::Tag(instance.clone()),
            },
            Action::Vm {
                instance, action, ..
            } => match action {
                VmAction::Probe { .. } => Self::Probe(instance.clone()),
                VmAction::Signal { container, .. } => Self::Signal(instance.clone(), *container),
                VmAction::Start { container, .. } => Self::Start(instance.clone(), *container),
            },
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct CreateRequest {
    pub(crate) type_name: TypeName,
    pub(crate) answered: bool,
    /// The core stops waiting for the answer then.
    pub(crate) deadline: Timestamp,
    /// Counted for so long after an answer that leaves it open.
    pub(crate) grace: Duration,
    /// Counted no longer from then on.
    pub(crate) until: Timestamp,
}

impl Ledger {
    /// Takes note of what the process hears.
    pub(crate) fn hear(&mut self, now: Timestamp, input: &Input) {
        match input {
            Input::Leadership { held } if *held == self.leader => {}
            Input::Leadership { held } => {
                *self = Self {
                    leader: *held,
                    ..Self::default()
                };
            }
            Input::Answer { id, answer } => {
                if let Some(open) = self.end(*id) {
                    self.hear_answer(now, &open, answer);
                }
            }
            Input::OperatorRequest(wish) => self.hear_operator(now, wish),
            Input::QueueChanged | Input::Reconfigured(_) => {}
        }
    }

    /// The process sees that deadlines have passed: answers that come later do not count.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        while let Some((deadline, id)) = self.deadlines.first().copied()
            && deadline <= now
        {
            match self.end(id).map(|open| open.about) {
                Some(About::Record(container)) => self.was_refused(now, container),
                // It may have stood still since then: its patience begins when it takes note.
                Some(About::Create(intent)) => {
                    if let Some(wish) = self.wishes.get_mut(&intent) {
                        wish.until = now + wish.grace;
                    }
                }
                _ => {}
            }
        }
    }

    fn hear_answer(&mut self, now: Timestamp, open: &Open, answer: &Answer) {
        match (&open.about, answer) {
            (_, Answer::Containers(Ok(records))) => {
                for record in records {
                    // While a change is under way nobody knows what comes of it; its end is noted when
                    // the process sees it.
                    if self.open_about.contains_key(&About::Record(record.id)) {
                        continue;
                    }
                    let heard = (record.state, open.since);
                    let known = self.states.or_insert_with(&record.id, || heard);
                    if known.1 <= open.since {
                        *known = (record.state, open.since);
                    }
                }
            }
            (About::Record(id), Answer::Updated(Ok(update))) => {
                self.states.insert(id, (update.state, now));
            }
            (About::Record(id), Answer::Updated(Err(_))) => self.was_refused(now, *id),
            (About::Create(intent), Answer::Created(made)) => {
                self.hear_created(now, *intent, made.as_ref());
            }
            (_, Answer::Instances(Ok(records))) => self.hear_list(now, records),
            (About::Probe(instance), Answer::Probed(Ok(report))) => {
                self.hear_probe(now, instance, report);
            }
            _ => {}
        }
    }

    /// A change may have been made or not: what was read before does not tell.
    fn was_refused(&mut self, now: Timestamp, id: ContainerId) {
        if let Some((_, since)) = self.states.get_mut(&id) {
            *since = now;
        }
    }

    fn hear_created(
        &mut self,
        now: Timestamp,
        intent: IntentId,
        made: Result<&InstanceRecord, &CloudError>,
    ) {
        match made {
            Ok(record) => {
                self.wishes.remove(&intent);
                self.lost.remove(&intent);
                self.shown(now, record);
            }
            Err(CloudError::Ambiguous { .. }) => {
                self.lost.insert(intent);
                if let Some(wish) = self.wishes.get_mut(&intent) {
                    wish.answered = true;
                    wish.until = now + wish.grace;
                }
            }
            Err(_) => {
                if let Some(wish) = self.wishes.remove(&intent) {
                    self.failed.insert(wish.type_name);
                }
            }
        }
    }

    fn hear_list(&mut self, now: Timestamp, records: &[InstanceRecord]) {
        let mut shown = DenseMap::default();
        for record in records {
            shown.insert(&record.id, ());
        }
        self.known.retain(|id, missed| {
            *missed += u32::from(!shown.contains_key(id));
            *missed < 2
        });
        for record in records {
            if record.preempted {
                self.preempted.insert(record.id.clone());
            }
            if record.terminated {
                self.known.remove(&record.id);
                self.heard_of.remove(&record.id);
                self.heard.remove(&record.id);
                if let Some(intent) = record.tags.intent {
                    self.wishes.remove(&intent);
                }
            } else {
                self.shown(now, record);
            }
        }
    }

    fn shown(&mut self, now: Timestamp, record: &InstanceRecord) {
        if let Some(intent) = record.tags.intent
            && let Some(wish) = self.wishes.remove(&intent)
            && wish.deadline < now
        {
            self.lost.insert(intent);
        }
        self.heard_of.or_insert_with(&record.id, || now);
        let first = self.known.insert(&record.id, 0).is_none();
        if let Some(behavior) = record.tags.idle_behavior
            && first
        {
            self.behavior.insert(record.id.clone(), (behavior, now));
        }
    }

    fn hear_probe(&mut self, now: Timestamp, instance: &InstanceId, report: &ProbeReport) {
        if report.ready.is_ok() && report.runners.is_some() {
            self.proved.insert(instance, ());
            self.heard.insert(instance, now);
        }
        if matches!(&report.runners, Some(list) if list.preempted_at.is_some()) {
            self.preempted.insert(instance.clone());
        }
        match &report.runners {
            Some(list) if list.broken => {
                self.broken.insert(instance, ());
            }
            Some(_) => {
                self.broken.remove(instance);
            }
            None => {}
        }
    }

    fn hear_operator(&mut self, now: Timestamp, wish: &OperatorRequest) {
        if let OperatorRequest::SetIdleBehavior { instance, behavior } = wish {
            self.behavior.insert(instance.clone(), (*behavior, now));
        }
    }

    /// Another instance has the name of one that ended.
    pub(crate) fn forget(&mut self, id: &InstanceId) {
        self.known.remove(id);
        self.heard_of.remove(id);
        self.heard.remove(id);
        self.behavior.remove(id);
        self.proved.remove(id);
        self.broken.remove(id);
        self.leaving.remove(id);
        self.buried.remove(id);
        self.destroyed.remove(id);
        self.preempted.remove(id);
    }

    /// A command leaves.
    pub(crate) fn begin(&mut self, id: CommandId, open: Open) {
        if open.about.is_filed() {
            let same = self.open_about.entry(open.about.clone()).or_default();
            same.insert(id);
        }
        if let Some(container) = open.about.container() {
            self.open_of.entry(container).or_default().insert(id);
        }
        self.deadlines.insert((open.deadline, id));
        self.open.insert(id, open);
    }

    fn end(&mut self, id: CommandId) -> Option<Open> {
        let open = self.open.remove(&id)?;
        self.deadlines.remove(&(open.deadline, id));
        if open.about.is_filed()
            && let Some(same) = self.open_about.get_mut(&open.about)
        {
            same.remove(&id);
            if same.is_empty() {
                self.open_about.remove(&open.about);
            }
        }
        if let Some(container) = open.about.container()
            && let Some(same) = self.open_of.get_mut(&container)
        {
            same.remove(&id);
            if same.is_empty() {
                self.open_of.remove(&container);
            }
        }
        Some(open)
    }

    /// A command without an answer yet.
    pub(crate) fn open(&self, id: CommandId) -> Option<&Open> {
        self.open.get(&id)
    }

    /// Whether an open command is about this. O(log commands).
    pub(crate) fn is_open(&self, now: Timestamp, about: &About) -> bool {
        let mut same = self.open_about.get(about).into_iter().flatten();
        same.any(|id| self.open[id].deadline > now)
    }

    /// What is under way that concerns a container. O(log commands + those).
    pub(crate) fn open_of(&self, now: Timestamp, id: ContainerId) -> impl Iterator<Item = &About> {
        let ids = self.open_of.get(&id).into_iter().flatten();
        let open = ids.map(|id| &self.open[id]);
        open.filter(move |open| open.deadline > now)
            .map(|open| &open.about)
    }

    /// Commands without an answer.
    pub(crate) fn open_count(&self) -> usize {
        self.open.len()
    }

    /// Creates without an answer. O(those).
    pub(crate) fn open_creates(&self, now: Timestamp) -> usize {
        let creates = self.open.values();
        let creates = creates.filter(|open| matches!(open.about, About::Create(_)));
        creates.filter(|open| open.deadline > now).count()
    }

    /// Containers that are being started on an instance. O(log commands + those).
    pub(crate) fn starting_on(
        &self,
        now: Timestamp,
        instance: &InstanceId,
    ) -> impl Iterator<Item = ContainerId> {
        let from = About::Start(instance.clone(), container_id(0));
        let here = self.open_about.range(from..);
        let here = here.map_while(move |(about, ids)| match about {
            About::Start(at, id) if at == instance => Some((*id, ids)),
            _ => None,
        });
        let awaited =
            move |ids: &BTreeSet<CommandId>| ids.iter().any(|id| self.open[id].deadline > now);
        here.filter(move |(_, ids)| awaited(ids)).map(|(id, _)| id)
    }

    /// Creates that still count.
    pub(crate) fn counted_wishes(&self, now: Timestamp) -> impl Iterator<Item = &CreateRequest> {
        self.wishes.values().filter(move |wish| wish.until > now)
    }
}
