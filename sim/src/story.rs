//! The language of stories: a healthy world, in which one thing after another goes wrong.
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

/// So many seconds.
#[must_use]
pub const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// So many minutes.
#[must_use]
pub const fn minutes(count: u64) -> Duration {
    Duration::from_secs(count * 60)
}

/// A container that needs so many cores and half a GiB.
#[must_use]
pub fn cores(count: u32) -> Demand {
    Demand {
        vcpus: count,
        ram: 512 * MIB,
        ..Demand::default()
    }
}

/// A world that does what its author says. Every rule is checked all along; a broken one ends the
/// story with its last lines.
#[derive(Debug)]
pub struct Story {
    world: World,
}

impl Story {
    /// A healthy world with five types: small, medium, large and huge with 1, 2, 4 and 8 cores, and
    /// a preemptible one with 4.
    #[must_use]
    pub fn begin() -> Self {
        Self::with(|_| {})
    }

    /// The same with another configuration.
    #[must_use]
    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut plan = Plan::calm(1);
        change(&mut plan.config);
        Self::of(plan)
    }

    /// Lets so much time pass.
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

    /// Lets time pass until something is so.
    ///
    /// # Panics
    /// If it is not within `span`, or a rule is broken.
    #[track_caller]
    pub fn run_until(&mut self, what: &str, span: Duration, test: impl Fn(&Self) -> bool) {
        let end = self.world.scheduler.now + span;
        while !test(self) {
            let tail = || self.world.scheduler.trace.tail().join("\n");
            assert!(
                self.world.scheduler.now < end,
                "{}\nnot within {span:?}: {what}",
                tail()
            );
            self.run_for(Duration::from_millis(50));
        }
    }

    // What users do.

    /// Submits a container of priority 500 that runs for five minutes.
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

    /// Submits what was recorded, now, whatever the times in it say, but in their order.
    pub fn submit_recorded(&mut self, arrivals: &[Arrival]) -> Vec<ContainerId> {
        let world = &mut self.world;
        let submitted = arrivals
            .iter()
            .map(|arrival| world.queue.submit_as(&mut world.scheduler, arrival));
        submitted.collect()
    }

    /// Submits a container whose record makes no sense.
    pub fn submit_malformed(&mut self) -> ContainerId {
        let world = &mut self.world;
        let wrong = Err("mounts: expected an object, found a list".to_owned());
        world
            .queue
            .submit(&mut world.scheduler, wrong, 500, minutes(5))
    }

    /// Changes a priority.
    pub fn set_priority(&mut self, id: ContainerId, priority: u64) {
        let world = &mut self.world;
        world.queue.set_priority(&mut world.scheduler, id, priority);
    }

    /// Deletes a record from the database.
    pub fn delete(&mut self, id: ContainerId) {
        let world = &mut self.world;
        world.queue.delete(&mut world.scheduler, id);
    }

    // What operators do.

    /// Sets what a VM is for.
    pub fn set_behavior(&mut self, vm: usize, behavior: IdleBehavior) {
        let instance = self.vm_id(vm);
        self.tell(OperatorRequest::SetIdleBehavior { instance, behavior });
    }

    /// Keeps a VM.
    pub fn hold(&mut self, vm: usize) {
        self.set_behavior(vm, IdleBehavior::Hold);
    }

    /// Drains a VM.
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

    /// Takes over another configuration.
    pub fn reconfigure(&mut self, change: impl FnOnce(&mut Config)) {
        let mut config = self.world.processes.all[0].config.clone();
        change(&mut config);
        self.world.reconfigure(config);
    }

    // What goes wrong.

    /// The next so many occasions for this fault strike.
    pub fn strike(&mut self, fault: Fault, times: u32) {
        self.world.scheduler.faults.script(fault, times);
    }

    /// The dispatcher dies now and comes back within half a minute.
    pub fn restart(&mut self) {
        self.world.crash(0);
        self.run_for(seconds(30));
    }

    /// The dispatcher's host stands still for so long: what comes meanwhile is heard afterwards.
    pub fn stand_still(&mut self, span: Duration) {
        let until = self.world.scheduler.now + span;
        self.world.processes.all[0].stalled_until = until;
    }

    /// The dispatcher may not act for so long.
    pub fn lose_leadership(&mut self, pause: Duration) {
        self.world.lose_leadership(pause);
    }

    /// The queue cannot put back what was running: it ends it, as the peer's does.
    pub fn cannot_requeue(&mut self) {
        self.world.queue.requeues = false;
    }

    /// The account may have so many instances of a quota group.
    pub fn set_quota(&mut self, group: &str, max: u32) {
        let group = QuotaGroup::from(group);
        self.world.cloud.quota.insert(group, max);
    }

    /// The cloud has so many instances of a type.
    pub fn set_capacity(&mut self, type_name: &str, max: u32) {
        let name = TypeName::from(type_name);
        self.world.cloud.capacity.insert(name, max);
    }

    /// The cloud takes one create each `interval`, after a burst.
    pub fn throttle_creates(&mut self, interval: Duration, burst: u32) {
        self.world.cloud.create_throttle = Some(Throttle {
            interval,
            burst,
            full_at: Timestamp::EPOCH,
        });
    }

    /// The nth VM that was ever made, from 0.
    ///
    /// # Panics
    /// If there is none, or it is gone.
    #[track_caller]
    pub fn vm(&mut self, number: usize) -> VmHand<'_> {
        let id = self.vm_id(number);
        assert!(self.world.cloud.is_alive(&id), "{id} is gone");
        VmHand { story: self, id }
    }

    #[track_caller]
    fn vm_id(&self, number: usize) -> InstanceId {
        let made = &self.world.cloud.made;
        assert!(number < made.len(), "only {} VMs were made", made.len());
        made[number].clone()
    }

    // What can be asked.

    /// The time since the story began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.world.scheduler.elapsed()
    }

    /// A container's state in the queue; none if it is deleted.
    #[must_use]
    pub fn state(&self, id: ContainerId) -> Option<ContainerState> {
        self.world.queue.state(id)
    }

    /// Whether it is Complete or Cancelled.
    #[must_use]
    pub fn has_ended(&self, id: ContainerId) -> bool {
        self.state(id).is_some_and(ContainerState::is_final)
    }

    /// What its owner reads.
    #[must_use]
    pub fn error_of(&self, id: ContainerId) -> String {
        let record = self.world.queue.records.get(&id);
        record.and_then(|r| r.error.clone()).unwrap_or_default()
    }

    /// What its owner reads while it is not over.
    #[must_use]
    pub fn warning_of(&self, id: ContainerId) -> String {
        let record = self.world.queue.records.get(&id);
        let warning = record.and_then(|r| r.warning.clone());
        warning.unwrap_or_default()
    }

    /// How often it was locked.
    #[must_use]
    pub fn lock_count(&self, id: ContainerId) -> u32 {
        let record = self.world.queue.records.get(&id);
        record.map(|r| r.lock_count).unwrap_or_default()
    }

    /// The VM, by its number, on which a container's program really runs.
    #[must_use]
    pub fn runs_on(&self, id: ContainerId) -> Option<usize> {
        let vm = self.world.runners.program_on(id)?;
        self.world.cloud.made.iter().position(|made| made == vm)
    }

    /// Whether any runner of a container is alive anywhere.
    #[must_use]
    pub fn has_runner(&self, id: ContainerId) -> bool {
        !self.world.runners.vms_of(id).is_empty()
    }

    /// VMs that exist now.
    #[must_use]
    pub fn vms(&self) -> usize {
        self.world.cloud.alive
    }

    /// VMs that were ever made.
    #[must_use]
    pub fn vms_made(&self) -> usize {
        self.world.cloud.made.len()
    }

    /// Whether the nth VM is gone.
    #[must_use]
    pub fn is_gone(&self, vm: usize) -> bool {
        !self.world.cloud.is_alive(&self.vm_id(vm))
    }

    /// The nth VM's type.
    #[must_use]
    pub fn type_of(&self, vm: usize) -> String {
        let instance = self.world.cloud.instances.get(&self.vm_id(vm));
        instance
            .map(|i| i.type_name.to_string())
            .unwrap_or_default()
    }

    /// What the dispatcher shows of a container.
    #[must_use]
    pub fn shown(&self, id: ContainerId) -> Option<ContainerView> {
        let core = self.world.processes.all[0].core.as_ref()?;
        core.view().container(id)
    }

    /// What the dispatcher shows of the nth VM.
    #[must_use]
    pub fn shown_vm(&self, vm: usize) -> Option<InstanceView> {
        let core = self.world.processes.all[0].core.as_ref()?;
        core.view().instance(&self.vm_id(vm))
    }

    /// What the dispatcher shows of its budgets.
    #[must_use]
    pub fn budgets(&self) -> Vec<BudgetLeft> {
        let core = self.world.processes.all[0].core.as_ref();
        core.map(|core| core.view().budgets()).unwrap_or_default()
    }

    /// How many containers may run, while the queue's strength limits that.
    #[must_use]
    pub fn containers_max(&self) -> Option<u32> {
        let core = self.world.processes.all[0].core.as_ref()?;
        core.view().containers_max()
    }

    /// The world's time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.world.scheduler.now
    }

    /// All events so far, with their times.
    ///
    /// # Panics
    /// Never: every story keeps a history.
    #[must_use]
    pub fn events(&self) -> Vec<&Event> {
        let history = self.world.history.as_ref().expect("stories keep a history");
        history.events.iter().map(|(_, event)| event).collect()
    }

    /// How many events so far pass a test.
    #[must_use]
    pub fn count_events(&self, test: impl Fn(&Event) -> bool) -> usize {
        self.events()
            .into_iter()
            .filter(|event| test(event))
            .count()
    }

    /// How many commands so far pass a test.
    ///
    /// # Panics
    /// Never: every story keeps a history.
    #[must_use]
    pub fn count_commands(&self, test: impl Fn(&Action) -> bool) -> usize {
        let history = self.world.history.as_ref().expect("stories keep a history");
        let commands = history.commands.iter();
        commands.filter(|(_, action)| test(action)).count()
    }

    /// When each command that passes a test was sent, since the story began.
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

    /// Starts of a container that were asked for.
    #[must_use]
    pub fn starts_of(&self, id: ContainerId) -> usize {
        self.count_commands(|action| {
            matches!(action, Action::Vm { action: VmAction::Start { container, .. }, .. } if *container == id)
        })
    }

    /// Creates that were asked for.
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

    /// Destroys that were asked for.
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

    /// Unlocks that were asked for.
    #[must_use]
    pub fn unlocks(&self) -> usize {
        self.count_commands(|action| matches!(action, Action::Queue(QueueAction::Unlock { .. })))
    }

    // What must be so.

    /// It completed.
    ///
    /// # Panics
    /// If it did not.
    #[track_caller]
    pub fn assert_complete(&self, id: ContainerId) {
        self.assert_state(id, ContainerState::Complete);
    }

    /// It is in this state.
    ///
    /// # Panics
    /// If it is not.
    #[track_caller]
    pub fn assert_state(&self, id: ContainerId, state: ContainerState) {
        let found = self.state(id);
        assert_eq!(found, Some(state), "{}", self.explain(id));
    }

    /// It was cancelled, and its owner reads this.
    ///
    /// # Panics
    /// If it was not, or reads something else.
    #[track_caller]
    pub fn assert_cancelled(&self, id: ContainerId, words: &str) {
        self.assert_state(id, ContainerState::Cancelled);
        let error = self.error_of(id);
        assert!(error.contains(words), "its owner reads {error:?}");
    }

    fn explain(&self, id: ContainerId) -> String {
        let tail = self.world.scheduler.trace.tail().join("\n");
        format!(
            "{tail}\nerror {:?}, shown {:?}",
            self.error_of(id),
            self.shown(id)
        )
    }

    /// Runs until a container's program runs; the VM's number.
    ///
    /// # Panics
    /// If it does not within ten minutes.
    #[track_caller]
    pub fn until_running(&mut self, id: ContainerId) -> usize {
        self.run_until("it runs", minutes(10), |story| story.runs_on(id).is_some());
        self.runs_on(id).expect("just seen")
    }

    /// A running container on a VM of its own: container and VM.
    #[track_caller]
    pub fn running(&mut self, demand: Demand, runs: Duration) -> (ContainerId, usize) {
        let id = self.submit_as(demand, 500, runs);
        (id, self.until_running(id))
    }
}

/// A hand on one VM.
#[derive(Debug)]
pub struct VmHand<'a> {
    story: &'a mut Story,
    id: InstanceId,
}
