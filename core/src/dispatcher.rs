//! The dispatcher: routes inputs, runs reconciliation, orders commands.
//!
//! The dispatcher is a level-triggered reconciler, as Kubernetes controllers are. Inputs only
//! change the known state and mark containers, instances and placement dirty. Decisions are made
//! when commands are drained: first for each dirty container and each dirty instance, then by one
//! pass of placement. Each decision depends on the whole known state, never on the order of inputs,
//! so inputs may come in any order.

mod cloud_sync;
mod containers;
mod dirty;
pub(crate) mod memory_stats;
#[cfg(feature = "mutants")]
mod mutants;
mod operator;
mod placement_ops;
mod preemption;
mod probes;
mod queue_sync;
mod rate_queues;
mod reload;
mod runners;
mod scheduling_timeout;
mod vms;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash as _, Hasher as _};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use crate::capacity::Capacity;
use crate::command::{Action, CloudAction, Command, QueueAction, VmAction};
use crate::config::{Config, Seed};
use crate::event::Event;
use crate::fleet::Fleet;
use crate::hash::Fnv;
use crate::ids::{CloudId, CommandId, ContainerId, IntentId, VmKey};
use crate::input::{Answer, Input};
use crate::mutants::{Mutant, Mutants};
use crate::outbox::{Outbox, Pending, Purpose};
use crate::placement::Verdicts;
use crate::queue::Queue;
use crate::resources::MicroDollars;
use crate::time::Timestamp;
use crate::timers::{TimeoutReason, Timers};
use cloud_sync::Sync;
use dirty::DirtySet;
use queue_sync::Poll;
use rate_queues::RateQueues;

/// State machine: timestamped inputs in, commands and events out.
///
/// Call [`handle_input`](Self::handle_input) for each input and
/// [`handle_timeout`](Self::handle_timeout) when [`poll_timeout`](Self::poll_timeout) is due; after
/// either, drain [`poll_command`](Self::poll_command) and [`poll_event`](Self::poll_event). Several
/// inputs may be handled before a drain. `now` must never go back.
///
/// # Families of methods
///
/// The prefix of a method tells the effect. Public methods:
///
/// - `handle_*`: take an input, or let deadlines pass.
/// - `poll_*`: return the next command, event or deadline.
/// - `view`, `config`, `state_hash`, `memory_stats`: read only.
///
/// Private methods, from input to command:
///
/// - `on_*`: take over an input, an answer or a deadline; never decide.
/// - `note_*`: record a fact about a container, an instance or a cloud, report the event, mark
///   dirty.
/// - `apply_*`: compare a list, a snapshot or a configuration with the known state, and note the
///   differences.
/// - `mark_*`: mark dirty, without any other effect.
/// - `reconcile_*`: decide about a dirty container or instance, and act.
/// - `next_for_*`: decide, without effect; return a `NextAction`.
/// - `is_*`, `may_*`, `any_*`, `*_due`, `*_at`, `*_since`: conditions and deadlines, computed from
///   the state.
/// - `ask_*`: send a command to the queue, a cloud or an instance, and set the deadline of the
///   answer.
/// - `*_soon`, `*_now`, `schedule_*`: set a deadline for a command.
/// - `admit_*`, `dequeue_*`: enter and leave the queue of a rate limit.
/// - Plain verbs such as `start`, `stop`, `create`, `destroy`, `cordon`: change the state, report
///   the event and send the command of a decision.
#[derive(Clone, Debug)]
pub struct Dispatcher {
    now: Timestamp,
    config: Config,
    /// Clouds named by the configuration.
    clouds: BTreeSet<CloudId>,
    chance: Chance,
    leader: bool,
    /// Time of the gain of leadership: the known state was learned since.
    leader_since: Timestamp,
    /// Start of the time in which every existing instance is known and probed.
    fully_probed_since: Option<Timestamp>,
    queue: Queue,
    fleet: Fleet,
    capacity: Capacity,
    timers: Timers,
    out: Outbox,
    /// Signals in flight; a signal may outlive the runner.
    signals: BTreeMap<(ContainerId, VmKey), CommandId>,
    rate_queues: RateQueues,
    poll: Poll,
    syncs: BTreeMap<CloudId, Sync>,
    verdicts: Verdicts,
    /// Limits on containers and on supervisors in the last pass, the base of all reservations.
    start_limits: (Option<u32>, Option<u32>),
    /// Number of placement passes, for measurements.
    passes: u64,
    dirty: DirtySet,
    mutants: Mutants,
}

/// Random streams: one for each use, so that an extra draw for one use never shifts another use.
#[derive(Clone, Debug)]
struct Chance {
    intents: ChaCha8Rng,
    jitter: ChaCha8Rng,
}

impl Chance {
    fn new(seed: Seed) -> Self {
        let stream = |number| {
            let mut rng = ChaCha8Rng::from_seed(seed);
            rng.set_stream(number);
            rng
        };
        Self {
            intents: stream(1),
            jitter: stream(2),
        }
    }

    fn intent(&mut self, now: Timestamp) -> IntentId {
        let high = u128::from(self.intents.next_u64());
        IntentId::at(now, high << 64 | u128::from(self.intents.next_u64()))
    }

    fn jitter(&mut self) -> u32 {
        self.jitter.next_u32()
    }
}

impl Dispatcher {
    /// Creates a dispatcher without any knowledge and without leadership: nothing is sent before
    /// [`Input::Leadership`]. `seed` must differ between processes, since the ids of create
    /// requests follow from the seed.
    #[must_use]
    pub fn new(config: Config, seed: Seed, now: Timestamp) -> Self {
        let mut capacity = Capacity::default();
        capacity.budgets.count(now, MicroDollars::default());
        let mut fleet = Fleet::default();
        capacity.reconfigure(&config, &fleet);
        fleet.set_containers_max(config.limits.containers_per_instance);
        Self {
            now,
            clouds: clouds_of(&config),
            config,
            chance: Chance::new(seed),
            leader: false,
            leader_since: now,
            fully_probed_since: None,
            queue: Queue::default(),
            fleet,
            capacity,
            timers: Timers::default(),
            out: Outbox::default(),
            signals: BTreeMap::new(),
            rate_queues: RateQueues::default(),
            poll: Poll::default(),
            syncs: BTreeMap::new(),
            verdicts: Verdicts::default(),
            start_limits: (None, None),
            passes: 0,
            dirty: DirtySet::default(),
            mutants: Mutants::default(),
        }
    }

    /// Takes an input. Never fails: an error of the outside world is an input as well.
    ///
    /// # Panics
    /// If `now` is earlier than in the previous call.
    pub fn handle_input(&mut self, now: Timestamp, input: Input) {
        self.advance(now);
        match input {
            Input::Leadership { held } => self.on_leadership(held),
            Input::Reconfigured(config) => self.on_reconfigured(*config),
            _ if !self.leader => {}
            Input::Answer { id, answer } => self.on_answer(id, answer),
            Input::QueueChanged => self.poll_soon(),
            Input::OperatorRequest(request) => self.on_operator_request(request),
        }
    }

    /// Lets every deadline up to `now` pass. Has no effect if none is due.
    ///
    /// # Panics
    /// If `now` is earlier than in the previous call.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.advance(now);
        while let Some(reason) = self.timers.pop_due(now) {
            self.on_timeout(reason);
        }
    }

    /// Returns the next command. Decisions are made here, once for all inputs since the last drain.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.run_reconcile();
        self.out.pop_command()
    }

    /// Returns the next event, for logs and metrics.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.out.pop_event()
    }

    /// Returns the next deadline for [`handle_timeout`](Self::handle_timeout), with the reason.
    /// Valid after commands were drained.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Timestamp, TimeoutReason)> {
        self.timers.next()
    }

    /// Configuration in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Fingerprint of the known state and of all awaited answers: equal after equal inputs, on any
    /// machine. O(containers + instances).
    #[must_use]
    pub fn state_hash(&self) -> u64 {
        let mut hasher = Fnv::default();
        let leadership = (self.leader, self.leader_since, self.fully_probed_since);
        (self.now, leadership).hash(&mut hasher);
        (&self.queue, &self.fleet, &self.capacity).hash(&mut hasher);
        (&self.timers, &self.poll, &self.syncs, &self.verdicts).hash(&mut hasher);
        (&self.signals, &self.rate_queues, self.start_limits).hash(&mut hasher);
        self.out.hash_into(&mut hasher);
        self.chance.intents.get_word_pos().hash(&mut hasher);
        self.chance.jitter.get_word_pos().hash(&mut hasher);
        hasher.finish()
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.now
    }

    pub(crate) fn leader_since(&self) -> Timestamp {
        self.leader_since
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.leader
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    pub(crate) fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    pub(crate) fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    pub(crate) fn outbox(&self) -> &Outbox {
        &self.out
    }

    pub(crate) fn passes(&self) -> u64 {
        self.passes
    }

    pub(crate) fn timers(&self) -> &Timers {
        &self.timers
    }

    pub(crate) fn verdicts(&self) -> &Verdicts {
        &self.verdicts
    }

    /// True if the mutant is active; always false without the feature `mutants`.
    pub(crate) fn mutant(&self, bug: Mutant) -> bool {
        self.mutants.has(bug)
    }

    /// True if the queue and every cloud were listed completely since leadership was gained.
    pub(crate) fn is_synced(&self) -> bool {
        let listed = |sync: &Sync| sync.first_list.is_some();
        self.poll.complete_since.is_some() && self.each_cloud(listed)
    }

    /// True if the condition holds for the lists of every cloud.
    fn each_cloud(&self, are: impl Fn(&Sync) -> bool) -> bool {
        let of = |cloud| self.syncs.get(cloud).is_some_and(&are);
        self.clouds.iter().all(of)
    }

    fn advance(&mut self, now: Timestamp) {
        assert!(now >= self.now, "`now` went back: {now} after {}", self.now);
        self.now = now;
        self.capacity.budgets.count(now, self.fleet.price());
    }

    /// Makes every pending decision. Terminates, because each decision removes a dirty mark.
    fn run_reconcile(&mut self) {
        if self.leader {
            self.update_fully_probed();
        }
        while self.leader {
            if let Some(id) = self.dirty.containers.pop_first() {
                self.reconcile_container(id);
            } else if let Some(key) = self.dirty.vms.pop_first() {
                self.reconcile_vm(key);
            } else if std::mem::take(&mut self.dirty.placement) || self.any_reservation_ended() {
                self.place();
            } else {
                break;
            }
        }
    }

    fn on_leadership(&mut self, held: bool) {
        if held == self.leader || self.mutant(Mutant::LostLeadershipIgnored) && !held {
            return;
        }
        self.leader = held;
        self.leader_since = self.now;
        self.fully_probed_since = None;
        self.out.abandon();
        self.timers = Timers::default();
        self.queue = Queue::default();
        self.fleet.forget_all();
        if !held {
            self.capacity.budgets.forget_instances();
        }
        self.signals.clear();
        self.rate_queues = RateQueues::default();
        self.poll = Poll::default();
        self.syncs.clear();
        self.verdicts = Verdicts::default();
        self.dirty = DirtySet::default();
        self.out.event(Event::Leadership { held });
        if held {
            self.capacity
                .concurrency
                .begin(self.now, &self.config.limits);
            self.timers.set(TimeoutReason::PollQueue, self.now);
            for cloud in &self.clouds {
                self.timers.set(TimeoutReason::SyncCloud(*cloud), self.now);
            }
            self.schedule_unowned_locks();
        }
    }

    fn on_reconfigured(&mut self, config: Config) {
        self.clouds = clouds_of(&config);
        self.config = config;
        self.queue.reconfigure(&self.config);
        self.capacity.reconfigure(&self.config, &self.fleet);
        let max = self.config.limits.containers_per_instance;
        self.fleet.set_containers_max(max);
        self.out.event(Event::Reconfigured {
            types: self.config.types.len(),
        });
        if !self.leader {
            return;
        }
        self.fleet.release_all_reservations();
        self.refresh_instance_types();
        self.recheck_rate_queues();
        let ids: Vec<ContainerId> = self.queue.iter().map(|e| e.id).collect();
        self.dirty.containers.extend(ids);
        self.dirty.placement = true;
        self.apply_shorter_intervals();
    }

    fn on_answer(&mut self, id: CommandId, answer: Answer) {
        match self.out.awaited(id) {
            None => self.out.event(Event::LateAnswer { command: id }),
            Some(pending) if !pending.purpose.accepts(&answer) => {
                self.out.event(Event::WrongAnswer { command: id });
            }
            Some(_) => self.complete_answer(id, answer),
        }
    }

    fn complete_answer(&mut self, id: CommandId, answer: Answer) {
        let Some(Pending { purpose, issued_at }) = self.out.settle(&mut self.timers, id) else {
            return;
        };
        match (purpose, answer) {
            (Purpose::Poll, Answer::Containers(result)) => self.on_polled(issued_at, result),
            (Purpose::Lookup(ids), Answer::Containers(result)) => {
                self.on_looked_up(issued_at, &ids, result);
            }
            (Purpose::Update(id), Answer::Updated(update)) => {
                self.on_updated(issued_at, id, update);
            }
            (Purpose::List(cloud), Answer::Instances(result)) => {
                self.on_listed(issued_at, cloud, result);
            }
            (Purpose::Create(key), Answer::Created(result)) => self.on_created(key, result),
            (Purpose::Destroy(key), Answer::CloudDone(result)) => self.on_destroyed(key, result),
            (Purpose::Tag(key), Answer::CloudDone(result)) => self.on_tagged(key, result),
            (Purpose::Probe(key), Answer::Probed(result)) => self.on_probed(issued_at, key, result),
            (Purpose::Start(key, id), Answer::Started(result)) => self.on_started(key, id, result),
            (Purpose::Signal(key, id), Answer::Signalled(result)) => {
                self.on_signalled(key, id, result);
            }
            (purpose, answer) => unreachable!("{purpose:?} does not accept {answer:?}"),
        }
    }

    fn on_timeout(&mut self, reason: TimeoutReason) {
        match reason {
            TimeoutReason::PollQueue => self.poll_queue(),
            TimeoutReason::SyncCloud(cloud) => self.sync_cloud(cloud),
            TimeoutReason::NoAnswer(id) => {
                if let Some(pending) = self.out.awaited(id) {
                    let probe = matches!(pending.purpose, Purpose::Probe(_));
                    if probe && self.mutant(Mutant::HungProbeAwaited) {
                        return;
                    }
                    let answer = pending.purpose.timed_out();
                    self.complete_answer(id, answer);
                }
            }
            TimeoutReason::RetryContainer(id) => {
                self.dirty.containers.insert(id);
            }
            TimeoutReason::GiveUp(id) => {
                self.dirty.containers.insert(id);
            }
            TimeoutReason::Place => self.dirty.placement = true,
            TimeoutReason::UnownedLocks => {
                self.mark_unowned_locks_dirty();
                self.schedule_unowned_locks();
                for cloud in &self.clouds {
                    let list = TimeoutReason::SyncCloud(*cloud);
                    self.timers.set_earlier(list, self.now);
                }
            }
            TimeoutReason::ProbeVm(key) => self.probe(key),
            TimeoutReason::ReconcileVm(key) => {
                self.dirty.vms.insert(key);
            }
            TimeoutReason::DestroyVm(key) => self.destroy(key),
            TimeoutReason::SignalRunner(key, id) => self.signal(key, id),
        }
    }

    fn ask_queue(&mut self, purpose: Purpose, action: QueueAction) -> CommandId {
        let timeout = self.config.timeouts.queue_answer;
        let action = Action::Queue(action);
        self.out
            .send(self.now, &mut self.timers, timeout, purpose, action)
    }

    fn ask_cloud(&mut self, cloud: CloudId, purpose: Purpose, action: CloudAction) -> CommandId {
        let timeout = self.config.timeouts.cloud_answer;
        let action = Action::Cloud { cloud, action };
        self.out
            .send(self.now, &mut self.timers, timeout, purpose, action)
    }

    /// Sends a command to an instance; `None` if no address is known.
    fn ask_vm(
        &mut self,
        key: VmKey,
        timeout: Duration,
        purpose: Purpose,
        action: VmAction,
    ) -> Option<CommandId> {
        let vm = self.fleet.get(key)?;
        let action = Action::Vm {
            cloud: vm.identity.cloud,
            instance: vm.identity.instance.clone()?,
            address: vm.identity.address.clone()?,
            action,
        };
        let sent = self
            .out
            .send(self.now, &mut self.timers, timeout, purpose, action);
        Some(sent)
    }
}

fn clouds_of(config: &Config) -> BTreeSet<CloudId> {
    config.types.values().map(|offer| offer.cloud).collect()
}
