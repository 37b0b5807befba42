//! Rules that need a memory of their own: how a process treats what failed, what is silent, and what
//! must end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use longshore_core::command::{Action, CloudAction, Command, QueueAction, Signal, VmAction};
use longshore_core::config::Rate;
use longshore_core::event::{BootOutcome, Event};
use longshore_core::ids::{ContainerId, ImageId, InstanceId, IntentId, TypeName};
use longshore_core::input::{Answer, CloudError, Input, OperatorRequest, RunnerList};
use longshore_core::time::Timestamp;
use longshore_core::{Phase, ShutdownReason};

use crate::checks::ledger::About;
use crate::checks::probe_fairness::Turns;
use crate::world::World;
use crate::world::dense_map::DenseMap;

/// A create that failed, the first time since it last worked, is not repeated within this.
const PAUSE_MIN: Duration = Duration::from_secs(5);
/// What failed to boot too often is not created again within this.
const BOOT_PAUSE_MIN: Duration = Duration::from_secs(300);
/// Several inputs may be taken before commands are drained: so much later a call may leave.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// So much later than it was decided a call leaves at most, unless its process stood still then.
const LEAVES_MAX: Duration = Duration::from_millis(500);
/// A first probe, which may install the runner, has so many times as long.
const BOOT_PATIENCE: u32 = 3;
/// No create is awaited for longer.
const CREATE_MAX: Duration = Duration::from_secs(600);
/// Whoever has no record is told to stop within this, while all is well.
const STRANGER_MAX: Duration = Duration::from_secs(300);
/// An operator's wish is in the tag within this.
const TAG_MAX: Duration = Duration::from_secs(1200);

/// What is remembered of each process while it may act.
#[derive(Debug, Default)]
pub(crate) struct Vigil {
    of: [Memory; 2],
}

#[derive(Debug, Default)]
struct Memory {
    incarnation: u32,
    /// Creates under way: their types, and when they left.
    creates: BTreeMap<IntentId, (TypeName, Timestamp)>,
    /// Types whose last create failed, and since when.
    failing: BTreeMap<TypeName, Timestamp>,
    /// Types and images whose last boots failed: how many in a row, since when, and the one try.
    boots: BTreeMap<(TypeName, ImageId), Boots>,
    /// What was created for which wish.
    made: BTreeMap<InstanceId, IntentId>,
    /// When each kind of call will be as rested as ever.
    rested: BTreeMap<&'static str, Timestamp>,
    /// The first TERM to each runner that still has to end.
    terms: BTreeMap<(InstanceId, ContainerId), Timestamp>,
    /// The last signal to each runner.
    signalled: BTreeMap<(InstanceId, ContainerId), Timestamp>,
    /// When the last probe left, and when one that showed an idle VM did, and the last good answer.
    probes: DenseMap<InstanceId, Timestamp>,
    turns: Turns,
    idle: DenseMap<InstanceId, Timestamp>,
    good: DenseMap<InstanceId, Timestamp>,
    /// The first good answer.
    proved: DenseMap<InstanceId, Timestamp>,
    killed: BTreeSet<InstanceId>,
    /// When a tag was last to be written.
    tagged: BTreeMap<InstanceId, Timestamp>,
    /// When the cloud first showed what was asked for.
    appeared: BTreeMap<InstanceId, Timestamp>,
    /// How many lists of a VM's runners in a row showed each.
    listed: Listed,
    /// Since when something has been so at every look.
    since: BTreeMap<(InstanceId, Lasting), Timestamp>,
}

/// Boots that failed in a row.
#[derive(Clone, Copy, Debug)]
struct Boots {
    failures: u32,
    since: Timestamp,
    /// The wish that has been sent since then and has no end yet.
    canary: Option<IntentId>,
}

/// How many lists of a VM's runners in a row showed each container.
#[derive(Debug, Default)]
struct Listed {
    times: DenseMap<InstanceId, BTreeMap<ContainerId, u32>>,
    on: BTreeMap<ContainerId, BTreeSet<InstanceId>>,
}

impl Listed {
    /// A VM shows that these run on it, and no others.
    fn hear(&mut self, instance: &InstanceId, live: &BTreeSet<ContainerId>) {
        if let Some(times) = self.times.get_mut(instance)
            && times.keys().eq(live)
        {
            times.values_mut().for_each(|times| *times += 1);
            return;
        }
        let before = self.times.get(instance).into_iter().flatten();
        let gone = before.map(|(id, _)| *id).filter(|id| !live.contains(id));
        for id in gone.collect::<Vec<_>>() {
            self.forget(instance, id);
        }
        for id in live {
            let times = self.times.or_insert_with(instance, BTreeMap::new);
            *times.entry(*id).or_default() += 1;
            self.on.entry(*id).or_default().insert(instance.clone());
        }
    }

    fn forget(&mut self, instance: &InstanceId, id: ContainerId) {
        if let Some(times) = self.times.get_mut(instance) {
            times.remove(&id);
            if times.is_empty() {
                self.times.remove(instance);
            }
        }
        if let Some(on) = self.on.get_mut(&id) {
            on.remove(instance);
            if on.is_empty() {
                self.on.remove(&id);
            }
        }
    }

    /// Where a container was listed time and again.
    fn lives_on(&self, id: ContainerId) -> Option<&InstanceId> {
        let mut on = self.on.get(&id)?.iter();
        on.find(|instance| self.times[*instance][&id] > 1)
    }
}

/// What must not last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lasting {
    Probed,
    Stranger(ContainerId),
    Untold,
}

impl World {
    /// A process is about to hear something.
    pub(crate) fn vigil_hears(&mut self, index: usize, input: &Input) {
        let (now, process) = (self.scheduler.now, &self.processes.all[index]);
        let memory = &mut self.vigil.of[index];
        match input {
            Input::Leadership { held } if *held != process.ledger.leader => {
                *memory = Memory {
                    incarnation: process.incarnation,
                    ..Memory::default()
                };
            }
            Input::Reconfigured(_) => {
                memory.failing.clear();
                memory.boots.clear();
                memory.rested.clear();
                // What may last, by other intervals, is counted anew.
                memory.since.clear();
            }
            Input::OperatorRequest(OperatorRequest::KillInstance { instance, .. }) => {
                memory.killed.insert(instance.clone());
            }
            Input::Answer { id, answer } => {
                if let Some(open) = process.ledger.open(*id) {
                    // A list has shown it: an error may come after its end, and say nothing.
                    let shown = |intent| !process.ledger.wishes.contains_key(intent);
                    if let (About::Create(intent), Answer::Created(Err(_))) = (&open.about, answer)
                        && shown(intent)
                    {
                        memory.creates.remove(intent);
                    } else if let (About::Create(intent), Answer::Created(Err(error))) =
                        (&open.about, answer)
                        && !matches!(error, CloudError::Ambiguous { .. })
                    {
                        memory.end_canary(*intent);
                    }
                    memory.hear_answer(now, open.since, &open.about, answer);
                }
            }
            _ => {}
        }
    }

    /// A process tells something.
    pub(crate) fn vigil_event(&mut self, index: usize, event: &Event) {
        let now = self.scheduler.now;
        let memory = &mut self.vigil.of[index];
        match event {
            Event::RunnerExited {
                container,
                instance,
            } => {
                let place = (InstanceId::from(instance.as_str()), *container);
                memory.terms.remove(&place);
                memory.listed.forget(&place.0, place.1);
            }
            Event::Created {
                instance, intent, ..
            } => {
                let id = InstanceId::from(instance.as_str());
                memory.appeared.insert(id.clone(), now);
                memory.made.insert(id, *intent);
            }
            Event::CreateWrittenOff { intent, .. } => memory.end_canary(*intent),
            Event::Boot {
                instance, outcome, ..
            } => {
                let id = InstanceId::from(instance.as_str());
                if let Some(intent) = memory.made.remove(&id) {
                    memory.end_canary(intent);
                }
                if let Some(made) = self.cloud.instances.get(&id) {
                    let image = made.record.tags.image.clone();
                    let image = image.unwrap_or_else(|| ImageId::from(""));
                    memory.hear_boot(now, (made.type_name.clone(), image), *outcome);
                }
            }
            Event::Gone {
                instance, expected, ..
            } => {
                let id = InstanceId::from(instance.as_str());
                memory.listed.hear(&id, &BTreeSet::new());
                let appeared = memory.appeared.remove(&id);
                let grace = self.processes.all[index].config.timeouts.disappear_grace;
                let young = appeared.is_some_and(|at| now.since(at) <= grace);
                if expected.is_none() && young && self.cloud.is_alive(&id) {
                    let text = format!("{id} is young and alive, and taken for gone");
                    self.scheduler.violate("missing is not dead", text);
                }
            }
            _ => {}
        }
    }

    /// A command leaves a process.
    pub(crate) fn vigil_command(&mut self, index: usize, command: &Command) {
        let now = self.scheduler.now;
        if now <= self.processes.all[index].stalled_until + LEAVES_MAX {
            // What was decided before the host stood still leaves together with what is decided now.
            self.vigil.of[index].rested.clear();
        }
        let wrong = match &command.action {
            Action::Queue(QueueAction::Lock { id }) => self.runs_already(index, *id),
            Action::Queue(_) => None,
            Action::Cloud { action, .. } => {
                let passed = self.pass_rate(index, action);
                let also = match action {
                    CloudAction::Create {
                        intent,
                        instance_type,
                        image,
                    } => {
                        let kind = (instance_type.clone(), image.clone());
                        let boots = self.begin_boot(index, *intent, kind);
                        self.begin_create(index, *intent, instance_type).or(boots)
                    }
                    CloudAction::Destroy { instance } => self.unconfirmed(index, instance),
                    CloudAction::Tag { instance, .. } => {
                        let tagged = &mut self.vigil.of[index].tagged;
                        tagged.insert(instance.clone(), now);
                        None
                    }
                    CloudAction::List => None,
                };
                also.or(passed)
            }
            Action::Vm {
                instance, action, ..
            } => {
                let memory = &mut self.vigil.of[index];
                match action {
                    VmAction::Probe { .. } => {
                        memory.probes.insert(instance, now);
                        let rate = self.processes.all[index].config.limits.probes;
                        memory.pass(now, "probes", rate)
                    }
                    VmAction::Start { .. } => None,
                    VmAction::Signal { container, signal } => {
                        let place = (instance.clone(), *container);
                        memory.signalled.insert(place.clone(), now);
                        let first = *memory.terms.entry(place).or_insert(now);
                        let patience = self.processes.all[index].config.timeouts.term;
                        (*signal == Signal::Term && now >= first + patience).then(|| {
                            let text = format!("{container} still gets TERM after {patience:?}");
                            ("the ladder goes down", text)
                        })
                    }
                }
            }
        };
        if let Some((rule, text)) = wrong {
            self.scheduler.violate(rule, text);
        }
    }

    /// What is judged now and then.
    pub(crate) fn vigil_looks(&mut self) {
        let process = &self.processes.all[0];
        let rivals = self.rivals();
        let memory = &mut self.vigil.of[0];
        let Some(core) = process.core.as_ref().filter(|core| core.view().is_leader()) else {
            return memory.since.clear();
        };
        let stalls = self.scheduler.now < process.stalled_until;
        if memory.incarnation != process.incarnation || rivals || stalls {
            return memory.since.clear();
        }
        let (now, config) = (self.scheduler.now, &process.config);
        // The last one may have been about its boot.
        let probes_max = config.intervals.probe + config.timeouts.vm_answer * BOOT_PATIENCE;
        let all = core.view().instances();
        let rate = config.limits.probes;
        memory.turns.look(&all, &memory.probes, rate);
        let patience = config.timeouts.queue_answer;
        let stormy = self.queue.is_stormy(now) || self.queue.outlasts(now, patience);
        let mut lasting = BTreeMap::new();
        let mut wrong = Vec::new();
        for shown in &all {
            let Some(id) = &shown.instance else { continue };
            if shown.phase != Phase::Ready {
                continue;
            }
            let mut last = |what: Lasting, renewed: Option<Timestamp>, max: Duration| {
                let place = (id.clone(), what);
                let begun = memory.since.get(&place).copied().unwrap_or(now);
                let since = renewed.map_or(begun, |at| at.max(begun));
                lasting.insert(place, since);
                now.since(since) > max + DRAIN_MAX
            };
            let asked = memory.probes.get(id).copied();
            let turn = memory.turns.longest(id, config.limits.probes);
            if last(Lasting::Probed, asked, probes_max + turn) {
                wrong.push(("probes go on", format!("{id} is not probed any more")));
            }
            let tag = self.cloud.instances.get(id);
            let tag = tag.and_then(|i| i.record.tags.idle_behavior);
            let tried = memory.tagged.get(id).copied();
            if tag.unwrap_or_default() != shown.idle_behavior
                && now >= self.cloud.down_until
                && last(Lasting::Untold, tried, TAG_MAX)
            {
                let text = format!("{id} is to {:?}, its tag says {tag:?}", shown.idle_behavior);
                wrong.push(("tags tell", text));
            }
            if shown.complaint.is_some() || stormy {
                continue;
            }
            for container in self.runners.containers_on(id) {
                let record = self.queue.records.get(&container);
                let signalled = memory.signalled.get(&(id.clone(), container)).copied();
                if record.is_none_or(|record| record.deleted)
                    && last(Lasting::Stranger(container), signalled, STRANGER_MAX)
                {
                    let text = format!("{container} runs on {id} without a record");
                    wrong.push(("strangers are stopped", text));
                }
            }
        }
        memory.since = lasting;
        for (rule, text) in wrong {
            self.scheduler.violate(rule, text);
        }
    }

    /// A container whose runner was listed time and again is not locked for another attempt.
    fn runs_already(&self, index: usize, id: ContainerId) -> Option<(&'static str, String)> {
        let on = self.vigil.of[index].listed.lives_on(id)?;
        let text = format!("{id} is locked though its runner lives on {on}");
        Some(("earlier runners end first", text))
    }

    /// What failed is left alone for a while; then one try decides.
    fn begin_create(
        &mut self,
        index: usize,
        intent: IntentId,
        name: &TypeName,
    ) -> Option<(&'static str, String)> {
        let now = self.scheduler.now;
        let wishes = &self.processes.all[index].ledger.wishes;
        let memory = &mut self.vigil.of[index];
        let under_way = |intent: &IntentId| {
            let wish = wishes.get(intent);
            wish.is_some_and(|wish| !wish.answered && wish.deadline > now)
        };
        let since = memory.failing.get(name).copied();
        let other = |since| {
            let mut others = memory.creates.iter();
            others.any(|(other, (of, at))| of == name && *at > since && under_way(other))
        };
        let wrong = match since {
            Some(since) if now.since(since) < PAUSE_MIN => {
                Some(("what failed rests", format!("{name} failed at {since}")))
            }
            Some(since) if other(since) => {
                let text = format!("two creates of {name} try whether it works again");
                Some(("one canary", text))
            }
            _ => None,
        };
        memory
            .creates
            .retain(|_, (_, at)| now.since(*at) < CREATE_MAX);
        memory.creates.insert(intent, (name.clone(), now));
        wrong
    }

    /// What does not boot is left alone for a while; then one try decides.
    fn begin_boot(
        &mut self,
        index: usize,
        intent: IntentId,
        kind: (TypeName, ImageId),
    ) -> Option<(&'static str, String)> {
        let now = self.scheduler.now;
        let max = self.processes.all[index].config.limits.boot_failures?;
        let boots = self.vigil.of[index].boots.get_mut(&kind)?;
        if boots.failures < max {
            return None;
        }
        let wrong =
            (now.since(boots.since) < BOOT_PAUSE_MIN || boots.canary.is_some()).then(|| {
                let text = format!("{kind:?} is created, but {boots:?}");
                ("what does not boot rests", text)
            });
        boots.canary = Some(intent);
        wrong
    }

    /// A VM that idled goes only when a probe begun after the decision has shown nothing on it.
    fn unconfirmed(&self, index: usize, instance: &InstanceId) -> Option<(&'static str, String)> {
        let process = &self.processes.all[index];
        let (ledger, memory) = (&process.ledger, &self.vigil.of[index]);
        let (reason, since) = ledger.leaving.get(instance)?;
        let gently = matches!(
            reason,
            ShutdownReason::Idle | ShutdownReason::Drained | ShutdownReason::MakeRoom
        );
        let good = memory.good.get(instance)?;
        let silent = *good + process.config.timeouts.probe <= self.scheduler.now;
        let confirmed = memory.idle.get(instance).is_some_and(|at| at >= since);
        let again = ledger.destroyed.contains(instance);
        // One that was given back while it booted has never been used: its destroy may have to wait
        // for its turn, and its first good answer comes meanwhile.
        let proved = memory.proved.get(instance);
        let used = proved.is_some_and(|at| *at + LEAVES_MAX < *since);
        let excused = again || silent || memory.killed.contains(instance);
        (gently && !confirmed && !excused && used).then(|| {
            let text = format!("{instance} is destroyed ({reason}) without a fresh probe");
            ("idle VMs are asked first", text)
        })
    }

    /// Our own rates hold, whatever is to be done.
    fn pass_rate(&mut self, index: usize, action: &CloudAction) -> Option<(&'static str, String)> {
        let now = self.scheduler.now;
        let limits = &self.processes.all[index].config.limits;
        let (class, rate) = match action {
            CloudAction::Create { .. } => ("creates", limits.creates),
            CloudAction::Destroy { .. } => ("destroys", limits.destroys),
            CloudAction::List => ("lists", limits.lists),
            CloudAction::Tag { .. } => ("tags", None),
        };
        let memory = &mut self.vigil.of[index];
        let own = memory.pass(now, class, rate);
        own.or(memory.pass(now, "calls", limits.cloud_ops))
    }
}

impl Vigil {
    /// When something on an instance that has not ended since was first told to end.
    pub(crate) fn first_term(&self, index: usize, id: &InstanceId) -> Option<Timestamp> {
        let terms = self.of[index].terms.iter();
        let here = terms.filter(|((on, _), _)| on == id);
        here.map(|(_, at)| *at).min()
    }

    /// Another instance has the name of one that ended.
    pub(crate) fn forget(&mut self, id: &InstanceId) {
        for memory in &mut self.of {
            memory.terms.retain(|(on, _), _| on != id);
            memory.signalled.retain(|(on, _), _| on != id);
            memory.listed.hear(id, &BTreeSet::new());
            memory.since.retain(|(on, _), _| on != id);
            let (probes, idle) = (&mut memory.probes, &mut memory.idle);
            for times in [probes, idle, &mut memory.good, &mut memory.proved] {
                times.remove(id);
            }
            memory.appeared.remove(id);
            memory.made.remove(id);
            memory.killed.remove(id);
            memory.tagged.remove(id);
        }
    }
}

impl Memory {
    /// Something happens that has a rate: what is wrong if it is ahead of it. Within any span of time
    /// there are no more than a burst and what the span brings.
    fn pass(
        &mut self,
        now: Timestamp,
        class: &'static str,
        rate: Option<Rate>,
    ) -> Option<(&'static str, String)> {
        let rate = rate?;
        let rested = self.rested.entry(class).or_insert(now);
        *rested = (*rested).max(now) + rate.interval;
        let debt = rested.since(now);
        (debt > rate.interval * rate.burst + LEAVES_MAX).then(|| {
            (
                "rates",
                format!("{class} are ahead of their rate by {debt:?}"),
            )
        })
    }

    fn hear_boot(&mut self, now: Timestamp, kind: (TypeName, ImageId), outcome: BootOutcome) {
        match outcome {
            BootOutcome::Success => {
                self.boots.remove(&kind);
            }
            BootOutcome::Failure => {
                let boots = self.boots.entry(kind).or_insert(Boots {
                    failures: 0,
                    since: now,
                    canary: None,
                });
                boots.failures += 1;
                boots.since = now;
            }
            BootOutcome::Aborted | BootOutcome::Disappeared => {}
        }
    }

    fn end_canary(&mut self, intent: IntentId) {
        for boots in self.boots.values_mut() {
            boots.canary.take_if(|canary| *canary == intent);
        }
    }

    fn hear_answer(&mut self, now: Timestamp, began: Timestamp, about: &About, answer: &Answer) {
        match (about, answer) {
            (About::Create(intent), Answer::Created(made)) => {
                let Some((name, _)) = self.creates.remove(intent) else {
                    return;
                };
                match made {
                    Ok(_) => {
                        self.failing.remove(&name);
                    }
                    Err(
                        CloudError::RateLimited { .. }
                        | CloudError::Ambiguous { .. }
                        | CloudError::Quota { .. },
                    ) => {}
                    Err(_) => {
                        self.failing.entry(name).or_insert(now);
                    }
                }
            }
            (About::Probe(instance), Answer::Probed(Ok(report))) => {
                if let Some(list) = &report.runners {
                    self.hear_list(instance, list);
                }
                if report.ready.is_err() {
                    return;
                }
                self.good.insert(instance, now);
                if report.runners.is_some() && !self.proved.contains_key(instance) {
                    self.proved.insert(instance, now);
                }
                let list = report.runners.as_ref();
                if list.is_some_and(|list| list.runners.iter().all(|runner| runner.stale)) {
                    self.idle.insert(instance, began);
                }
            }
            _ => {}
        }
    }

    fn hear_list(&mut self, instance: &InstanceId, list: &RunnerList) {
        let live = list.runners.iter().filter(|runner| !runner.stale);
        let live: BTreeSet<ContainerId> = live.map(|runner| runner.container).collect();
        self.listed.hear(instance, &live);
    }
}
