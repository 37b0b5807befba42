//! Scripted scenarios (stories): a healthy simulated world with failures injected step by step.
//!
//! ```
//! use longshore_sim::story::{Story, cores, minutes};
//!
//! let mut story = Story::begin();
//! let container = story.submit(cores(1));
//! story.run_for(minutes(10));
//! story.assert_complete(container);
//! ```

mod hand;
mod setup;

use std::time::Duration;

use longshore_core::BudgetLeft;
use longshore_core::command::{Action, CloudAction, QueueAction, VmAction};
use longshore_core::config::Config;
use longshore_core::event::Event;
use longshore_core::ids::{ContainerId, InstanceId, QuotaGroup, TypeName};
use longshore_core::input::{ContainerState, IdleBehavior, Input, OperatorRequest};
use longshore_core::resources::{Demand, MIB};
use longshore_core::time::Timestamp;
use longshore_core::view::{ContainerView, InstanceView};

use crate::world::World;
use crate::world::cloud::Throttle;
use crate::world::events::START;
use crate::world::faults::Fault;
use crate::world::plan::Plan;
use crate::world::workload::Arrival;

pub use setup::{bare, number_types, numbered_types};

/// Duration of `count` seconds.
#[must_use]
pub const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Duration of `count` minutes.
#[must_use]
pub const fn minutes(count: u64) -> Duration {
    Duration::from_secs(count * 60)
}

/// Demand of a container with `count` cores and 512 MiB of memory.
#[must_use]
pub fn cores(count: u32) -> Demand {
    Demand {
        vcpus: count,
        ram: 512 * MIB,
        ..Demand::default()
    }
}

/// Simulated world under the control of a test. Every rule is checked at every step; a broken rule
/// ends the story with a panic and the last trace lines.
#[derive(Debug)]
pub struct Story {
    world: World,
}

impl Story {
    /// Creates a healthy world with five types: small, medium, large and huge with 1, 2, 4 and 8
    /// cores, and a preemptible type with 4 cores.
    #[must_use]
    pub fn begin() -> Self {
        Self::with(|_| {})
    }

    /// Creates the world of [`Story::begin`] with a changed configuration.
    #[must_use]
    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut plan = Plan::calm(1);
        change(&mut plan.config);
        Self::of(plan)
    }

    /// Advances the time by `span`.
    ///
    /// # Panics
    /// If a rule is broken.
    pub fn run_for(&mut self, span: Duration) {
        let end = self.world.scheduler.now + span;
        while self.world.scheduler.next_at().is_some_and(|at| at <= end) {
            self.world.step();
            if let Some(violation) = self.world.scheduler.violations.first() {
                let tail = self.world.scheduler.trace.tail().join("\n");
                panic!("{tail}\n{}: {}", violation.rule, violation.what);
            }
        }
        self.world.scheduler.now = end;
    }

    /// Advances the time until `test` returns true.
    ///
    /// # Panics
    /// If `test` is still false after `span`, or a rule is broken.
    #[track_caller]
    pub fn run_until(&mut self, what: &str, span: Duration, test: impl Fn(&Self) -> bool) {
        let end = self.world.scheduler.now + span;
        while !test(self) {
            let tail = || self.world.scheduler.trace.tail().join("\n");
            assert!(
                self.world.scheduler.now < end,
                "{}\nnot reached within {span:?}: {what}",
                tail()
            );
            self.run_for(Duration::from_millis(50));
        }
    }

    // Actions of users.

    /// Submits a container with priority 500 and a run time of five minutes.
    pub fn submit(&mut self, demand: Demand) -> ContainerId {
        self.submit_as(demand, 500, minutes(5))
    }

    /// Submits a container.
    pub fn submit_as(&mut self, demand: Demand, priority: u64, runs: Duration) -> ContainerId {
        let world = &mut self.world;
        world
            .queue
            .submit(&mut world.scheduler, Ok(demand), priority, runs)
    }

    /// Submits recorded containers at once and in order; recorded times are ignored.
    pub fn submit_recorded(&mut self, arrivals: &[Arrival]) -> Vec<ContainerId> {
        let world = &mut self.world;
        let submitted = arrivals
            .iter()
            .map(|arrival| world.queue.submit_as(&mut world.scheduler, arrival));
        submitted.collect()
    }

    /// Submits a container with an invalid record.
    pub fn submit_malformed(&mut self) -> ContainerId {
        let world = &mut self.world;
        let wrong = Err("mounts: expected an object, found a list".to_owned());
        world
            .queue
            .submit(&mut world.scheduler, wrong, 500, minutes(5))
    }

    /// Changes the priority of a container.
    pub fn set_priority(&mut self, id: ContainerId, priority: u64) {
        let world = &mut self.world;
        world.queue.set_priority(&mut world.scheduler, id, priority);
    }

    /// Deletes the record of a container from the database.
    pub fn delete(&mut self, id: ContainerId) {
        let world = &mut self.world;
        world.queue.delete(&mut world.scheduler, id);
    }

    // Actions of operators.

    /// Sets the idle behavior of a VM.
    pub fn set_behavior(&mut self, vm: usize, behavior: IdleBehavior) {
        let instance = self.vm_id(vm);
        self.tell(OperatorRequest::SetIdleBehavior { instance, behavior });
    }

    /// Holds a VM: the VM stays, and no container starts there.
    pub fn hold(&mut self, vm: usize) {
        self.set_behavior(vm, IdleBehavior::Hold);
    }

    /// Drains a VM: the VM is destroyed once its containers have ended.
    pub fn drain(&mut self, vm: usize) {
        self.set_behavior(vm, IdleBehavior::Drain);
    }

    /// Kills a VM.
    pub fn kill_vm(&mut self, vm: usize) {
        let instance = self.vm_id(vm);
        let reason = "the story says so".to_owned();
        self.tell(OperatorRequest::KillInstance { instance, reason });
    }

    /// Kills a container.
    pub fn kill_container(&mut self, container: ContainerId) {
        let reason = "the story says so".to_owned();
        self.tell(OperatorRequest::KillContainer { container, reason });
    }

    fn tell(&mut self, wish: OperatorRequest) {
        self.world.tell_all(&Input::OperatorRequest(wish));
    }

    /// Reloads the dispatcher's configuration.
    pub fn reconfigure(&mut self, change: impl FnOnce(&mut Config)) {
        let mut config = self.world.processes.all[0].config.clone();
        change(&mut config);
        self.world.reconfigure(config);
    }

    // Failures.

    /// Injects a fault at the next `times` opportunities.
    pub fn strike(&mut self, fault: Fault, times: u32) {
        self.world.scheduler.faults.script(fault, times);
    }

    /// Crashes the dispatcher and waits 30 s, enough time for a restart.
    pub fn restart(&mut self) {
        self.world.crash(0);
        self.run_for(seconds(30));
    }

    /// Stalls the dispatcher's host for `span`: inputs of the meantime are delivered afterwards.
    pub fn stand_still(&mut self, span: Duration) {
        let until = self.world.scheduler.now + span;
        self.world.processes.all[0].stalled_until = until;
    }

    /// Takes leadership from the dispatcher for `pause`.
    pub fn lose_leadership(&mut self, pause: Duration) {
        self.world.lose_leadership(pause);
    }

    /// Makes the queue unable to requeue a running container: the queue cancels the container, like
    /// the peer's queue.
    pub fn cannot_requeue(&mut self) {
        self.world.queue.requeues = false;
    }

    /// Limits the number of instances of a quota group in the cloud account.
    pub fn set_quota(&mut self, group: &str, max: u32) {
        let group = QuotaGroup::from(group);
        self.world.cloud.quota.insert(group, max);
    }

    /// Limits the number of instances of a type available in the cloud.
    pub fn set_capacity(&mut self, type_name: &str, max: u32) {
        let name = TypeName::from(type_name);
        self.world.cloud.capacity.insert(name, max);
    }

    /// Limits create requests in the cloud: one per `interval`, after a burst.
    pub fn throttle_creates(&mut self, interval: Duration, burst: u32) {
        self.world.cloud.create_throttle = Some(Throttle {
            interval,
            burst,
            full_at: Timestamp::EPOCH,
        });
    }

    /// Handle of the nth VM ever created, from 0.
    ///
    /// # Panics
    /// If no such VM exists, or the VM has ended.
    #[track_caller]
    pub fn vm(&mut self, number: usize) -> VmHand<'_> {
        let id = self.vm_id(number);
        assert!(self.world.cloud.is_alive(&id), "instance {id} has ended");
        VmHand { story: self, id }
    }

    #[track_caller]
    fn vm_id(&self, number: usize) -> InstanceId {
        let made = &self.world.cloud.made;
        assert!(number < made.len(), "only {} VMs were created", made.len());
        made[number].clone()
    }

    // Queries.

    /// Time since the beginning of the story.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.world.scheduler.elapsed()
    }

    /// State of a container in the queue; `None` after deletion.
    #[must_use]
    pub fn state(&self, id: ContainerId) -> Option<ContainerState> {
        self.world.queue.state(id)
    }

    /// True if the container is Complete or Cancelled.
    #[must_use]
    pub fn has_ended(&self, id: ContainerId) -> bool {
        self.state(id).is_some_and(ContainerState::is_final)
    }

    /// Error text in the container record, for the owner.
    #[must_use]
    pub fn error_of(&self, id: ContainerId) -> String {
        let record = self.world.queue.records.get(&id);
        record.and_then(|r| r.error.clone()).unwrap_or_default()
    }

    /// Warning in the record of an unfinished container, for the owner.
    #[must_use]
    pub fn warning_of(&self, id: ContainerId) -> String {
        let record = self.world.queue.records.get(&id);
        let warning = record.and_then(|r| r.warning.clone());
        warning.unwrap_or_default()
    }

    /// Number of locks of a container so far.
    #[must_use]
    pub fn lock_count(&self, id: ContainerId) -> u32 {
        let record = self.world.queue.records.get(&id);
        record.map(|r| r.lock_count).unwrap_or_default()
    }

    /// Number of the VM with the running program of a container, by the true state of the world.
    #[must_use]
    pub fn runs_on(&self, id: ContainerId) -> Option<usize> {
        let vm = self.world.runners.program_on(id)?;
        self.world.cloud.made.iter().position(|made| made == vm)
    }

    /// True if a runner of the container is alive on any VM.
    #[must_use]
    pub fn has_runner(&self, id: ContainerId) -> bool {
        !self.world.runners.vms_of(id).is_empty()
    }

    /// Number of existing VMs.
    #[must_use]
    pub fn vms(&self) -> usize {
        self.world.cloud.alive
    }

    /// Number of VMs ever created.
    #[must_use]
    pub fn vms_made(&self) -> usize {
        self.world.cloud.made.len()
    }

    /// True if the nth VM has ended.
    #[must_use]
    pub fn is_gone(&self, vm: usize) -> bool {
        !self.world.cloud.is_alive(&self.vm_id(vm))
    }

    /// Instance type of the nth VM.
    #[must_use]
    pub fn type_of(&self, vm: usize) -> String {
        let instance = self.world.cloud.instances.get(&self.vm_id(vm));
        instance
            .map(|i| i.type_name.to_string())
            .unwrap_or_default()
    }

    /// View of a container in the dispatcher.
    #[must_use]
    pub fn shown(&self, id: ContainerId) -> Option<ContainerView> {
        let core = self.world.processes.all[0].core.as_ref()?;
        core.view().container(id)
    }

    /// View of the nth VM in the dispatcher.
    #[must_use]
    pub fn shown_vm(&self, vm: usize) -> Option<InstanceView> {
        let core = self.world.processes.all[0].core.as_ref()?;
        core.view().instance(&self.vm_id(vm))
    }

    /// Budgets in the dispatcher's view.
    #[must_use]
    pub fn budgets(&self) -> Vec<BudgetLeft> {
        let core = self.world.processes.all[0].core.as_ref();
        core.map(|core| core.view().budgets()).unwrap_or_default()
    }

    /// Limit on running containers while the dispatcher protects an overloaded queue; `None`
    /// without limit.
    #[must_use]
    pub fn containers_max(&self) -> Option<u32> {
        let core = self.world.processes.all[0].core.as_ref()?;
        core.view().containers_max()
    }

    /// Current time of the world.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.world.scheduler.now
    }

    /// All events so far, in order.
    ///
    /// # Panics
    /// Never: every story keeps a history.
    #[must_use]
    pub fn events(&self) -> Vec<&Event> {
        let history = self.world.history.as_ref().expect("stories keep a history");
        history.events.iter().map(|(_, event)| event).collect()
    }

    /// Number of events so far accepted by `test`.
    #[must_use]
    pub fn count_events(&self, test: impl Fn(&Event) -> bool) -> usize {
        self.events()
            .into_iter()
            .filter(|event| test(event))
            .count()
    }

    /// Number of commands so far accepted by `test`.
    ///
    /// # Panics
    /// Never: every story keeps a history.
    #[must_use]
    pub fn count_commands(&self, test: impl Fn(&Action) -> bool) -> usize {
        let history = self.world.history.as_ref().expect("stories keep a history");
        let commands = history.commands.iter();
        commands.filter(|(_, action)| test(action)).count()
    }

    /// Times of the commands accepted by `test`, since the beginning of the story.
    ///
    /// # Panics
    /// Never: every story keeps a history.
    #[must_use]
    pub fn times_of(&self, test: impl Fn(&Action) -> bool) -> Vec<Duration> {
        let history = self.world.history.as_ref().expect("stories keep a history");
        let commands = history.commands.iter();
        let chosen = commands.filter(|(_, action)| test(action));
        chosen.map(|(at, _)| at.since(START)).collect()
    }

    /// Number of start commands for a container.
    #[must_use]
    pub fn starts_of(&self, id: ContainerId) -> usize {
        self.count_commands(|action| {
            matches!(action, Action::Vm { action: VmAction::Start { container, .. }, .. } if *container == id)
        })
    }

    /// Number of create requests.
    #[must_use]
    pub fn creates(&self) -> usize {
        self.count_commands(|action| {
            matches!(
                action,
                Action::Cloud {
                    action: CloudAction::Create { .. },
                    ..
                }
            )
        })
    }

    /// Number of destroy requests.
    #[must_use]
    pub fn destroys(&self) -> usize {
        self.count_commands(|action| {
            matches!(
                action,
                Action::Cloud {
                    action: CloudAction::Destroy { .. },
                    ..
                }
            )
        })
    }

    /// Number of unlock requests.
    #[must_use]
    pub fn unlocks(&self) -> usize {
        self.count_commands(|action| matches!(action, Action::Queue(QueueAction::Unlock { .. })))
    }

    // Assertions.

    /// Asserts that the container is Complete.
    ///
    /// # Panics
    /// If the container is in another state.
    #[track_caller]
    pub fn assert_complete(&self, id: ContainerId) {
        self.assert_state(id, ContainerState::Complete);
    }

    /// Asserts the state of the container.
    ///
    /// # Panics
    /// If the container is in another state.
    #[track_caller]
    pub fn assert_state(&self, id: ContainerId, state: ContainerState) {
        let found = self.state(id);
        assert_eq!(found, Some(state), "{}", self.explain(id));
    }

    /// Asserts that the container is Cancelled with an error text containing `words`.
    ///
    /// # Panics
    /// If the state or the error text is different.
    #[track_caller]
    pub fn assert_cancelled(&self, id: ContainerId, words: &str) {
        self.assert_state(id, ContainerState::Cancelled);
        let error = self.error_of(id);
        assert!(
            error.contains(words),
            "expected {words:?} in the error text {error:?}"
        );
    }

    fn explain(&self, id: ContainerId) -> String {
        let tail = self.world.scheduler.trace.tail().join("\n");
        format!(
            "{tail}\nerror {:?}, shown {:?}",
            self.error_of(id),
            self.shown(id)
        )
    }

    /// Runs until the program of a container runs, and returns the number of the VM.
    ///
    /// # Panics
    /// If the program is not running within ten minutes.
    #[track_caller]
    pub fn until_running(&mut self, id: ContainerId) -> usize {
        self.run_until("the program runs", minutes(10), |story| {
            story.runs_on(id).is_some()
        });
        self.runs_on(id).expect("program runs")
    }

    /// Submits a container and runs until its program runs. Returns the container and the number of
    /// the VM.
    #[track_caller]
    pub fn running(&mut self, demand: Demand, runs: Duration) -> (ContainerId, usize) {
        let id = self.submit_as(demand, 500, runs);
        (id, self.until_running(id))
    }
}

/// Handle of one VM, for injection of failures.
#[derive(Debug)]
pub struct VmHand<'a> {
    story: &'a mut Story,
    id: InstanceId,
}
