//! Runners: earlier attempts end first, TERM comes before KILL, unknown runners are stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use longshore_core::Phase;
use longshore_core::command::{Action, Command, QueueAction, Signal, VmAction};
use longshore_core::event::Event;
use longshore_core::ids::{ContainerId, InstanceId};
use longshore_core::input::{Answer, Input, RunnerList};
use longshore_core::time::Timestamp;

use crate::checks::check::{Check, Context, Lasting, Look};
use crate::checks::ledger::{Open, Subject};
use crate::world::dense_map::DenseMap;
use crate::world::observation::Findings;

/// Longest time until a runner without a record is signalled, in a healthy world.
const UNKNOWN_MAX: Duration = Duration::from_secs(300);

/// The core stops runners in time and in order, and starts no second attempt beside a first one.
#[derive(Debug, Default)]
pub(super) struct Runners {
    of: [Memory; 2],
}

/// Facts about one process, reset at a change of leadership.
#[derive(Debug, Default)]
struct Memory {
    listed: Listed,
    /// Time of the last signal to each runner.
    signalled: BTreeMap<(InstanceId, ContainerId), Timestamp>,
    /// Runners without a record.
    unknown: Lasting<(InstanceId, ContainerId)>,
}

/// Number of lists of runners in a row with each container, by VM.
#[derive(Debug, Default)]
struct Listed {
    times: DenseMap<InstanceId, BTreeMap<ContainerId, u32>>,
    on: BTreeMap<ContainerId, BTreeSet<InstanceId>>,
}

impl Listed {
    /// Adds a list: the containers `live` have a runner on the VM, and no others have.
    fn add(&mut self, instance: &InstanceId, live: &BTreeSet<ContainerId>) {
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

    /// VM with the container in two lists in a row.
    fn lives_on(&self, id: ContainerId) -> Option<&InstanceId> {
        let mut on = self.on.get(&id)?.iter();
        on.find(|instance| self.times[*instance][&id] > 1)
    }
}

impl Check for Runners {
    fn on_input(&mut self, at: &Context<'_>, input: &Input) {
        if let Input::Reconfigured(_) = input {
            self.of[at.process].unknown.clear();
        }
    }

    fn on_leadership_change(&mut self, at: &Context<'_>, _: bool) {
        self.of[at.process] = Memory::default();
    }

    fn on_answer(&mut self, at: &Context<'_>, open: &Open, answer: &Answer, _: &mut Findings) {
        if let (Subject::Probe(instance), Answer::Probed(Ok(report))) = (&open.subject, answer)
            && let Some(list) = &report.runners
        {
            let listed = &mut self.of[at.process].listed;
            listed.add(instance, &live(list));
        }
    }

    fn on_event(&mut self, at: &Context<'_>, event: &Event, _: &mut Findings) {
        let listed = &mut self.of[at.process].listed;
        match event {
            Event::RunnerExited {
                container,
                instance,
            } => listed.forget(&InstanceId::from(instance.as_str()), *container),
            Event::Gone { instance, .. } => {
                listed.add(&InstanceId::from(instance.as_str()), &BTreeSet::new());
            }
            _ => {}
        }
    }

    fn on_command(&mut self, at: &Context<'_>, command: &Command, findings: &mut Findings) {
        let (now, memory) = (at.now(), &mut self.of[at.process]);
        match &command.action {
            Action::Queue(QueueAction::Lock { id }) => {
                if let Some(on) = memory.listed.lives_on(*id) {
                    let text = format!("{id} is locked while its runner lives on {on}");
                    findings.violate("earlier runners end first", text);
                }
            }
            Action::Vm {
                instance,
                action: VmAction::Signal { container, signal },
                ..
            } => {
                let runner = (instance.clone(), *container);
                let first = at.ledger.first_terms.get(&runner).copied().unwrap_or(now);
                memory.signalled.insert(runner, now);
                let timeout = at.config().timeouts.term;
                if *signal == Signal::Term && now >= first + timeout {
                    let text = format!("{container} still gets TERM after {timeout:?}");
                    findings.violate("the ladder goes down", text);
                }
            }
            _ => {}
        }
    }

    fn on_look(&mut self, at: &Context<'_>, look: Option<&Look<'_>>, findings: &mut Findings) {
        let memory = &mut self.of[0];
        let Some(look) = look.filter(|look| look.is_sole_leader(at)) else {
            return memory.unknown.clear();
        };
        let (now, queue) = (at.now(), &at.world.queue);
        let timeout = at.config().timeouts.queue_answer;
        let healthy = !queue.is_stormy(now) && !queue.outlasts(now, timeout);
        let ready = look
            .instances
            .iter()
            .filter(|vm| healthy && vm.phase == Phase::Ready && vm.complaint.is_none());
        for id in ready.filter_map(|vm| vm.instance.as_ref()) {
            for container in at.world.runners.containers_on(id) {
                let record = queue.records.get(&container);
                if record.is_some_and(|record| !record.deleted) {
                    continue;
                }
                let runner = (id.clone(), container);
                let signalled = memory.signalled.get(&runner).copied();
                if memory.unknown.lasts(now, runner, signalled, UNKNOWN_MAX) {
                    let text = format!("{container} runs on {id} without a record");
                    findings.violate("strangers are stopped", text);
                }
            }
        }
        memory.unknown.end_look();
    }

    fn on_id_reused(&mut self, id: &InstanceId) {
        for memory in &mut self.of {
            memory.signalled.retain(|(on, _), _| on != id);
            memory.listed.add(id, &BTreeSet::new());
            memory.unknown.retain(|(on, _)| on != id);
        }
    }
}

fn live(list: &RunnerList) -> BTreeSet<ContainerId> {
    let live = list.runners.iter().filter(|runner| !runner.stale);
    live.map(|runner| runner.container).collect()
}
