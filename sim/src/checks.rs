//! Checks: rules on the inputs, commands, events and state of the core. A broken rule is a bug of the
//! core.
//!
//! Each check is a struct in a file of its own, with the state needed by the check, and implements
//! [`Check`]. Facts needed by several checks are in the [`ledger`]. A new check needs a file and a
//! line in [`Checks::all`].

mod arrivals;
mod budgets;
mod call_bounds;
mod check;
mod commands;
mod events;
mod ledger;
mod limits;
mod memory_bounds;
mod preconditions;
mod probe_fairness;
mod rates;
mod retries;
mod runners;
mod scheduling_timeout;
mod shutdown_reasons;
mod tags;
mod terminations;
mod user_processes;
mod vague_reasons;
mod wait_reasons;

use longshore_core::input::Input;

use crate::world::World;
use crate::world::observation::{Findings, Observation, Observer};
use check::{Check, Context, Look};
use ledger::Ledgers;

/// All checks of a run, with the ledgers of the dispatcher processes.
#[derive(Debug)]
pub(crate) struct Checks {
    ledgers: Ledgers,
    all: Vec<Box<dyn Check>>,
}

impl Checks {
    /// Every check, in the order of the reports on one observation.
    pub(crate) fn all() -> Box<Self> {
        Box::new(Self {
            ledgers: Ledgers::default(),
            all: vec![
                Box::<events::Events>::default(),
                Box::<shutdown_reasons::ShutdownReasons>::default(),
                Box::<wait_reasons::WaitReasons>::default(),
                Box::<memory_bounds::MemoryBounds>::default(),
                Box::<vague_reasons::VagueReasons>::default(),
                Box::<retries::Retries>::default(),
                Box::<terminations::Terminations>::default(),
                Box::<runners::Runners>::default(),
                Box::<rates::Rates>::default(),
                Box::<probe_fairness::ProbeFairness>::default(),
                Box::<tags::Tags>::default(),
                Box::<budgets::Budgets>::default(),
                Box::<scheduling_timeout::SchedulingTimeout>::default(),
                Box::<call_bounds::CallBounds>::default(),
                Box::<commands::Commands>::default(),
                Box::<arrivals::Arrivals>::default(),
                Box::<preconditions::Preconditions>::default(),
                Box::<limits::Limits>::default(),
                Box::<user_processes::UserProcesses>::default(),
            ],
        })
    }
}

impl Observer for Checks {
    fn observe(&mut self, world: &World, observation: Observation<'_>, findings: &mut Findings) {
        let process = process_of(observation);
        let at = Context {
            world,
            process,
            ledger: &self.ledgers.of[process],
            ledgers: &self.ledgers,
        };
        let checks = self.all.iter_mut();
        match observation {
            Observation::Begin { .. } => checks.for_each(|check| check.on_begin(&at)),
            Observation::Input { input, .. } => input_taken(checks, &at, input, findings),
            Observation::Timeout { .. } => {}
            Observation::Command { command, .. } => {
                checks.for_each(|check| check.on_command(&at, command, findings));
            }
            Observation::Event { event, .. } => {
                checks.for_each(|check| check.on_event(&at, event, findings));
            }
            Observation::Arrival { from, command } => {
                checks.for_each(|check| check.on_arrival(&at, from, command, findings));
            }
            Observation::ProgramStart {
                container,
                runner,
                other,
            } => {
                checks.for_each(|check| {
                    check.on_program_start(&at, container, runner, other, findings);
                });
            }
            Observation::IdReused { instance } => {
                checks.for_each(|check| check.on_id_reused(instance));
            }
            Observation::Look => {
                let core = world.processes.all[0].core.as_ref();
                let look = core.map(Look::of);
                checks.for_each(|check| check.on_look(&at, look.as_ref(), findings));
            }
            Observation::AtRest => checks.for_each(|check| check.on_rest(&at, findings)),
        }
        self.ledgers.record(world, observation);
    }
}

/// Process concerned by an observation; 0 for observations of the whole world.
fn process_of(observation: Observation<'_>) -> usize {
    match observation {
        Observation::Begin { process }
        | Observation::Input { process, .. }
        | Observation::Timeout { process }
        | Observation::Command { process, .. }
        | Observation::Event { process, .. } => process,
        Observation::Arrival { from, .. } => from.process,
        Observation::ProgramStart { .. }
        | Observation::IdReused { .. }
        | Observation::Look
        | Observation::AtRest => 0,
    }
}

fn input_taken<'a>(
    checks: impl Iterator<Item = &'a mut Box<dyn Check>>,
    at: &Context<'_>,
    input: &Input,
    findings: &mut Findings,
) {
    let leadership = match input {
        Input::Leadership { held } if *held != at.ledger.leader => Some(*held),
        _ => None,
    };
    let answered = match input {
        Input::Answer { id, answer } => at.ledger.open(*id).map(|open| (open, answer)),
        _ => None,
    };
    for check in checks {
        check.on_input(at, input);
        if let Some(held) = leadership {
            check.on_leadership_change(at, held);
        }
        if let Some((open, answer)) = answered {
            check.on_answer(at, open, answer, findings);
        }
    }
}
