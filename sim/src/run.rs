//! One run from its plan to its end, and what is to be said of it.

pub(crate) mod batch;
pub mod cli;
#[cfg(feature = "plan")]
mod forecast;
pub(crate) mod minimize;
mod mutate_plan;
mod output;
pub(crate) mod profile;
pub(crate) mod recorded;
pub mod reference_placement;
pub(crate) mod replay;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::world::World;
use crate::world::events::START;
use crate::world::plan::Plan;
use crate::world::scheduler::Violation;
use crate::world::trace::Trace;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// All rules held, and all came to rest.
    Ok,
    /// A rule was broken.
    Safety,
    /// Something never came to its end.
    Liveness,
}

/// What is to be said of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// What it was drawn from.
    pub seed: u64,
    /// How it ended.
    pub verdict: Verdict,
    /// The rules that were broken.
    pub violations: Vec<Violation>,
    /// What each thing that is stuck waits for.
    pub stuck: Vec<String>,
    /// The last lines before the end, readable; empty if all is well.
    pub tail: Vec<String>,
    /// How long the world took to come to rest once it had healed, and how long it might have taken;
    /// none if it never did.
    pub rest: Option<(Duration, Duration)>,
    /// Simulated time.
    pub simulated: Duration,
    /// Things that happened in the world.
    pub happened: u64,
    /// Inputs that the core took.
    pub inputs: u64,
    /// Instances at the peak, and in all.
    pub instances: (usize, u64),
    /// Containers at the peak, and in all.
    pub containers: (usize, u64),
    /// Strikes of each fault.
    pub faults: BTreeMap<&'static str, u64>,
    /// How often each mark was reached.
    pub marks: BTreeMap<&'static str, u64>,
    /// All lines as JSON, if they were wanted.
    pub trace: Vec<String>,
}

/// No run goes on for longer, whatever its plan says.
const HAPPENINGS_MAX: u64 = 2_000_000_000;

/// Runs a plan to its end; one that ends badly a second time, with its last lines kept.
#[must_use]
pub fn run(plan: &Plan, keep_trace: bool) -> Report {
    if keep_trace {
        return run_once(plan, Trace::full());
    }
    let report = run_once(plan, Trace::silent());
    if report.verdict == Verdict::Ok {
        return report;
    }
    run_once(plan, Trace::default())
}

fn run_once(plan: &Plan, trace: Trace) -> Report {
    let mut world = World::new(plan.clone(), trace);
    let ended = catch_unwind(AssertUnwindSafe(|| go_on(&mut world)));
    let verdict = match ended {
        Ok(verdict) => verdict,
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            let text = text.unwrap_or_else(|| "a panic without words".to_owned());
            world.scheduler.violate("no panics", text);
            Verdict::Safety
        }
    };
    world.report(verdict)
}

/// Lets a world go on to its end.
pub(crate) fn go_on(world: &mut World) -> Verdict {
    let chaos = world.plan.faults_stop_after.unwrap_or_default();
    let faults_stopped_at = START + chaos;
    let mut done_at = None;
    while world.step() {
        if !world.scheduler.violations.is_empty() {
            return Verdict::Safety;
        }
        if world.scheduler.now < faults_stopped_at || !world.happened.is_multiple_of(64) {
            continue;
        }
        if world.is_done() {
            let since = *done_at.get_or_insert(world.scheduler.now);
            if world.scheduler.now < since + world.rest() {
                continue;
            }
            world.rested = Some((since.since(faults_stopped_at), world.patience()));
            world.check_rest();
            return match world.scheduler.violations.is_empty() {
                true => Verdict::Ok,
                false => Verdict::Safety,
            };
        }
        done_at = None;
        if world.scheduler.now > faults_stopped_at + world.patience()
            || world.happened > HAPPENINGS_MAX
        {
            return Verdict::Liveness;
        }
    }
    Verdict::Liveness
}

impl World {
    fn patience(&self) -> Duration {
        let work = self.users.work.saturating_sub(self.over.work);
        let containers = self.queue.last.saturating_sub(self.over.containers);
        self.plan.patience(work, containers)
    }

    fn report(mut self, verdict: Verdict) -> Report {
        let bad = verdict != Verdict::Ok;
        let stuck = if verdict == Verdict::Liveness {
            self.stuck()
        } else {
            Vec::new()
        };
        Report {
            seed: self.plan.seed,
            verdict,
            violations: self.scheduler.violations.clone(),
            stuck,
            tail: if bad {
                self.scheduler.trace.tail()
            } else {
                Vec::new()
            },
            rest: self.rested,
            simulated: self.scheduler.elapsed(),
            happened: self.happened,
            inputs: self.processes.inputs,
            instances: (self.cloud.alive_peak, self.cloud.made.len() as u64),
            containers: (self.queue.open_peak, self.queue.last),
            faults: self.scheduler.faults.counts(),
            marks: self.scheduler.marks.counts(),
            trace: self.scheduler.trace.take_all(),
        }
    }
}
