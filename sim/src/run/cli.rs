//! Command line: one run, a batch of runs, a replay, or a minimization.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::run::batch::{Batch, failure};
use crate::run::minimize::minimize;
use crate::run::output::{NONDETERMINISM, USAGE, code_of, parse_range, read_work, say};
use crate::run::replay::{ReplayError, replay_with};
use crate::run::{Report, run as run_plan};
use crate::world::core_hook::CoreHook;
use crate::world::plan::{Plan, Profile};

/// Tests the dispatcher's core in a simulated world with virtual time; each seed reproduces one run
/// exactly.
#[derive(Debug, Parser)]
#[command(
    name = "longshore-sim",
    after_help = "Examples:
  longshore-sim --seed 42                          one run
  longshore-sim --seed 42 --trace out.jsonl        save all events as JSON lines
  longshore-sim --seed 42 --check-determinism      run twice and find the first difference
  longshore-sim --seeds 0..10000                   a batch, with counts of faults and coverage marks
  longshore-sim --minimize 42                      reduce faults and containers, keep the failure
  longshore-sim --minimize 42 --trace small.jsonl  the same, and save the trace of the result
  longshore-sim --replay out.jsonl                 feed a saved trace to the core again
  longshore-sim --seed 0 --profile scale           10,000 VMs, 100,000 containers
  longshore-sim --seed 0 --profile day             one day with 1,000 VMs, a speed test
  longshore-sim plan --config config.yml --workload trace.jsonl
                                                   forecast of the cost of a workload

Exit codes: 0 ok, 1 a rule was broken, 2 some work never ended, 3 two runs differed, 4 wrong usage,
5 no run failed, but some fault or coverage mark never occurred in a batch of 2,000 seeds or more."
)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[cfg(feature = "plan")]
    #[command(subcommand)]
    command: Option<Subcommand>,
    /// Seed of a single run.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Range of seeds to run, the end excluded.
    #[arg(long, value_name = "A..B", value_parser = parse_range)]
    seeds: Option<(u64, u64)>,
    /// Number of runs in parallel; the default is the number of CPU cores.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=64))]
    jobs: Option<u64>,
    /// Size of the simulated world and frequency of faults.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) profile: Profile,
    /// Write every event of the run to this file, one JSON object per line; with --minimize, the
    /// trace of the minimized run.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seeds", "replay"])]
    trace: Option<PathBuf>,
    /// Run each seed twice and compare the two traces.
    #[arg(long)]
    check_determinism: bool,
    /// Reduce the faults and the workload of this failing seed as far as the same failure remains.
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seed", "seeds", "replay"])]
    minimize: Option<u64>,
    /// Feed a trace written by --trace, or a journal of the daemon, to the core again and compare
    /// the results.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seed", "seeds"])]
    replay: Option<PathBuf>,
    /// Submit the containers of this file instead of a generated workload; JSON lines, described in
    /// docs/simulator.md.
    #[arg(long, value_name = "FILE", conflicts_with = "replay")]
    pub(crate) workload: Option<PathBuf>,
    /// Append failing seeds to the file of the profile in this directory, where the tests read
    /// them.
    #[arg(long, value_name = "DIR", requires = "seeds")]
    corpus: Option<PathBuf>,
    /// Continue after a failing seed.
    #[arg(long)]
    keep_going: bool,
}

/// Subcommands.
#[cfg(feature = "plan")]
#[derive(Debug, clap::Subcommand)]
enum Subcommand {
    /// Predict the cost of a workload and the waiting times of its containers.
    Plan(crate::run::forecast::Args),
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::from(run(std::env::args_os(), None, &mut std::io::stdout()))
}

/// Runs a command line, beginning with the name of the program, writes results to `out`, and
/// returns the exit code. `hook` is applied to every dispatcher before the first input: a test
/// injects a bug with `hook`, to prove that the simulator detects the bug.
pub fn run<W: Write + Send>(
    words: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    hook: Option<Arc<CoreHook>>,
    out: &mut W,
) -> u8 {
    let args = match Args::try_parse_from(words) {
        Ok(args) => args,
        Err(error) => {
            let asked = !error.use_stderr();
            let _closed = error.print();
            return if asked { 0 } else { USAGE };
        }
    };
    #[cfg(feature = "plan")]
    if let Some(Subcommand::Plan(args)) = &args.command {
        return crate::run::forecast::run(args, out);
    }
    if let Some(path) = &args.replay {
        return replay_file(path, hook.as_deref(), out);
    }
    // A panic of the core is reported with its seed; the default message would only clutter the
    // output.
    std::panic::set_hook(Box::new(|_| {}));
    let work = match args.workload.as_deref().map(read_work).transpose() {
        Ok(work) => work,
        Err(error) => {
            eprintln!("longshore-sim: {error}");
            return USAGE;
        }
    };
    let generate = |seed| {
        let mut plan = Plan::generate(seed, args.profile);
        if let Some(work) = &work {
            plan = plan.with_workload(work);
        }
        match hook.clone() {
            Some(hook) => plan.with_core_hook(move |core| hook(core)),
            None => plan,
        }
    };
    if let Some(seed) = args.minimize {
        return minimize_seed(&args, &generate(seed), out);
    }
    let seeds = match (args.seed, args.seeds) {
        (Some(seed), _) => (seed, seed + 1),
        (None, Some(range)) => range,
        (None, None) => {
            eprintln!(
                "longshore-sim: say --seed N, --seeds A..B, --minimize N or --replay FILE; --help has examples"
            );
            return USAGE;
        }
    };
    if let Some(seed) = args.seed {
        say(out, &format!("seed {seed}: {}", generate(seed).summary()));
    }
    let watch = Stopwatch::start();
    let mut batch = batch(&args, &generate, seeds, out);
    batch.demand_everything(args.profile, args.workload.is_some());
    if let Some(directory) = &args.corpus
        && let Err(error) = batch.keep_failures(directory, args.profile)
    {
        eprintln!("longshore-sim: {error}");
        batch.code = USAGE;
    }
    batch.print(args.profile, watch.elapsed(), out);
    batch.code
}

fn replay_file(path: &Path, hook: Option<&CoreHook>, out: &mut impl Write) -> u8 {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("longshore-sim: cannot read {}: {error}", path.display());
            return USAGE;
        }
    };
    match replay_with(&text, hook) {
        Ok(lines) => {
            say(
                out,
                &format!("the core did the same again: {lines} lines compared"),
            );
            0
        }
        Err(error @ (ReplayError::Unreadable { .. } | ReplayError::Journal(_))) => {
            eprintln!("longshore-sim: {}: {error}", path.display());
            USAGE
        }
        Err(error) => {
            say(out, &error.to_string());
            NONDETERMINISM
        }
    }
}

fn minimize_seed(args: &Args, plan: &Plan, out: &mut impl Write) -> u8 {
    let Some(small) = minimize(plan) else {
        say(out, &format!("seed {} does not fail", plan.seed));
        return 0;
    };
    let code = code_of(small.report.verdict);
    say(out, &failure(&small.report, code, &small.plan));
    let names: Vec<&str> = small.faults.iter().map(|fault| fault.name()).collect();
    let (runs, containers) = (small.runs, small.containers);
    say(
        out,
        &format!("after {runs} runs: {containers} containers, faults {names:?}"),
    );
    if let Some(path) = &args.trace
        && let Err(error) = write_trace(path, &run_plan(&small.plan, true).trace)
    {
        eprintln!("longshore-sim: {error}");
        return USAGE;
    }
    code
}

fn write_trace(path: &Path, rows: &[String]) -> Result<(), String> {
    let mut text = rows.join("\n");
    text.push('\n');
    std::fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// Wall-clock time, for the summary only.
struct Stopwatch(std::time::Instant);

impl Stopwatch {
    #[expect(
        clippy::disallowed_methods,
        reason = "measures the speed of the simulation and never influences a run"
    )]
    fn start() -> Self {
        Self(std::time::Instant::now())
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

fn batch(
    args: &Args,
    generate: &(impl Fn(u64) -> Plan + Sync),
    (from, to): (u64, u64),
    out: &mut (impl Write + Send),
) -> Batch {
    let bar = progress(to - from);
    let next = AtomicU64::new(from);
    let sums = Mutex::new(Batch::default());
    let out = Mutex::new(out);
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let jobs = args.jobs.unwrap_or(cores.min(64));
    // Seeds are handed out in ascending order, so the lowest failing seed is always tried.
    let first_failure: Mutex<Option<(u64, String)>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(to - from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= to {
                        return;
                    }
                    let plan = generate(seed);
                    let (report, code) = one(args, &plan);
                    bar.inc(1);
                    if code != 0 {
                        let text = failure(&report, code, &plan);
                        if args.keep_going {
                            bar.suspend(|| {
                                if let Ok(mut out) = out.lock() {
                                    say(&mut *out, &text);
                                }
                            });
                        } else {
                            next.store(to, Ordering::Relaxed);
                            if let Ok(mut first) = first_failure.lock()
                                && first.as_ref().is_none_or(|(before, _)| seed < *before)
                            {
                                *first = Some((seed, text));
                            }
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
    if let (Ok(Some((_, text))), Ok(out)) = (first_failure.into_inner(), out.into_inner()) {
        say(out, &text);
    }
    let mut sums = sums.into_inner().unwrap_or_default();
    sums.settle(args.keep_going);
    sums
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

/// Runs one seed; twice with `--check-determinism`.
fn one(args: &Args, plan: &Plan) -> (Report, u8) {
    let keeps = args.trace.is_some() || args.check_determinism;
    let mut report = run_plan(plan, keeps);
    let mut code = code_of(report.verdict);
    if args.check_determinism {
        let again = run_plan(plan, true);
        if let Some(difference) = first_difference(&report.trace, &again.trace) {
            report.stuck.push(difference);
            code = NONDETERMINISM;
        }
    }
    if let Some(path) = &args.trace
        && let Err(error) = write_trace(path, &report.trace)
    {
        report.stuck.push(error);
        code = USAGE;
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::run::Verdict;
    use crate::run::batch::NEVER_SEEN;

    #[test]
    fn batch_any_job_order_same_result() {
        let failed = vec![
            (9, Verdict::Liveness, 2),
            (7, Verdict::Safety, 3),
            (8, Verdict::Safety, 1),
        ];
        let mut batch = Batch {
            failed,
            ..Batch::default()
        };
        batch.settle(true);
        assert_eq!(batch.code, 1);
        assert!(batch.failed.is_sorted());
        batch.settle(false);
        assert_eq!(
            (batch.failed.len(), batch.code),
            (1, 3),
            "only the lowest failed seed"
        );
    }

    #[test]
    fn failed_seed_repeated_kept_once() {
        let directory = std::env::temp_dir().join(format!("longshore-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("directory can be created");
        let failed = vec![(7, Verdict::Safety, 1), (9, Verdict::Liveness, 2)];
        let batch = Batch {
            failed,
            ..Batch::default()
        };
        for _ in 0..2 {
            let kept = batch.keep_failures(&directory, Profile::Swarm);
            kept.expect("corpus file can be written");
        }
        let text = std::fs::read_to_string(directory.join("swarm.txt"));
        assert_eq!(text.expect("corpus file exists"), "7\n9\n");
        std::fs::remove_dir_all(&directory).expect("directory can be removed");
    }

    #[test]
    fn large_batch_unseen_mark_fails() {
        let args = Args::parse_from(["longshore-sim", "--seeds", "0..2000"]);
        let mut batch = Batch {
            runs: 2000,
            marks: BTreeMap::from([("Completed", 0)]),
            ..Batch::default()
        };
        batch.demand_everything(args.profile, args.workload.is_some());
        assert_eq!(batch.code, NEVER_SEEN);
        batch.marks.insert("Completed", 1);
        batch.code = 0;
        batch.demand_everything(args.profile, args.workload.is_some());
        assert_eq!(batch.code, 0);
    }

    #[test]
    fn seed_range_empty_or_malformed_rejected() {
        assert_eq!(parse_range("3..10"), Ok((3, 10)));
        assert!(parse_range("10..3").is_err());
        assert!(parse_range("ten").is_err());
    }

    #[test]
    fn arguments_consistent() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }
}
