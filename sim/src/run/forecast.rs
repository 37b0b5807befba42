//! Forecast of the cost and the waiting times of a workload, with the configuration of an operator.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use longshore_cluster_config::load_file;
use longshore_core::config::Config;
use longshore_core::ids::TypeName;
use longshore_core::input::ContainerState;
use longshore_core::time::Timestamp;
use serde::Serialize;

use crate::checks::Checks;
use crate::run::output::{USAGE, code_of, parse_range, read_work, say};
use crate::run::stuck::stuck;
use crate::run::{Verdict, go_on};
use crate::world::World;
use crate::world::plan::{Plan, Profile};
use crate::world::trace::Trace;
use crate::world::workload::Arrival;

/// Runs a workload with a given configuration and predicts cost and waiting times.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  longshore-sim plan --config /etc/arvados/config.yml --workload trace.jsonl

Each line of the workload is one container: {\"at\": 0, \"vcpus\": 2, \"ram\": 4000000000,
\"duration\": 300}; docs/simulator.md has all fields. Prices are those of InstanceTypes.

Exit codes: 0 ok, 1 a rule was broken, 2 some work never ended, 4 wrong usage.")]
pub(crate) struct Args {
    /// Cluster configuration file, the same as for the dispatcher.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Workload file: containers, one JSON object per line.
    #[arg(long, value_name = "FILE")]
    workload: PathBuf,
    /// Shortest and longest boot time of a VM, in seconds.
    #[arg(long, value_name = "A..B", default_value = "45..90", value_parser = parse_range)]
    boot: (u64, u64),
    /// Inject occasional failures of clouds, VMs and the queue, as in the profile `swarm`.
    #[arg(long)]
    faults: bool,
    /// Seed of all random choices.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the forecast as one JSON object.
    #[arg(long)]
    json: bool,
}

/// Forecast for a workload. Money in millionths of a dollar, times in seconds.
#[derive(Debug, Serialize)]
struct Forecast {
    containers: usize,
    completed: usize,
    cancelled: usize,
    cost_microdollars: u64,
    types: Vec<TypeUse>,
    instances: usize,
    instances_at_peak: usize,
    wait_seconds: Waits,
    /// Time from the first submission to the last end.
    makespan_seconds: f64,
    /// Distinct reasons for cancelled containers.
    reasons: Vec<String>,
}

#[derive(Debug, Serialize)]
struct TypeUse {
    name: String,
    instances: u64,
    hours: f64,
    cost_microdollars: u64,
}

/// Percentiles of the time from submission to start of the program, over the containers with a
/// started program.
#[derive(Debug, Default, Serialize)]
struct Waits {
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args, out: &mut impl Write) -> u8 {
    let read = load_file(&args.config)
        .map_err(|errors| format!("{}: {errors}", args.config.display()))
        .and_then(|loaded| Ok((loaded.cluster.core, read_work(&args.workload)?)));
    let (config, work) = match read {
        Ok(read) => read,
        Err(error) => {
            eprintln!("longshore-sim plan: {error}");
            return USAGE;
        }
    };
    let mut world = World::new(plan(args, config, &work), Trace::default(), Checks::all());
    let verdict = go_on(&mut world);
    for violation in &world.scheduler.violations {
        eprintln!("{}: {}", violation.rule, violation.what);
    }
    if verdict == Verdict::Liveness {
        eprintln!("not everything ended; what is stuck, and why:");
        stuck(&world).iter().for_each(|line| eprintln!("  {line}"));
    }
    let forecast = forecast(&world);
    if args.json {
        match serde_json::to_string(&forecast) {
            Ok(text) => say(out, &text),
            Err(error) => eprintln!("longshore-sim plan: {error}"),
        }
    } else {
        say(out, &forecast.text());
    }
    code_of(verdict)
}

fn plan(args: &Args, config: Config, work: &[Arrival]) -> Plan {
    let mut plan = Plan::calm(args.seed);
    plan.config = config;
    plan.boot_secs = args.boot;
    plan.faults_stop_after = Some(Duration::ZERO);
    if args.faults {
        let rough = Plan::generate(args.seed, Profile::Swarm);
        plan.faults = rough.faults;
        plan.fault_budget = rough.fault_budget;
    }
    plan.with_workload(work)
}

fn forecast(world: &World) -> Forecast {
    let types = &world.plan.config.types;
    let price = |name: &TypeName| types.get(name).map_or(0, |offer| offer.price.0);
    let used = world.cloud.used.iter();
    let types: Vec<TypeUse> = used
        .map(|(name, (instances, time))| TypeUse {
            name: name.to_string(),
            instances: *instances,
            hours: time.as_secs_f64() / 3600.0,
            cost_microdollars: cost(price(name), *time),
        })
        .collect();
    let records = || world.queue.records.iter().map(|(_, record)| record);
    let count = |state| records().filter(|record| record.state == state).count();
    let began = records().filter_map(|r| Some(r.began_at?.since(r.submitted_at)));
    let first = records().map(|record| record.submitted_at).min();
    let last = records().filter_map(|record| record.ended_at).max();
    let mut reasons: Vec<String> = records().filter_map(|r| r.error.clone()).collect();
    reasons.sort_unstable();
    reasons.dedup();
    Forecast {
        containers: world.queue.records.len(),
        completed: count(ContainerState::Complete),
        cancelled: count(ContainerState::Cancelled),
        cost_microdollars: types.iter().map(|used| used.cost_microdollars).sum(),
        types,
        instances: world.cloud.made.len(),
        instances_at_peak: world.cloud.alive_peak,
        wait_seconds: Waits::of(began.collect()),
        makespan_seconds: last
            .unwrap_or(Timestamp::EPOCH)
            .since(first.unwrap_or_default())
            .as_secs_f64(),
        reasons,
    }
}

/// Cost of a VM with this hourly price, billed per started second.
fn cost(price: u64, time: Duration) -> u64 {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    let micros = u128::from(price) * u128::from(seconds) / 3600;
    u64::try_from(micros).unwrap_or(u64::MAX)
}

impl Waits {
    fn of(mut waits: Vec<Duration>) -> Self {
        waits.sort_unstable();
        // Smallest wait not exceeded by `share` per cent of the containers (nearest-rank
        // percentile).
        let at = |share: usize| {
            let rank = (waits.len() * share).div_ceil(100).max(1);
            waits.get(rank - 1).map_or(0.0, Duration::as_secs_f64)
        };
        Self {
            p50: at(50),
            p90: at(90),
            p99: at(99),
            max: at(100),
        }
    }
}

impl Forecast {
    fn text(&self) -> String {
        let waits = &self.wait_seconds;
        let mut lines = vec![
            format!(
                "containers   {}: {} completed, {} cancelled",
                self.containers, self.completed, self.cancelled
            ),
            format!("cost         {}", dollars(self.cost_microdollars)),
        ];
        lines.extend(self.types.iter().map(|used| {
            format!(
                "  {:<24} {:>6} VMs {:>10.2} hours {:>12}",
                used.name,
                used.instances,
                used.hours,
                dollars(used.cost_microdollars)
            )
        }));
        lines.push(format!(
            "VMs          {} in all, {} at peak",
            self.instances, self.instances_at_peak
        ));
        lines.push(format!(
            "waits        p50 {:.0} s, p90 {:.0} s, p99 {:.0} s, max {:.0} s",
            waits.p50, waits.p90, waits.p99, waits.max
        ));
        lines.push(format!("makespan     {:.0} s", self.makespan_seconds));
        lines.extend(self.reasons.iter().map(|why| format!("cancelled: {why}")));
        lines.join("\n")
    }
}

fn dollars(micros: u64) -> String {
    format!("${}.{:02}", micros / 1_000_000, micros % 1_000_000 / 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forecast_cost_and_percentiles_exact() {
        assert_eq!(cost(3_600_000, Duration::from_millis(9_001)), 10_000);
        assert_eq!(dollars(1_239_999), "$1.23");
        let waits = Waits::of((1..=200).map(Duration::from_secs).collect());
        let found = [waits.p50, waits.p90, waits.p99, waits.max];
        assert_eq!(found, [100.0, 180.0, 198.0, 200.0]);
        assert!(Waits::of(Vec::new()).max < f64::EPSILON);
    }
}
