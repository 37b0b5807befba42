//! Sums over the runs of a batch, and reports of failed runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::run::output::say;
use crate::run::{Report, Verdict};
use crate::world::plan::{Plan, Profile};

/// Exit code: no run failed, but a fault or coverage mark never occurred.
pub(crate) const NEVER_SEEN: u8 = 5;
/// Number of runs of a generated world after which every fault and every mark must have occurred.
const ALL_SEEN_AFTER: u64 = 2000;

/// Sums over the runs of a batch.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) runs: u64,
    pub(crate) code: u8,
    /// Failed seeds, each with verdict and exit code.
    pub(crate) failed: Vec<(u64, Verdict, u8)>,
    /// Largest share of the allowed time needed by a healed world to come to rest, in millionths,
    /// and the seed of the run.
    pub(crate) slowest: (u64, u64),
    pub(crate) simulated: Duration,
    pub(crate) happened: u64,
    pub(crate) inputs: u64,
    pub(crate) instances: (usize, u64),
    pub(crate) containers: (usize, u64),
    pub(crate) faults: BTreeMap<&'static str, u64>,
    pub(crate) marks: BTreeMap<&'static str, u64>,
}

/// Formats the report of a failed run: seed, plan, last trace lines, unfinished work and broken
/// rules.
pub(crate) fn failure(report: &Report, code: u8, plan: &Plan) -> String {
    let mut lines = vec![format!("seed {} failed ({code})", report.seed)];
    lines.push(format!("  {}", plan.summary()));
    lines.extend(report.tail.iter().map(|line| format!("  {line}")));
    lines.extend(report.stuck.iter().map(|line| format!("  stuck: {line}")));
    lines.extend(report.violations.iter().map(|violation| {
        let after = violation.after.as_secs_f64();
        format!(
            "  {} after {after:.3} s: {}",
            violation.rule, violation.what
        )
    }));
    lines.join("\n")
}

impl Batch {
    pub(crate) fn add(&mut self, report: &Report, code: u8) {
        self.runs += 1;
        if code != 0 {
            self.failed.push((report.seed, report.verdict, code));
        }
        if let Some((took, allowed)) = report.rest {
            let part = took.as_micros() * 1_000_000 / allowed.as_micros().max(1);
            let part = u64::try_from(part).unwrap_or(u64::MAX);
            // The lowest seed wins a tie, so the result does not depend on the order of the jobs.
            let (most, seed) = self.slowest;
            if part > most || part == most && report.seed < seed {
                self.slowest = (part, report.seed);
            }
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

    /// Makes the report independent of the order of the jobs: sorts all failures by seed, or,
    /// without `keep_going`, keeps only the first, since later seeds may not have run.
    pub(crate) fn settle(&mut self, keep_going: bool) {
        self.failed.sort_unstable_by_key(|(seed, ..)| *seed);
        if !keep_going {
            self.failed.truncate(1);
        }
        let codes = self.failed.iter().map(|(.., code)| *code);
        self.code = codes.min().unwrap_or_default();
    }

    /// Adds the failed seeds to the corpus file of the profile, for later regression runs.
    pub(crate) fn keep_failures(&self, directory: &Path, profile: Profile) -> Result<(), String> {
        if self.failed.is_empty() {
            return Ok(());
        }
        let name = format!("{profile:?}.txt").to_lowercase();
        let path = directory.join(name);
        let mut text = std::fs::read_to_string(&path).unwrap_or_default();
        for (seed, ..) in &self.failed {
            if !text.lines().any(|line| line == seed.to_string()) {
                text += &format!("{seed}\n");
            }
        }
        std::fs::write(&path, text)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))
    }

    /// Sets the exit code of a large batch in which some fault or mark never occurred.
    pub(crate) fn demand_everything(&mut self, profile: Profile, recorded: bool) {
        let drawn = matches!(profile, Profile::Lite | Profile::Swarm);
        let all = self.faults.values().chain(self.marks.values());
        let lacks = all.into_iter().any(|count| *count == 0);
        let large = drawn && !recorded && self.runs >= ALL_SEEN_AFTER;
        if self.code == 0 && large && lacks {
            self.code = NEVER_SEEN;
        }
    }

    pub(crate) fn print(&self, profile: Profile, wall: Duration, out: &mut impl std::io::Write) {
        let seconds = wall.as_secs_f64().max(0.001);
        let per_second = |count: u64| {
            #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
            let count = count as f64;
            count / seconds
        };
        let failed = self.failed.iter().map(|(seed, how, _)| (*seed, *how));
        let failed: Vec<(u64, Verdict)> = failed.collect();
        let mut lines = vec![
            format!(
                "{} runs ({:?}, revision {}), {} failed: {:?}",
                self.runs,
                profile,
                revision(),
                self.failed.len(),
                failed
            ),
            format!(
                "{} events in {seconds:.1} s, with up to {} instances and {} containers at a time: {:.0} \
                 events a second, {:.0} times real time",
                self.happened,
                self.instances.0,
                self.containers.0,
                per_second(self.happened),
                self.simulated.as_secs_f64() / seconds,
            ),
            format!(
                "{:.1} simulated hours, {} instances and {} containers in all, {} inputs ({:.0} a \
                 second){}",
                self.simulated.as_secs_f64() / 3600.0,
                self.instances.1,
                self.containers.1,
                self.inputs,
                per_second(self.inputs),
                peak_memory().map_or(String::new(), |mib| format!(
                    ", {mib} MiB of memory at the peak"
                )),
            ),
            format!(
                "of the time allowed, a healed world took at most {}.{:02} % to come to rest (seed {})",
                self.slowest.0 / 10_000,
                self.slowest.0 % 10_000 / 100,
                self.slowest.1
            ),
            counts("faults", &self.faults),
            counts("marks", &self.marks),
        ];
        if self.code == NEVER_SEEN {
            lines.push("all rules held, but not everything was seen: see above".to_owned());
        } else if self.failed.is_empty() {
            lines.push("all rules held".to_owned());
        }
        say(out, &lines.join("\n"));
    }
}

/// Peak resident memory of this process in MiB, on systems with `/proc`.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib / 1024)
}

/// Git revision of the source tree, marked if the tree has uncommitted changes.
fn revision() -> String {
    let asked = std::process::Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always"])
        .args(["--exclude=*", "--abbrev=12", "--dirty=-changed"])
        .output();
    let text = asked
        .ok()
        .filter(|said| said.status.success())
        .and_then(|said| String::from_utf8(said.stdout).ok());
    text.map_or_else(|| "unknown".to_owned(), |text| text.trim().to_owned())
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
