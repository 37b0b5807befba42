//! World of a run: all simulated parts, and the loop over scheduled events.

pub(crate) mod cloud;
pub(crate) mod core_hook;
pub(crate) mod coverage;
pub(crate) mod dense_map;
pub(crate) mod draw_config;
pub(crate) mod events;
pub(crate) mod faults;
pub(crate) mod history;
pub(crate) mod observation;
pub(crate) mod operator;
pub(crate) mod plan;
pub(crate) mod preemption;
pub(crate) mod process;
mod process_life;
pub(crate) mod queue;
pub(crate) mod rng;
pub(crate) mod runner;
pub(crate) mod scheduler;
pub(crate) mod trace;
pub(crate) mod users;
pub(crate) mod vm;
pub(crate) mod workload;

use std::time::Duration;

use longshore_core::command::{Action, Command, QueueAction, VmAction};
use longshore_core::event::Event;
use longshore_core::ids::ContainerId;
use longshore_core::input::{ContainerState, Input};
use longshore_core::time::Timestamp;

use crate::world::cloud::Cloud;
use crate::world::events::{CloudStep, Happening, OperatorStep, Origin, ProcessStep, QueueStep};
use crate::world::faults::{Fault, Faults};
use crate::world::observation::{Observation, Observer};
use crate::world::operator::{OperatorPart, OperatorView, operator_view};
use crate::world::plan::Plan;
use crate::world::process::Processes;
use crate::world::process_life::PROCESS_TICK;
use crate::world::queue::Queue;
use crate::world::runner::{RunnerOutcome, Runners};
use crate::world::scheduler::Scheduler;
use crate::world::trace::{Line, Trace};
use crate::world::users::Users;
use crate::world::vm::{VmCall, Vms};

/// World around the unmodified core.
#[derive(Debug)]
pub struct World {
    pub(crate) scheduler: Scheduler,
    pub(crate) cloud: Cloud,
    pub(crate) vms: Vms,
    pub(crate) runners: Runners,
    pub(crate) queue: Queue,
    pub(crate) users: Users,
    pub(crate) operator: OperatorPart,
    pub(crate) processes: Processes,
    pub(crate) plan: Plan,
    /// End of the time with several acting processes, plus a margin. Until then only the queue's
    /// guard prevents double runs.
    pub(crate) rivals_until: Timestamp,
    pub(crate) happened: u64,
    /// Time taken to come to rest after the end of faults, and the time allowed.
    pub(crate) rested: Option<(Duration, Duration)>,
    pub(crate) over: Over,
    /// Observer of the run; absent only while it observes.
    observer: Option<Box<dyn Observer>>,
    /// Commands and events of a story, for assertions; not kept in drawn runs.
    pub(crate) history: Option<history::History>,
}

/// Interval between expensive checks; one more interval for each thousand open containers and live
/// instances.
const LOOK: Duration = Duration::from_secs(20);
const LOOK_MAX: Duration = Duration::from_secs(600);

/// Work finished by the end of faults.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Over {
    /// Sum of the run times of finished containers.
    pub(crate) work: Duration,
    pub(crate) containers: u64,
}

impl World {
    /// Creates a world at the start of a run.
    pub(crate) fn new(plan: Plan, trace: Trace, observer: Box<dyn Observer>) -> Self {
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
            scheduler: Scheduler::new(faults, trace),
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
            observer: Some(observer),
            history: None,
        };
        world.processes.core_hook = world.plan.core_hook.clone();
        world.begin();
        world
    }

    fn begin(&mut self) {
        let scheduler = &mut self.scheduler;
        let soon = Duration::ZERO;
        scheduler.after(soon, Happening::Process(0, ProcessStep::Restart));
        scheduler.after(PROCESS_TICK, Happening::Process(0, ProcessStep::Tick));
        scheduler.after(PROCESS_TICK, Happening::Cloud(CloudStep::Tick));
        scheduler.after(PROCESS_TICK, Happening::Queue(Box::new(QueueStep::Tick)));
        scheduler.after(PROCESS_TICK, Happening::Operator(OperatorStep::Tick));
        scheduler.after(LOOK, Happening::Look);
        self.users.begin(scheduler);
        if let Some(after) = self.plan.faults_stop_after {
            scheduler.after(after, Happening::StopFaults);
        }
    }

    /// Handles the next scheduled event; false if no event is left.
    pub(crate) fn step(&mut self) -> bool {
        let Some(what) = self.scheduler.pop() else {
            return false;
        };
        self.happened += 1;
        match what {
            Happening::Arrive(from, command) => self.arrive(from, &command),
            Happening::Deliver(to, input) => self.deliver(to, *input),
            Happening::Process(index, step) => self.process_step(index, step),
            Happening::Cloud(step) => self.cloud.step(&mut self.scheduler, step),
            Happening::Vm(step) => self.vms.step(&mut self.scheduler, &mut self.runners, *step),
            Happening::Runner(id, step) => {
                let (scheduler, queue) = (&mut self.scheduler, &mut self.queue);
                match self.runners.step(scheduler, queue, id, &step) {
                    Some(RunnerOutcome::StaleLock {
                        instance,
                        container,
                        until,
                    }) => self.vms.leave_stale(&instance, container, until),
                    Some(RunnerOutcome::ProgramStart { container, other }) => {
                        self.observe(Observation::ProgramStart {
                            container,
                            runner: id,
                            other,
                        });
                    }
                    None => {}
                }
            }
            Happening::Queue(step) => {
                if self.queue.step(&mut self.scheduler, *step) {
                    self.tell_all(&Input::QueueChanged);
                }
            }
            Happening::Users(step) => {
                self.users.step(&mut self.scheduler, &mut self.queue, &step);
            }
            Happening::Operator(step) => self.operator_step(step),
            Happening::VmEnds(id) => {
                self.vms.end(&mut self.scheduler, &mut self.runners, &id);
            }
            Happening::StopFaults => self.stop_faults(),
            Happening::Look => {
                let crowd = (self.queue.open + self.cloud.alive) / 1000;
                let crowd = u32::try_from(crowd).unwrap_or(u32::MAX);
                let pause = LOOK.saturating_mul(crowd.saturating_add(1));
                self.scheduler.after(pause.min(LOOK_MAX), Happening::Look);
                self.observe(Observation::Look);
            }
        }
        true
    }

    /// Ends faults: no new faults from now on; outages are repaired, permanent damage stays.
    fn stop_faults(&mut self) {
        self.scheduler.note(|| "the world heals".to_owned());
        self.scheduler.faults.stop();
        self.cloud.end_outages();
        self.queue.end_outages();
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
        self.observe(Observation::Arrival { from, command });
        match &command.action {
            Action::Queue(action) => {
                self.queue.execute(&mut self.scheduler, from, id, action);
            }
            Action::Cloud { action, .. } => {
                self.cloud.execute(&mut self.scheduler, from, id, action);
                for instance in std::mem::take(&mut self.cloud.reborn) {
                    let instance = &instance;
                    self.observe(Observation::IdReused { instance });
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
                self.vms
                    .execute(&mut self.scheduler, &mut self.runners, &call);
            }
        }
    }

    /// Sets the priority of the container to 0 at the very moment of a lock, unlock or start, if
    /// the fault `CancelledAtWorst` strikes.
    fn cancel_at_worst(&mut self, action: &Action) {
        let id = match action {
            Action::Queue(QueueAction::Lock { id } | QueueAction::Unlock { id }) => id,
            Action::Vm {
                action: VmAction::Start { container, .. },
                ..
            } => container,
            _ => return,
        };
        if self.users.loses_patience(&mut self.scheduler) {
            self.queue.set_priority(&mut self.scheduler, *id, 0);
        }
    }

    fn deliver(&mut self, to: Origin, input: Input) {
        if self.processes.origin(to.process) != to {
            return;
        }
        let stalled_until = self.processes.all[to.process].stalled_until;
        if self.scheduler.now < stalled_until {
            let later = Happening::Deliver(to, Box::new(input));
            return self.scheduler.at(stalled_until, later);
        }
        let (process, heard) = (to.process, &input);
        self.observe(Observation::Input {
            process,
            input: heard,
        });
        self.processes.hear(&mut self.scheduler, to.process, input);
        let processes = &mut self.processes;
        if self
            .scheduler
            .faults
            .strikes(&mut processes.rng, Fault::DrainsLate)
        {
            let process = &mut processes.all[to.process];
            if !std::mem::replace(&mut process.drain_due, true) {
                let pause = processes.rng.millis(1, 400);
                let drain = ProcessStep::Drain(to.incarnation);
                self.scheduler
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

    /// Drains all commands and events of a core.
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
        self.trace_state(index);
        self.processes.set_alarm(&mut self.scheduler, index);
    }

    /// Handles an event emitted by a process.
    fn tells(&mut self, index: usize, event: Event) {
        self.observe(Observation::Event {
            process: index,
            event: &event,
        });
        if let Some(history) = &mut self.history {
            history.events.push((self.scheduler.now, event.clone()));
        }
        let scheduler = &mut self.scheduler;
        let now = self.processes.all[index].clock(scheduler.now);
        scheduler.trace.line(now, || Line::Event {
            process: index,
            event,
        });
    }

    /// Writes the hash of the state of the core to a full trace.
    fn trace_state(&mut self, index: usize) {
        let scheduler = &mut self.scheduler;
        if !scheduler.trace.is_full() {
            return;
        }
        if let Some(core) = &self.processes.all[index].core {
            let hash = core.state_hash();
            let (process, now) = (index, self.processes.all[index].clock(scheduler.now));
            scheduler.trace.line(now, || Line::State { process, hash });
        }
    }

    /// Sends a command; true if the process crashes at the command.
    fn issue(&mut self, index: usize, mut command: Command) -> bool {
        let process = &self.processes.all[index];
        let scheduler = &mut self.scheduler;
        scheduler
            .trace
            .line(process.clock(scheduler.now), || Line::Command {
                process: index,
                command: command.clone(),
            });
        command.deadline = process.world_time(command.deadline);
        self.observe(Observation::Command {
            process: index,
            command: &command,
        });
        if let Some(history) = &mut self.history {
            history
                .commands
                .push((self.scheduler.now, command.action.clone()));
        }
        let from = self.processes.origin(index);
        let scheduler = &mut self.scheduler;
        let rng = &mut self.processes.rng;
        let dies = scheduler.faults.strikes(rng, Fault::CrashAtCommand);
        if !dies || rng.one_in(2) {
            let pause = rng.millis(1, 60);
            scheduler.after(pause, Happening::Arrive(from, Box::new(command)));
        }
        if dies {
            self.crash(index);
        }
        dies
    }

    fn operator_step(&mut self, step: OperatorStep) {
        let operator_view = match &self.processes.all[0].core {
            Some(core) => operator_view(&core.view()),
            None => OperatorView::default(),
        };
        let wishes = self
            .operator
            .step(&mut self.scheduler, step, &operator_view);
        for wish in wishes {
            let to = self.processes.origin(0);
            if self.processes.all[0].core.is_some() {
                self.deliver(to, Input::OperatorRequest(wish));
            }
        }
    }

    /// True if the run is complete: no work left, no VM left, nothing kept in memory.
    pub(crate) fn is_done(&self) -> bool {
        let waits = |(_, record): (&ContainerId, &crate::world::queue::Record)| {
            record.state != ContainerState::Queued || record.priority > 0
        };
        // Cheap conditions first, because of the frequent calls.
        self.cloud.alive == 0
            && self.users.idle()
            && !self.queue.open_records().any(waits)
            && self.processes.all[0].core.as_ref().is_some_and(|core| {
                let view = core.view();
                view.instances().is_empty() && view.containers().is_empty()
            })
    }
}
