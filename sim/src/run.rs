//! Execution of one plan until the world is at rest or a rule is broken, and the report of the run.

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
mod stuck;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::checks::Checks;
use crate::run::stuck::stuck;
use crate::world::World;
use crate::world::events::START;
use crate::world::observation::Observation;
use crate::world::plan::Plan;
use crate::world::scheduler::Violation;
use crate::world::trace::Trace;

/// Outcome of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// No rule was broken, and the world came to rest.
    Ok,
    /// A rule was broken.
    Safety,
    /// Some work never ended.
    Liveness,
}

/// Report of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// Seed of the plan.
    pub seed: u64,
    /// Outcome.
    pub verdict: Verdict,
    /// Broken rules.
    pub violations: Vec<Violation>,
    /// Unfinished containers and instances, each with the cause of the delay, if the verdict is
    /// `Liveness`.
    pub stuck: Vec<String>,
    /// Last trace lines before the end, in readable form; empty after a successful run.
    pub tail: Vec<String>,
    /// Time from the end of the faults until the world was at rest, and the longest time allowed;
    /// `None` if the world never came to rest.
    pub rest: Option<(Duration, Duration)>,
    /// Simulated time.
    pub simulated: Duration,
    /// Number of events in the world.
    pub happened: u64,
    /// Number of inputs delivered to the core.
    pub inputs: u64,
    /// Number of instances at the peak, and in total.
    pub instances: (usize, u64),
    /// Number of containers at the peak, and in total.
    pub containers: (usize, u64),
    /// Number of injections of each fault.
    pub faults: BTreeMap<&'static str, u64>,
    /// Number of times that each coverage mark was reached.
    pub marks: BTreeMap<&'static str, u64>,
    /// Complete trace as JSON lines; empty unless requested.
    pub trace: Vec<String>,
}

/// Maximum number of events in a run, for every plan.
const HAPPENINGS_MAX: u64 = 2_000_000_000;

/// Runs a plan to the end. A failed run is repeated with the last trace lines kept.
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
    let mut world = World::new(plan.clone(), trace, Checks::all());
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

/// Steps a world until all work has ended or a limit is exceeded.
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
            if world.scheduler.now < since + settle_time(&world.plan) {
                continue;
            }
            world.rested = Some((since.since(faults_stopped_at), world.patience()));
            world.observe(Observation::AtRest);
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

/// Time after the end of the last work by which the core awaits nothing: longer than any deadline, and
/// than two lists after the grace period.
fn settle_time(plan: &Plan) -> Duration {
    let config = &plan.config;
    let timeouts = &config.timeouts;
    let lists = (timeouts.cloud_answer + config.intervals.sync) * 2 + timeouts.disappear_grace;
    lists + timeouts.queue_answer + timeouts.vm_answer * 3
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
            stuck(&self)
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
