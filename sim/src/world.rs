//! The world: all parts on one stage, and the loop that lets them happen.

use std::time::Duration;

use longshore_core::command::{Action, Command, QueueAction, VmAction};
use longshore_core::config::Config;
use longshore_core::event::Event;
use longshore_core::ids::{ContainerId, InstanceId};
use longshore_core::input::{ContainerState, IdleBehavior, Input, OperatorRequest};
use longshore_core::time::Timestamp;

use crate::cloud::{Cloud, CloudStep};
use crate::faults::{Fault, Faults};
use crate::knobs::draw_knobs_again;
use crate::marks::Mark;
use crate::operator::{OperatorPart, OperatorStep, Sight};
use crate::process::{ProcessStep, Processes};
use crate::profile::Plan;
use crate::queue::{Queue, QueueStep};
use crate::reasons::Facts;
use crate::rules::Memory;
use crate::runner::Runners;
use crate::stage::{Happening, Origin, Stage};
use crate::thrift::Thrift;
use crate::trace::{Line, Trace};
use crate::users::Users;
use crate::vigil::Vigil;
use crate::vm::{VmCall, Vms};

/// A world in which the unmodified core runs.
#[derive(Debug)]
pub struct World {
    pub(crate) stage: Stage,
    pub(crate) cloud: Cloud,
    pub(crate) vms: Vms,
    pub(crate) runners: Runners,
    pub(crate) queue: Queue,
    pub(crate) users: Users,
    pub(crate) operator: OperatorPart,
    pub(crate) processes: Processes,
    pub(crate) plan: Plan,
    /// Several processes act at once, or did so shortly before this: only the queue's guard protects.
    pub(crate) rivals_until: Timestamp,
    pub(crate) happened: u64,
    /// How long it took to come to rest after it had healed, and how long it might have taken.
    pub(crate) rested: Option<(Duration, Duration)>,
    pub(crate) over: Over,
    pub(crate) memory: Memory,
    pub(crate) facts: Facts,
    pub(crate) vigil: Vigil,
    pub(crate) thrift: Thrift,
    /// Commands and events of a story, for its questions; not kept in drawn runs.
    pub(crate) diary: Option<crate::story::Diary>,
}

/// Between two looks of the oracles that are too dear for every event, and as much more for each
/// thousand containers and instances that are there to be looked at.
const LOOK: Duration = Duration::from_secs(20);
const LOOK_MAX: Duration = Duration::from_secs(600);
/// So long after the reign of a second process everything that it has asked for has been done, and is
/// known to the one that is left: longer than any command's deadline, a late answer or a late start,
/// and than two looks at everything. What it has started is excused for good.
const RIVALS_LAST: Duration = Duration::from_secs(15 * 60);
const PROCESS_TICK: Duration = Duration::from_secs(60);

/// What was over when the world healed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Over {
    /// The run times of what had ended, in all.
    pub(crate) work: Duration,
    pub(crate) containers: u64,
}

impl World {
    /// A world in which nothing has happened yet.
    pub(crate) fn new(plan: Plan, trace: Trace) -> Self {
        let seed = plan.seed;
        let faults = Faults::new(&plan.faults, plan.fault_budget);
        let mut cloud = Cloud::new(seed, plan.config.types.clone());
        cloud.quota.clone_from(&plan.quota);
        cloud.create_millis = plan.create_millis;
        let mut vms = Vms::new(seed);
        vms.boot_secs = plan.boot_secs;
        let mut queue = Queue::new(seed);
        queue.pushes = plan.pushes;
        queue.requeues = plan.requeues;
        queue.attempts_max = plan.attempts_max;
        let mut world = Self {
            stage: Stage::new(faults, trace),
            cloud,
            vms,
            runners: Runners::new(seed),
            queue,
            users: Users::new(seed, plan.workloads.clone()),
            operator: OperatorPart::new(seed),
            processes: Processes::new(seed, &plan.config),
            plan,
            rivals_until: Timestamp::EPOCH,
            happened: 0,
            rested: None,
            over: Over::default(),
            memory: Memory::default(),
            facts: Facts::default(),
            vigil: Vigil::default(),
            thrift: Thrift::default(),
            diary: None,
        };
        world.processes.tamper = world.plan.tamper.clone();
        world.begin();
        world
    }

    fn begin(&mut self) {
        let stage = &mut self.stage;
        let soon = Duration::ZERO;
        stage.after(soon, Happening::Process(0, ProcessStep::Restart));
        stage.after(PROCESS_TICK, Happening::Process(0, ProcessStep::Tick));
        stage.after(PROCESS_TICK, Happening::Cloud(CloudStep::Tick));
        stage.after(PROCESS_TICK, Happening::Queue(Box::new(QueueStep::Tick)));
        stage.after(PROCESS_TICK, Happening::Operator(OperatorStep::Tick));
        stage.after(LOOK, Happening::Look);
        self.users.begin(stage);
        if let Some(after) = self.plan.heals_after {
            stage.after(after, Happening::Heal);
        }
    }

    /// Lets the next thing happen; false if nothing will ever happen again.
    pub(crate) fn step(&mut self) -> bool {
        let Some(what) = self.stage.pop() else {
            return false;
        };
        self.happened += 1;
        match what {
            Happening::Arrive(from, command) => self.arrive(from, &command),
            Happening::Deliver(to, input) => self.deliver(to, *input),
            Happening::Process(index, step) => self.process_step(index, step),
            Happening::Cloud(step) => self.cloud.step(&mut self.stage, step),
            Happening::Vm(step) => self.vms.step(&mut self.stage, &mut self.runners, *step),
            Happening::Runner(id, step) => {
                let (stage, queue, vms) = (&mut self.stage, &mut self.queue, &mut self.vms);
                self.runners.step(stage, queue, vms, id, &step);
            }
            Happening::Queue(step) => {
                if self.queue.step(&mut self.stage, *step) {
                    self.tell_all(&Input::QueueChanged);
                }
            }
            Happening::Users(step) => {
                self.users.step(&mut self.stage, &mut self.queue, &step);
            }
            Happening::Operator(step) => self.operator_step(step),
            Happening::VmEnds(id) => {
                self.vms.end(&mut self.stage, &mut self.runners, &id);
            }
            Happening::Heal => self.heal(),
            Happening::Look => {
                let crowd = (self.queue.open + self.cloud.alive) / 1000;
                let crowd = u32::try_from(crowd).unwrap_or(u32::MAX);
                let pause = LOOK.saturating_mul(crowd.saturating_add(1));
                self.stage.after(pause.min(LOOK_MAX), Happening::Look);
                self.look();
                self.vigil_looks();
                self.thrift_looks();
            }
        }
        true
    }

    /// From here on nothing new goes wrong, and what is wrong is mended or stays as it is for good.
    fn heal(&mut self) {
        self.stage.note(|| "the world heals".to_owned());
        self.stage.faults.heal();
        self.cloud.heal();
        self.queue.heal();
        self.users.stop(&mut self.queue);
        let all = self.queue.records.iter();
        let left = all.filter(|(_, record)| !record.deleted && !record.state.is_final());
        let left: Vec<Duration> = left
            .map(|(_, record)| record.runs_for.saturating_add(record.patience))
            .collect();
        let work = left
            .iter()
            .fold(Duration::ZERO, |sum, one| sum.saturating_add(*one));
        self.over = Over {
            work: self.users.work.saturating_sub(work),
            containers: self.queue.last.saturating_sub(left.len() as u64),
        };
    }

    fn arrive(&mut self, from: Origin, command: &Command) {
        let id = command.id;
        self.cancel_at_worst(&command.action);
        match &command.action {
            Action::Queue(action) => {
                self.check_update(from, id, action);
                self.queue.execute(&mut self.stage, from, id, action);
            }
            Action::Cloud { action, .. } => {
                self.cloud.execute(&mut self.stage, from, id, action);
                for reborn in std::mem::take(&mut self.cloud.reborn) {
                    self.forget_instance(&reborn);
                }
            }
            Action::Vm {
                instance,
                address,
                action,
                ..
            } => {
                let call = VmCall {
                    from,
                    id,
                    deadline: command.deadline,
                    instance,
                    address,
                    action,
                };
                self.check_vm_call(&call);
                self.vms.execute(&mut self.stage, &mut self.runners, &call);
            }
        }
    }

    /// A user loses patience in the very moment in which something decisive is done.
    fn cancel_at_worst(&mut self, action: &Action) {
        let id = match action {
            Action::Queue(QueueAction::Lock { id } | QueueAction::Unlock { id }) => id,
            Action::Vm {
                action: VmAction::Start { container, .. },
                ..
            } => container,
            _ => return,
        };
        if self.users.loses_patience(&mut self.stage) {
            self.queue.set_priority(&mut self.stage, *id, 0);
        }
    }

    /// An instance's name was given again: what was known of its first bearer means nothing.
    fn forget_instance(&mut self, id: &InstanceId) {
        for process in &mut self.processes.all {
            process.ledger.forget(id);
        }
        self.vigil.forget(id);
        self.reasons_forget(id);
    }

    fn deliver(&mut self, to: Origin, input: Input) {
        if self.processes.origin(to.process) != to {
            return;
        }
        let stalled_until = self.processes.all[to.process].stalled_until;
        if self.stage.now < stalled_until {
            let later = Happening::Deliver(to, Box::new(input));
            return self.stage.at(stalled_until, later);
        }
        if let Input::OperatorRequest(OperatorRequest::KillContainer { container, .. }) = &input {
            self.memory.stopped.insert(*container);
        }
        self.vigil_hears(to.process, &input);
        self.thrift_hears(to.process, &input);
        self.reasons_hear(to.process, &input);
        self.processes.hear(&mut self.stage, to.process, input);
        let processes = &mut self.processes;
        if self
            .stage
            .faults
            .strikes(&mut processes.chance, Fault::DrainsLate)
        {
            let process = &mut processes.all[to.process];
            if !std::mem::replace(&mut process.drain_due, true) {
                let pause = processes.chance.millis(1, 400);
                let drain = ProcessStep::Drain(to.incarnation);
                self.stage
                    .after(pause, Happening::Process(to.process, drain));
            }
        } else if !processes.all[to.process].drain_due {
            self.drain(to.process);
        }
    }

    pub(crate) fn tell_all(&mut self, input: &Input) {
        for to in self.processes.up() {
            self.deliver(to, input.clone());
        }
    }

    /// Takes everything out of a core that it has to say.
    fn drain(&mut self, index: usize) {
        loop {
            let Some(core) = &mut self.processes.all[index].core else {
                return;
            };
            let command = core.poll_command();
            while let Some(event) = self.processes.event(index) {
                self.tells(index, event);
            }
            let Some(command) = command else { break };
            if self.issue(index, command) {
                return;
            }
        }
        self.check_state(index);
        self.processes.set_alarm(&mut self.stage, index);
    }

    /// A process tells something.
    fn tells(&mut self, index: usize, event: Event) {
        self.check_event(index, &event);
        self.vigil_event(index, &event);
        self.reasons_event(index, &event);
        self.rest_event(index, &event);
        if let Some(diary) = &mut self.diary {
            diary.events.push((self.stage.now, event.clone()));
        }
        let stage = &mut self.stage;
        let now = self.processes.all[index].clock(stage.now);
        stage.trace.line(now, || Line::Event {
            process: index,
            event,
        });
    }

    /// A command leaves; true if the process dies at that.
    fn issue(&mut self, index: usize, mut command: Command) -> bool {
        let process = &self.processes.all[index];
        let stage = &mut self.stage;
        stage
            .trace
            .line(process.clock(stage.now), || Line::Command {
                process: index,
                command: command.clone(),
            });
        command.deadline = process.world_time(command.deadline);
        self.vigil_command(index, &command);
        self.thrift_command(index, &command);
        self.check_command(index, &command);
        if let Some(diary) = &mut self.diary {
            diary
                .commands
                .push((self.stage.now, command.action.clone()));
        }
        let from = self.processes.origin(index);
        let stage = &mut self.stage;
        let chance = &mut self.processes.chance;
        let dies = stage.faults.strikes(chance, Fault::CrashAtCommand);
        if !dies || chance.one_in(2) {
            let pause = chance.millis(1, 60);
            stage.after(pause, Happening::Arrive(from, Box::new(command)));
        }
        if dies {
            self.crash(index);
        }
        dies
    }

    /// A process dies and is started again.
    pub(crate) fn crash(&mut self, index: usize) {
        if self.processes.all[index].core.is_none() {
            return;
        }
        if self.runners.programs() > 0 {
            self.stage.mark(Mark::RestartedWhileRunning);
        }
        self.processes.end(&mut self.stage, index);
        let chance = &mut self.processes.chance;
        let slow = self.stage.faults.strikes(chance, Fault::RestartSlow);
        let pause = if slow {
            chance.secs(30, 1200)
        } else {
            chance.millis(500, 20_000)
        };
        if index == 0 {
            if self
                .stage
                .faults
                .strikes(chance, Fault::RestartReconfigured)
            {
                self.processes.all[0].config = self.other_config();
            }
            self.stage
                .after(pause, Happening::Process(0, ProcessStep::Restart));
        }
    }

    fn process_step(&mut self, index: usize, step: ProcessStep) {
        let incarnation = self.processes.all[index].incarnation;
        match step {
            ProcessStep::Tick => self.process_tick(),
            ProcessStep::Wake(life) if life == incarnation && self.stalls(index) => {
                self.processes.put_off(&mut self.stage, index);
            }
            ProcessStep::Drain(life) if life == incarnation && self.stalls(index) => {
                let until = self.processes.all[index].stalled_until;
                self.stage.at(until, Happening::Process(index, step));
            }
            ProcessStep::Wake(life) if life == incarnation => {
                self.processes.wake(&mut self.stage, index);
                self.drain(index);
            }
            ProcessStep::Drain(life) if life == incarnation => {
                self.processes.all[index].drain_due = false;
                self.drain(index);
            }
            ProcessStep::Restart => {
                if self.processes.all[index].core.is_none() {
                    self.processes.begin(&mut self.stage, index);
                    self.stage.mark(Mark::Restarted);
                    let to = self.processes.origin(index);
                    self.deliver(to, Input::Leadership { held: true });
                }
            }
            ProcessStep::Leader(life, held) if life == incarnation => {
                if held {
                    self.stage.mark(Mark::LeadershipRegained);
                }
                let to = self.processes.origin(index);
                self.deliver(to, Input::Leadership { held });
            }
            ProcessStep::Retire => self.processes.end(&mut self.stage, index),
            ProcessStep::Wake(_) | ProcessStep::Drain(_) | ProcessStep::Leader(..) => {}
        }
    }

    /// Whether two processes act, or what a second one has done may still come as a surprise.
    pub(crate) fn rivals(&self) -> bool {
        self.stage.now < self.rivals_until
    }

    /// Whether a process stands still.
    pub(crate) fn stalls(&self, index: usize) -> bool {
        self.stage.now < self.processes.all[index].stalled_until
    }

    fn process_tick(&mut self) {
        let stage = &mut self.stage;
        stage.after(PROCESS_TICK, Happening::Process(0, ProcessStep::Tick));
        let strikes = |world: &mut Self, fault| {
            let chance = &mut world.processes.chance;
            world.stage.faults.strikes(chance, fault)
        };
        if strikes(self, Fault::Crash) {
            self.crash(0);
        }
        if self.processes.all[0].core.is_none() {
            return;
        }
        if !self.stalls(0) && strikes(self, Fault::Stalls) {
            let span = Duration::from_secs(self.processes.chance.uneven(1, 600));
            self.stage
                .note(|| format!("the dispatcher's host stands still for {span:?}"));
            self.processes.all[0].stalled_until = self.stage.now + span;
        }
        if strikes(self, Fault::Reconfigured) {
            let config = self.other_config();
            self.reconfigure(config);
        }
        if strikes(self, Fault::LeadershipLost) {
            let pause = self.processes.chance.secs(1, 600);
            self.lose_leadership(pause);
        } else if self.processes.all[1].core.is_none() && strikes(self, Fault::TwoLeaders) {
            let overlap = self.processes.chance.secs(1, 60);
            let reign = overlap + self.processes.chance.secs(1, 300);
            self.rivals_until = self.stage.now + reign + RIVALS_LAST;
            let life = self.processes.all[0].incarnation;
            let stage = &mut self.stage;
            stage.note(|| "a second process believes that it may act".to_owned());
            self.processes.all[1].config = self.processes.all[0].config.clone();
            stage.after(Duration::ZERO, Happening::Process(1, ProcessStep::Restart));
            let lost = ProcessStep::Leader(life, false);
            stage.after(overlap, Happening::Process(0, lost));
            stage.after(reign, Happening::Process(1, ProcessStep::Retire));
            let regained = ProcessStep::Leader(life, true);
            stage.after(reign, Happening::Process(0, regained));
        }
    }

    pub(crate) fn lose_leadership(&mut self, pause: Duration) {
        let life = self.processes.all[0].incarnation;
        let regained = ProcessStep::Leader(life, true);
        self.stage.after(pause, Happening::Process(0, regained));
        let to = self.processes.origin(0);
        self.deliver(to, Input::Leadership { held: false });
    }

    pub(crate) fn reconfigure(&mut self, config: Config) {
        let to = self.processes.origin(0);
        self.deliver(to, Input::Reconfigured(Box::new(config)));
    }

    /// Another configuration that an operator may want: a type less or more, other limits.
    fn other_config(&mut self) -> Config {
        let chance = &mut self.processes.chance;
        let mut config = self.plan.config.clone();
        let names: Vec<_> = config.types.keys().cloned().collect();
        if chance.one_in(2)
            && names.len() > 1
            && let Some(name) = chance.pick(&names)
        {
            config.types.remove(name);
            self.stage.mark(Mark::TypeRemoved);
        }
        if chance.one_in(3) {
            let max = u32::try_from(chance.between(1, 10)).ok();
            if max < config.limits.instances {
                self.stage.mark(Mark::LimitsCut);
            }
            config.limits.instances = max;
        }
        if chance.one_in(3) {
            config.timeouts.idle = chance.secs(5, 600);
        }
        if let Some(budget) = config.limits.budgets.first_mut()
            && chance.one_in(2)
        {
            budget.limit.0 *= 2;
        }
        draw_knobs_again(&mut self.processes.wishes, &mut config);
        config
    }

    fn operator_step(&mut self, step: OperatorStep) {
        let sight = match &self.processes.all[0].core {
            Some(core) => sight(&core.view()),
            None => Sight::default(),
        };
        let wishes = self.operator.step(&mut self.stage, step, &sight);
        for wish in wishes {
            let to = self.processes.origin(0);
            if self.processes.all[0].core.is_some() {
                self.deliver(to, Input::OperatorRequest(wish));
            }
        }
    }

    /// Whether everything that should happen has happened: no work left, no VM left, nothing
    /// remembered.
    pub(crate) fn is_done(&self) -> bool {
        let waits = |(_, record): (&ContainerId, &crate::queue::Record)| {
            record.state != ContainerState::Queued || record.priority > 0
        };
        // The cheap questions first: this is asked often.
        self.cloud.alive == 0
            && self.users.idle()
            && !self.queue.open_records().any(waits)
            && self.processes.all[0].core.as_ref().is_some_and(|core| {
                let view = core.view();
                view.instances().is_empty() && view.containers().is_empty()
            })
    }
}

fn sight(view: &longshore_core::view::View<'_>) -> Sight {
    let mut sight = Sight::default();
    for instance in view.instances() {
        let Some(id) = instance.instance else {
            continue;
        };
        if instance.idle_behavior == IdleBehavior::Hold {
            sight.held.push(id.clone());
        }
        sight.instances.push(id);
        sight.containers.extend(instance.containers);
    }
    sight
}
