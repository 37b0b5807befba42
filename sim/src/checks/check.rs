//! Interface of a check, and the read-only facts given to a check.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use longshore_core::Dispatcher;
use longshore_core::command::Command;
use longshore_core::config::Config;
use longshore_core::event::Event;
use longshore_core::ids::{ContainerId, InstanceId};
use longshore_core::input::{Answer, Input};
use longshore_core::time::Timestamp;
use longshore_core::view::{ContainerView, InstanceView, View};

use crate::checks::ledger::{Ledger, Ledgers, Open};
use crate::world::World;
use crate::world::events::{Origin, RunnerId};
use crate::world::observation::Findings;
use crate::world::process::Process;

/// Several inputs may be taken before a drain of the commands: a command may leave so much later.
pub(super) const DRAIN_MAX: Duration = Duration::from_secs(5);
/// Longest time from a decision until the command leaves, unless the process stalls.
pub(super) const LEAVES_MAX: Duration = Duration::from_millis(500);

/// A rule, or a family of rules with common state. Hooks run in the order of [`super::Checks::all`],
/// before the ledger records the observation, and may not use the randomness of the world.
pub(super) trait Check: fmt::Debug {
    /// A process starts.
    fn on_begin(&mut self, _: &Context<'_>) {}

    /// A process is about to take an input.
    fn on_input(&mut self, _: &Context<'_>, _: &Input) {}

    /// A process is about to gain or lose leadership. Called after `on_input`.
    fn on_leadership_change(&mut self, _: &Context<'_>, _held: bool) {}

    /// A process is about to take the answer to a command open so far. Called after `on_input`.
    fn on_answer(&mut self, _: &Context<'_>, _: &Open, _: &Answer, _: &mut Findings) {}

    /// A process sends a command.
    fn on_command(&mut self, _: &Context<'_>, _: &Command, _: &mut Findings) {}

    /// A process emits an event.
    fn on_event(&mut self, _: &Context<'_>, _: &Event, _: &mut Findings) {}

    /// A command is about to take effect.
    fn on_arrival(&mut self, _: &Context<'_>, _: Origin, _: &Command, _: &mut Findings) {}

    /// The user process of a container has started, beside another one if any.
    fn on_program_start(
        &mut self,
        _: &Context<'_>,
        _: ContainerId,
        _: RunnerId,
        _other: Option<RunnerId>,
        _: &mut Findings,
    ) {
    }

    /// A new instance has the id of a dead instance: facts about the dead instance are void.
    fn on_id_reused(&mut self, _: &InstanceId) {}

    /// Regular look at the state of process 0. No look at a process without a core.
    fn on_look(&mut self, _: &Context<'_>, _: Option<&Look<'_>>, _: &mut Findings) {}

    /// All work is done and the world has been quiet for a while.
    fn on_rest(&mut self, _: &Context<'_>, _: &mut Findings) {}
}

/// Facts for a hook: the world, and the knowledge of one process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    pub(super) world: &'a World,
    /// Number of the process.
    pub(super) process: usize,
    /// Ledger of the process before the observation.
    pub(super) ledger: &'a Ledger,
    /// Ledgers of both processes before the observation.
    pub(super) ledgers: &'a Ledgers,
}

impl<'a> Context<'a> {
    pub(super) fn now(&self) -> Timestamp {
        self.world.scheduler.now
    }

    pub(super) fn process(&self) -> &'a Process {
        &self.world.processes.all[self.process]
    }

    pub(super) fn config(&self) -> &'a Config {
        &self.process().config
    }

    /// True if a runner of the container may be on a VM unknown to every process: started late, or
    /// under two leaders.
    pub(super) fn is_excused(&self, id: &ContainerId) -> bool {
        self.world.vms.late.contains(id) || self.ledgers.contested.contains(id)
    }
}

/// State of the core of process 0 at a look.
#[derive(Debug)]
pub(super) struct Look<'a> {
    pub(super) core: &'a Dispatcher,
    pub(super) view: View<'a>,
    pub(super) instances: Vec<InstanceView>,
    containers: OnceCell<Vec<ContainerView>>,
}

impl<'a> Look<'a> {
    pub(super) fn of(core: &'a Dispatcher) -> Self {
        let view = core.view();
        Self {
            core,
            view,
            instances: view.instances(),
            containers: OnceCell::new(),
        }
    }

    /// Containers known to the core. O(containers) at the first call.
    pub(super) fn containers(&self) -> &[ContainerView] {
        self.containers.get_or_init(|| self.view.containers())
    }

    /// True for a running leader with a queue in working order.
    pub(super) fn has_queue(&self, at: &Context<'_>) -> bool {
        let stormy = at.world.queue.is_stormy(at.now());
        self.view.is_leader() && !stormy && !at.world.stalls(0)
    }

    /// True for a running leader without a second leader.
    pub(super) fn is_sole_leader(&self, at: &Context<'_>) -> bool {
        self.view.is_leader() && !at.world.rivals() && !at.world.stalls(0)
    }
}

/// Conditions seen at every look since some time.
#[derive(Clone, Debug)]
pub(super) struct Lasting<K> {
    since: BTreeMap<K, Timestamp>,
    next: BTreeMap<K, Timestamp>,
}

impl<K> Default for Lasting<K> {
    fn default() -> Self {
        Self {
            since: BTreeMap::new(),
            next: BTreeMap::new(),
        }
    }
}

impl<K: Ord> Lasting<K> {
    /// Records a condition at the current look. True if the condition has lasted longer than `max`
    /// since the first look with the condition, or since `renewed` if later.
    pub(super) fn lasts(
        &mut self,
        now: Timestamp,
        key: K,
        renewed: Option<Timestamp>,
        max: Duration,
    ) -> bool {
        let begun = self.since.get(&key).copied().unwrap_or(now);
        let since = renewed.map_or(begun, |at| at.max(begun));
        self.next.insert(key, since);
        now.since(since) > max + DRAIN_MAX
    }

    /// Ends a look: conditions not recorded have ended.
    pub(super) fn end_look(&mut self) {
        self.since = std::mem::take(&mut self.next);
    }

    pub(super) fn clear(&mut self) {
        self.since.clear();
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        self.since.retain(|key, _| keep(key));
    }
}
