//! Ledgers: facts known to one life of a dispatcher process, from its inputs, commands and events.
//! A process has no other facts, so commands are judged by the ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use longshore_core::command::{Action, CloudAction, Command, QueueAction, VmAction};
use longshore_core::config::Config;
use longshore_core::event::Event;
use longshore_core::ids::{CommandId, ContainerId, InstanceId, IntentId, TypeName};
use longshore_core::input::{
    Answer, CloudError, ContainerState, IdleBehavior, Input, InstanceRecord, OperatorRequest,
    ProbeReport,
};
use longshore_core::time::Timestamp;
use longshore_core::{CancelReason, ShutdownReason};

use crate::world::World;
use crate::world::dense_map::{DenseMap, container_id};
use crate::world::observation::Observation;

/// Ledgers of both dispatcher processes.
#[derive(Debug, Default)]
pub(super) struct Ledgers {
    pub(super) of: [Ledger; 2],
    /// Containers started while two processes acted as leaders: few promises hold for such containers.
    pub(super) contested: BTreeSet<ContainerId>,
    /// Containers with a scheduling timeout as the reason of the last cancel, by process.
    pub(super) timed_out: BTreeSet<(usize, ContainerId)>,
}

impl Ledgers {
    /// Records an observation, after all checks.
    pub(super) fn record(&mut self, world: &World, observation: Observation<'_>) {
        let now = world.scheduler.now;
        match observation {
            Observation::Begin { process } => self.of[process] = Ledger::default(),
            Observation::Input { process, input } => {
                if world.processes.all[process].core.is_some() {
                    self.of[process].take_input(now, input);
                }
            }
            Observation::Timeout { process } => self.of[process].expire(now),
            Observation::Command { process, command } => {
                if world.rivals() {
                    self.contested.extend(started(&command.action));
                }
                let config = &world.processes.all[process].config;
                self.of[process].send(now, command, config);
            }
            Observation::Event { process, event } => {
                if let Event::ContainerCancelled { container, reason } = event {
                    let cancelled = (process, *container);
                    match reason {
                        CancelReason::SchedulingTimeout { .. } => self.timed_out.insert(cancelled),
                        _ => self.timed_out.remove(&cancelled),
                    };
                }
                let config = &world.processes.all[process].config;
                self.of[process].emit(now, event, config);
            }
            Observation::IdReused { instance } => {
                for ledger in &mut self.of {
                    ledger.forget(instance);
                }
            }
            Observation::Arrival { .. }
            | Observation::ProgramStart { .. }
            | Observation::Look
            | Observation::AtRest => {}
        }
    }
}

/// Container started by a command, if any.
fn started(action: &Action) -> Option<ContainerId> {
    match action {
        Action::Vm {
            action: VmAction::Start { container, .. },
            ..
        } => Some(*container),
        _ => None,
    }
}

/// Facts known to one life of a process.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) leader: bool,
    /// Commands without an answer.
    open: BTreeMap<CommandId, Open>,
    /// The same commands by deadline.
    deadlines: BTreeSet<(Timestamp, CommandId)>,
    /// Open commands by subject, for the subjects of [`Subject::is_indexed`].
    open_about: BTreeMap<Subject, BTreeSet<CommandId>>,
    /// Open commands on the record or the runner of a container.
    open_of: BTreeMap<ContainerId, BTreeSet<CommandId>>,
    /// Create requests without a known result.
    pub(super) creates: BTreeMap<IntentId, CreateRequest>,
    /// Listed instances, with the number of lists in a row without the instance.
    pub(super) listed: DenseMap<InstanceId, u32>,
    /// Time of the first sight of each instance not reported as terminated since.
    pub(super) first_seen: DenseMap<InstanceId, Timestamp>,
    /// Time of the last complete good probe of each instance: ready, with a list of runners.
    pub(super) probed_at: DenseMap<InstanceId, Timestamp>,
    /// Time of the first complete good probe of each instance.
    pub(super) verified_at: DenseMap<InstanceId, Timestamp>,
    pub(super) behavior: BTreeMap<InstanceId, (IdleBehavior, Timestamp)>,
    /// Instances reported as broken by their own last list of runners.
    pub(super) broken: DenseMap<InstanceId, ()>,
    /// Instances with a preemption notice.
    pub(super) preempted: BTreeSet<InstanceId>,
    /// Last state of each container read from the queue, and the time since which the state holds.
    pub(super) states: DenseMap<ContainerId, (ContainerState, Timestamp)>,
    /// Planned terminations: reason and time of the decision.
    pub(super) terminating: BTreeMap<InstanceId, (ShutdownReason, Timestamp)>,
    /// Instances gone during a planned termination, with the reason and the time until which a late
    /// list may show the instance again, for a second termination with the same reason.
    pub(super) tombstones: BTreeMap<InstanceId, (ShutdownReason, Timestamp)>,
    pub(super) destroyed: BTreeSet<InstanceId>,
    /// Time of the first TERM to each runner not known to have ended.
    pub(super) first_terms: BTreeMap<(InstanceId, ContainerId), Timestamp>,
    /// Create requests with a lost answer, not matched with an instance since.
    pub(super) lost_creates: BTreeSet<IntentId>,
    /// Types with a failed create and no successful one since.
    pub(super) failed_types: BTreeSet<TypeName>,
    /// Containers with a start of unknown outcome.
    pub(super) unsure_starts: BTreeSet<ContainerId>,
}

/// Command without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Open {
    /// Time of sending.
    pub(super) since: Timestamp,
    pub(super) deadline: Timestamp,
    pub(super) subject: Subject,
    /// Type to be created, for a create request.
    pub(super) type_name: Option<TypeName>,
}

/// Subject of a command. Two commands with the same subject may disturb each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    Reading,
    Record(ContainerId),
    Create(IntentId),
    Destroy(InstanceId),
    Tag(InstanceId),
    Probe(InstanceId),
    Start(InstanceId, ContainerId),
    Signal(InstanceId, ContainerId),
}

impl Subject {
    pub(super) fn of(action: &Action) -> Self {
        match action {
            Action::Queue(QueueAction::Poll { .. } | QueueAction::Lookup { .. }) => Self::Reading,
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

    /// Container changed, started or stopped by the command.
    pub(super) fn container(&self) -> Option<ContainerId> {
        match self {
            Self::Record(id) | Self::Start(_, id) | Self::Signal(_, id) => Some(*id),
            _ => None,
        }
    }

    /// True if open commands are looked up by this subject.
    fn is_indexed(&self) -> bool {
        matches!(self, Self::Record(_) | Self::Create(_) | Self::Start(..))
    }
}

/// Create request without a known result.
#[derive(Clone, Debug)]
pub(super) struct CreateRequest {
    pub(super) type_name: TypeName,
    pub(super) answered: bool,
    /// Deadline of the command: the core stops waiting for the answer.
    pub(super) deadline: Timestamp,
    /// Time for which the request still counts after an answer without a result.
    pub(super) grace: Duration,
    /// Time from which the request counts no longer.
    pub(super) until: Timestamp,
}

impl Ledger {
    fn take_input(&mut self, now: Timestamp, input: &Input) {
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
                    self.take_answer(now, &open, answer);
                }
            }
            Input::OperatorRequest(OperatorRequest::SetIdleBehavior { instance, behavior }) => {
                self.behavior.insert(instance.clone(), (*behavior, now));
            }
            Input::OperatorRequest(_) | Input::QueueChanged | Input::Reconfigured(_) => {}
        }
    }

    /// Ends the commands with a deadline in the past: later answers do not count.
    fn expire(&mut self, now: Timestamp) {
        while let Some((deadline, id)) = self.deadlines.first().copied()
            && deadline <= now
        {
            match self.end(id).map(|open| open.subject) {
                Some(Subject::Record(container)) => self.state_unknown(now, container),
                // A stalled process sees the deadline late: the grace begins now.
                Some(Subject::Create(intent)) => {
                    if let Some(request) = self.creates.get_mut(&intent) {
                        request.until = now + request.grace;
                    }
                }
                _ => {}
            }
        }
    }

    fn take_answer(&mut self, now: Timestamp, open: &Open, answer: &Answer) {
        match (&open.subject, answer) {
            (_, Answer::Containers(Ok(records))) => {
                for record in records {
                    // The result of an open change is unknown; its answer sets the state.
                    if self.open_about.contains_key(&Subject::Record(record.id)) {
                        continue;
                    }
                    let read = (record.state, open.since);
                    let known = self.states.or_insert_with(&record.id, || read);
                    if known.1 <= open.since {
                        *known = read;
                    }
                }
            }
            (Subject::Record(id), Answer::Updated(Ok(update))) => {
                self.states.insert(id, (update.state, now));
            }
            (Subject::Record(id), Answer::Updated(Err(_))) => self.state_unknown(now, *id),
            (Subject::Create(intent), Answer::Created(made)) => {
                self.take_created(now, *intent, made.as_ref());
            }
            (_, Answer::Instances(Ok(records))) => self.take_list(now, records),
            (Subject::Probe(instance), Answer::Probed(Ok(report))) => {
                self.take_probe(now, instance, report);
            }
            _ => {}
        }
    }

    /// A failed change may have been made: earlier reads of the state do not count.
    fn state_unknown(&mut self, now: Timestamp, id: ContainerId) {
        if let Some((_, since)) = self.states.get_mut(&id) {
            *since = now;
        }
    }

    fn take_created(
        &mut self,
        now: Timestamp,
        intent: IntentId,
        made: Result<&InstanceRecord, &CloudError>,
    ) {
        match made {
            Ok(record) => {
                self.creates.remove(&intent);
                self.lost_creates.remove(&intent);
                self.see(now, record);
            }
            Err(CloudError::Ambiguous { .. }) => {
                self.lost_creates.insert(intent);
                if let Some(request) = self.creates.get_mut(&intent) {
                    request.answered = true;
                    request.until = now + request.grace;
                }
            }
            Err(_) => {
                if let Some(request) = self.creates.remove(&intent) {
                    self.failed_types.insert(request.type_name);
                }
            }
        }
    }

    fn take_list(&mut self, now: Timestamp, records: &[InstanceRecord]) {
        let mut shown = DenseMap::default();
        for record in records {
            shown.insert(&record.id, ());
        }
        self.listed.retain(|id, missed| {
            *missed += u32::from(!shown.contains_key(id));
            *missed < 2
        });
        for record in records {
            if record.preempted {
                self.preempted.insert(record.id.clone());
            }
            if record.terminated {
                self.listed.remove(&record.id);
                self.first_seen.remove(&record.id);
                self.probed_at.remove(&record.id);
                if let Some(intent) = record.tags.intent {
                    self.creates.remove(&intent);
                }
            } else {
                self.see(now, record);
            }
        }
    }

    fn see(&mut self, now: Timestamp, record: &InstanceRecord) {
        if let Some(intent) = record.tags.intent
            && let Some(request) = self.creates.remove(&intent)
            && request.deadline < now
        {
            self.lost_creates.insert(intent);
        }
        self.first_seen.or_insert_with(&record.id, || now);
        let first = self.listed.insert(&record.id, 0).is_none();
        if let Some(behavior) = record.tags.idle_behavior
            && first
        {
            self.behavior.insert(record.id.clone(), (behavior, now));
        }
    }

    fn take_probe(&mut self, now: Timestamp, instance: &InstanceId, report: &ProbeReport) {
        if report.ready.is_ok() && report.runners.is_some() {
            self.verified_at.or_insert_with(instance, || now);
            self.probed_at.insert(instance, now);
        }
        if let Some(list) = &report.runners {
            if list.preempted_at.is_some() {
                self.preempted.insert(instance.clone());
            }
            if list.broken {
                self.broken.insert(instance, ());
            } else {
                self.broken.remove(instance);
            }
        }
    }

    fn send(&mut self, now: Timestamp, command: &Command, config: &Config) {
        let mut type_name = None;
        match &command.action {
            Action::Cloud {
                action:
                    CloudAction::Create {
                        intent,
                        instance_type,
                        ..
                    },
                ..
            } => {
                type_name = Some(instance_type.clone());
                let grace = config.timeouts.create_ambiguous;
                let request = CreateRequest {
                    type_name: instance_type.clone(),
                    answered: false,
                    deadline: command.deadline,
                    grace,
                    until: command.deadline + grace,
                };
                self.creates.insert(*intent, request);
            }
            Action::Cloud {
                action: CloudAction::Destroy { instance },
                ..
            } => {
                self.destroyed.insert(instance.clone());
            }
            Action::Vm {
                instance,
                action: VmAction::Signal { container, .. },
                ..
            } => {
                let runner = (instance.clone(), *container);
                self.first_terms.entry(runner).or_insert(now);
            }
            _ => {}
        }
        let open = Open {
            since: now,
            deadline: command.deadline,
            subject: Subject::of(&command.action),
            type_name,
        };
        self.begin(command.id, open);
    }

    fn begin(&mut self, id: CommandId, open: Open) {
        if open.subject.is_indexed() {
            let same = self.open_about.entry(open.subject.clone()).or_default();
            same.insert(id);
        }
        if let Some(container) = open.subject.container() {
            self.open_of.entry(container).or_default().insert(id);
        }
        self.deadlines.insert((open.deadline, id));
        self.open.insert(id, open);
    }

    fn end(&mut self, id: CommandId) -> Option<Open> {
        let open = self.open.remove(&id)?;
        self.deadlines.remove(&(open.deadline, id));
        if open.subject.is_indexed()
            && let Some(same) = self.open_about.get_mut(&open.subject)
        {
            same.remove(&id);
            if same.is_empty() {
                self.open_about.remove(&open.subject);
            }
        }
        if let Some(container) = open.subject.container()
            && let Some(same) = self.open_of.get_mut(&container)
        {
            same.remove(&id);
            if same.is_empty() {
                self.open_of.remove(&container);
            }
        }
        Some(open)
    }

    fn emit(&mut self, now: Timestamp, event: &Event, config: &Config) {
        match event {
            Event::Terminating {
                instance, reason, ..
            } => {
                let id = InstanceId::from(instance.as_str());
                self.terminating.insert(id, (reason.clone(), now));
            }
            Event::Uncordoned { instance } => {
                self.terminating
                    .remove(&InstanceId::from(instance.as_str()));
            }
            // An instance found again gets a new decision, unless the list was merely late.
            Event::Gone { instance, .. } => {
                let id = InstanceId::from(instance.as_str());
                if let Some((reason, _)) = self.terminating.remove(&id) {
                    let shown_until = now + config.timeouts.disappear_grace;
                    self.tombstones.insert(id, (reason, shown_until));
                }
            }
            Event::BehaviorChanged {
                instance, behavior, ..
            } => {
                let id = InstanceId::from(instance.as_str());
                self.behavior.insert(id, (*behavior, now));
            }
            Event::Created {
                intent,
                instance_type,
                ..
            } => {
                self.lost_creates.remove(intent);
                self.failed_types.remove(instance_type);
            }
            Event::RunnerExited {
                container,
                instance,
            } => {
                let id = InstanceId::from(instance.as_str());
                self.first_terms.remove(&(id, *container));
            }
            Event::StartUnsure { container, .. } => {
                self.unsure_starts.insert(*container);
            }
            Event::ContainerState {
                container,
                to: ContainerState::Running,
                ..
            } => {
                self.unsure_starts.remove(container);
            }
            _ => {}
        }
    }

    /// Drops the facts about a dead instance with a reused id.
    fn forget(&mut self, id: &InstanceId) {
        self.listed.remove(id);
        self.first_seen.remove(id);
        self.probed_at.remove(id);
        self.verified_at.remove(id);
        self.behavior.remove(id);
        self.broken.remove(id);
        self.terminating.remove(id);
        self.tombstones.remove(id);
        self.destroyed.remove(id);
        self.preempted.remove(id);
        self.first_terms.retain(|(on, _), _| on != id);
    }

    /// Command without an answer.
    pub(super) fn open(&self, id: CommandId) -> Option<&Open> {
        self.open.get(&id)
    }

    /// True if a command with this subject is open. O(log commands).
    pub(super) fn is_open(&self, now: Timestamp, subject: &Subject) -> bool {
        let mut same = self.open_about.get(subject).into_iter().flatten();
        same.any(|id| self.open[id].deadline > now)
    }

    /// Subjects of the open commands on a container. O(log commands + results).
    pub(super) fn open_of(
        &self,
        now: Timestamp,
        id: ContainerId,
    ) -> impl Iterator<Item = &Subject> {
        let ids = self.open_of.get(&id).into_iter().flatten();
        let open = ids.map(|id| &self.open[id]);
        open.filter(move |open| open.deadline > now)
            .map(|open| &open.subject)
    }

    /// Number of commands without an answer.
    pub(super) fn open_count(&self) -> usize {
        self.open.len()
    }

    /// Number of create requests without an answer. O(open commands).
    pub(super) fn open_creates(&self, now: Timestamp) -> usize {
        let creates = self.open.values();
        let creates = creates.filter(|open| matches!(open.subject, Subject::Create(_)));
        creates.filter(|open| open.deadline > now).count()
    }

    /// Containers with an open start on an instance. O(log commands + results).
    pub(super) fn starting_on(
        &self,
        now: Timestamp,
        instance: &InstanceId,
    ) -> impl Iterator<Item = ContainerId> {
        let from = Subject::Start(instance.clone(), container_id(0));
        let here = self.open_about.range(from..);
        let here = here.map_while(move |(subject, ids)| match subject {
            Subject::Start(at, id) if at == instance => Some((*id, ids)),
            _ => None,
        });
        let awaited =
            move |ids: &BTreeSet<CommandId>| ids.iter().any(|id| self.open[id].deadline > now);
        here.filter(move |(_, ids)| awaited(ids)).map(|(id, _)| id)
    }

    /// Create requests with a possible instance in the future.
    pub(super) fn counted_creates(&self, now: Timestamp) -> impl Iterator<Item = &CreateRequest> {
        let creates = self.creates.values();
        creates.filter(move |request| request.until > now)
    }
}
