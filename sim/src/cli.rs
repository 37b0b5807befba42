//! The command line: one run, or many.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Parser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::minimize::minimize;
use crate::profile::{Plan, Profile};
use crate::replay::{ReplayError, replay};
use crate::run::{Report, Verdict, run};

/// Runs the dispatcher's core against a seeded world in virtual time.
#[derive(Debug, Parser)]
#[command(
    name = "longshore-sim",
    after_help = "Examples:
  longshore-sim --seed 42                          one run
  longshore-sim --seed 42 --trace out.jsonl        one line for each event
  longshore-sim --seed 42 --check-determinism      run twice and find the first difference
  longshore-sim --seeds 0..10000 --jobs 2          a batch, with fault and mark counts
  longshore-sim --minimize 42                      fewer faults and containers that still fail
  longshore-sim --replay out.jsonl                 feed a saved trace to the core again
  longshore-sim --seeds 0..10 --profile scale      10,000 VMs, 100,000 containers

Exit codes: 0 ok, 1 a rule was broken, 2 something never ended, 3 two runs differed, 4 wrong usage."
)]
struct Args {
    /// One seed to run.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Seeds to run, the last one excluded.
    #[arg(long, value_name = "A..B", value_parser = parse_range)]
    seeds: Option<(u64, u64)>,
    /// Runs at a time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=64))]
    jobs: u64,
    /// How large and how rough the runs are.
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
    /// Write every event of the run here, one JSON object a line.
    #[arg(long, value_name = "FILE", requires = "seed")]
    trace: Option<PathBuf>,
    /// Run each seed twice and compare.
    #[arg(long)]
    check_determinism: bool,
    /// Make this failing seed's faults and workload smaller while it fails in the same way.
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seed", "seeds", "replay"])]
    minimize: Option<u64>,
    /// Feed a trace written by --trace to the core again and compare.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seed", "seeds"])]
    replay: Option<PathBuf>,
    /// Go on after a failing seed.
    #[arg(long)]
    keep_going: bool,
}

fn parse_range(text: &str) -> Result<(u64, u64), String> {
    let wrong = || format!("expected a range like 0..1000, found {text:?}");
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    let from = from.parse().map_err(|_| wrong())?;
    let to = to.parse().map_err(|_| wrong())?;
    if from < to {
        Ok((from, to))
    } else {
        Err(format!(
            "{text:?} is empty: the second number must be greater"
        ))
    }
}

/// Wrong usage, or a file that cannot be written.
const USAGE: u8 = 4;
const NONDETERMINISM: u8 = 3;

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let asked = !error.use_stderr();
            let _closed = error.print();
            return ExitCode::from(if asked { 0 } else { USAGE });
        }
    };
    if let Some(path) = &args.replay {
        return replay_file(path);
    }
    // A panic of the core is reported with its seed; the usual message would only get in the way.
    std::panic::set_hook(Box::new(|_| {}));
    if let Some(seed) = args.minimize {
        return minimize_seed(seed, args.profile);
    }
    let seeds = match (args.seed, args.seeds) {
        (Some(seed), _) => (seed, seed + 1),
        (None, Some(range)) => range,
        (None, None) => {
            eprintln!(
                "longshore-sim: say --seed N, --seeds A..B, --minimize N or --replay FILE; --help has examples"
            );
            return ExitCode::from(USAGE);
        }
    };
    let watch = Stopwatch::start();
    let batch = batch(&args, seeds);
    batch.print(&args, watch.elapsed());
    ExitCode::from(batch.code)
}

fn replay_file(path: &std::path::Path) -> ExitCode {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("longshore-sim: cannot read {}: {error}", path.display());
            return ExitCode::from(USAGE);
        }
    };
    match replay(&text) {
        Ok(lines) => {
            println!("the core did the same again: {lines} lines compared");
            ExitCode::SUCCESS
        }
        Err(error @ ReplayError::Unreadable { .. }) => {
            eprintln!("longshore-sim: {}: {error}", path.display());
            ExitCode::from(USAGE)
        }
        Err(error) => {
            println!("{error}");
            ExitCode::from(NONDETERMINISM)
        }
    }
}

fn minimize_seed(seed: u64, profile: Profile) -> ExitCode {
    let Some(small) = minimize(&Plan::draw(seed, profile)) else {
        println!("seed {seed} does not fail");
        return ExitCode::SUCCESS;
    };
    let code = code_of(small.report.verdict);
    print_failure(&small.report, code);
    let names: Vec<&str> = small.faults.iter().map(|fault| fault.name()).collect();
    println!(
        "after {} runs: {} containers, faults {names:?}",
        small.runs, small.containers
    );
    ExitCode::from(code)
}

fn code_of(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Ok => 0,
        Verdict::Safety => 1,
        Verdict::Liveness => 2,
    }
}

/// Wall time, for the summary alone.
struct Stopwatch(std::time::Instant);

impl Stopwatch {
    #[expect(
        clippy::disallowed_methods,
        reason = "how fast the simulation is, never what happens in it"
    )]
    fn start() -> Self {
        Self(std::time::Instant::now())
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Sums over the runs of a batch.
#[derive(Debug, Default)]
struct Batch {
    runs: u64,
    code: u8,
    failed: Vec<(u64, Verdict)>,
    simulated: Duration,
    happened: u64,
    inputs: u64,
    instances: (usize, u64),
    containers: (usize, u64),
    faults: BTreeMap<&'static str, u64>,
    marks: BTreeMap<&'static str, u64>,
}

fn batch(args: &Args, (from, to): (u64, u64)) -> Batch {
    let bar = progress(to - from);
    let next = AtomicU64::new(from);
    let sums = Mutex::new(Batch::default());
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.min(to - from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= to {
                        return;
                    }
                    let (report, code) = one(args, seed);
                    bar.inc(1);
                    if code != 0 {
                        bar.suspend(|| print_failure(&report, code));
                        if !args.keep_going {
                            next.store(to, Ordering::Relaxed);
                        }
                    }
                    if let Ok(mut sums) = sums.lock() {
                        sums.add(&report, code);
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    sums.into_inner().unwrap_or_default()
}

fn progress(runs: u64) -> ProgressBar {
    let bar = ProgressBar::new(runs);
    if runs < 2 {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {per_sec}, {eta} left");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}

/// Runs one seed, twice if that is wanted.
fn one(args: &Args, seed: u64) -> (Report, u8) {
    let plan = Plan::draw(seed, args.profile);
    let keeps = args.trace.is_some() || args.check_determinism;
    let mut report = run(&plan, keeps);
    let mut code = code_of(report.verdict);
    if args.check_determinism {
        let again = run(&plan, true);
        if let Some(difference) = first_difference(&report.trace, &again.trace) {
            report.stuck.push(difference);
            code = NONDETERMINISM;
        }
    }
    if let Some(path) = &args.trace {
        let mut text = report.trace.join("\n");
        text.push('\n');
        if let Err(error) = std::fs::write(path, text) {
            report
                .stuck
                .push(format!("cannot write {}: {error}", path.display()));
            code = USAGE;
        }
    }
    (report, code)
}

fn first_difference(one: &[String], other: &[String]) -> Option<String> {
    let pairs = one.iter().zip(other);
    let at = pairs.enumerate().find(|(_, (a, b))| a != b);
    match at {
        Some((line, (a, b))) => Some(format!("line {line} differs:\n  {a}\n  {b}")),
        None if one.len() != other.len() => {
            Some(format!("{} lines and {} lines", one.len(), other.len()))
        }
        None => None,
    }
}

fn print_failure(report: &Report, code: u8) {
    let mut out = std::io::stdout().lock();
    let mut lines = vec![format!("seed {} failed ({code})", report.seed)];
    lines.extend(report.tail.iter().map(|line| format!("  {line}")));
    lines.extend(report.stuck.iter().map(|line| format!("  stuck: {line}")));
    lines.extend(report.violations.iter().map(|violation| {
        let after = violation.after.as_secs_f64();
        format!(
            "  {} after {after:.3} s: {}",
            violation.rule, violation.what
        )
    }));
    let _closed = writeln!(out, "{}", lines.join("\n"));
}

impl Batch {
    fn add(&mut self, report: &Report, code: u8) {
        self.runs += 1;
        if code != 0 {
            self.code = if self.code == 0 { code } else { self.code };
            self.failed.push((report.seed, report.verdict));
        }
        self.simulated += report.simulated;
        self.happened += report.happened;
        self.inputs += report.inputs;
        let most = |a: (usize, u64), b: (usize, u64)| (a.0.max(b.0), a.1 + b.1);
        self.instances = most(self.instances, report.instances);
        self.containers = most(self.containers, report.containers);
        for (name, count) in &report.faults {
            *self.faults.entry(name).or_default() += count;
        }
        for (name, count) in &report.marks {
            *self.marks.entry(name).or_default() += count;
        }
    }

    fn print(&self, args: &Args, wall: Duration) {
        let mut out = std::io::stdout().lock();
        let seconds = wall.as_secs_f64().max(0.001);
        let per_second = |count: u64| {
            #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
            let count = count as f64;
            count / seconds
        };
        let mut lines = vec![
            format!(
                "{} runs ({:?}), {} failed: {:?}",
                self.runs,
                args.profile,
                self.failed.len(),
                self.failed
            ),
            format!(
                "{} events in {seconds:.1} s: {:.0} a second, {:.0} inputs a second",
                self.happened,
                per_second(self.happened),
                per_second(self.inputs)
            ),
            format!(
                "{:.1} simulated hours: {:.0} times real time; at most {} instances and {} \
                 containers at a time, {} and {} in all",
                self.simulated.as_secs_f64() / 3600.0,
                self.simulated.as_secs_f64() / seconds,
                self.instances.0,
                self.containers.0,
                self.instances.1,
                self.containers.1
            ),
            counts("faults", &self.faults),
            counts("marks", &self.marks),
        ];
        if self.failed.is_empty() {
            lines.push("all rules held".to_owned());
        }
        let _closed = writeln!(out, "{}", lines.join("\n"));
    }
}

fn counts(what: &str, counts: &BTreeMap<&'static str, u64>) -> String {
    let (seen, never): (Vec<_>, Vec<_>) = counts.iter().partition(|(_, count)| **count > 0);
    let seen: Vec<String> = seen.iter().map(|(n, c)| format!("{n} {c}")).collect();
    let never: Vec<String> = never.iter().map(|(n, _)| (*n).to_string()).collect();
    format!(
        "{what}: {}\n{what} never seen: {}",
        seen.join(", "),
        never.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_seeds_is_read_and_an_empty_one_refused() {
        assert_eq!(parse_range("3..10"), Ok((3, 10)));
        assert!(parse_range("10..3").is_err());
        assert!(parse_range("ten").is_err());
    }

    #[test]
    fn the_arguments_are_consistent() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }
}
