//! Tests the tester: each planted bug of the core must be noticed by a rule that it breaks.
//!
//! `PLANTED_BUGS.md` tells what was found; rewrite it with
//! `LONGSHORE_REWRITE=1 cargo test -p longshore-sim --test planted_bugs`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use longshore_core::config::Rate;
use longshore_core::mutants::Mutant;
use longshore_sim::{Fault, Plan, Profile, Report, Verdict, run};

/// How a planted bug is looked for.
struct Case {
    bug: Mutant,
    /// The rules that may notice it first.
    rules: &'static [&'static str],
    /// Seeds in which it must be noticed.
    within: u64,
    /// Weather without which it does no harm.
    faults: &'static [Fault],
    /// What else makes it harmful.
    tune: fn(Plan) -> Plan,
}

const fn case(
    bug: Mutant,
    rules: &'static [&'static str],
    within: u64,
    faults: &'static [Fault],
) -> Case {
    Case {
        bug,
        rules,
        within,
        faults,
        tune: |plan| plan,
    }
}

const CASES: &[Case] = &[
    case(
        Mutant::CordonUnconfirmed,
        &["idle VMs are asked first"],
        20,
        &[],
    ),
    case(
        Mutant::DestroyForgotten,
        &["liveness"],
        100,
        &[Fault::DestroyFails],
    ),
    case(
        Mutant::OneListIsEnough,
        &["true ends", "limits", "missing is not dead"],
        100,
        &[Fault::ListPartial],
    ),
    case(
        Mutant::GraceIgnored,
        &["missing is not dead"],
        200,
        &[Fault::ListLate, Fault::ListPartial, Fault::CreateSlow],
    ),
    case(
        Mutant::UnsureIsGone,
        &["earlier runners end first", "one user process", "true ends"],
        500,
        &[Fault::StartAnswerLost],
    ),
    case(
        Mutant::BehaviorRequestIgnored,
        &["valid starts", "held VMs stay"],
        100,
        &[Fault::OperatorHolds],
    ),
    case(
        Mutant::HoldIgnoredAtStart,
        &["valid starts"],
        2000,
        &[
            Fault::OperatorHolds,
            Fault::OperatorDrains,
            Fault::QueueAnswerLate,
        ],
    ),
    case(
        Mutant::BrokenIgnored,
        &["valid starts"],
        200,
        &[Fault::Breaks],
    ),
    case(Mutant::UnreadyUsed, &["valid starts"], 50, &[]),
    case(
        Mutant::AdoptedRunnerWeightless,
        &["valid starts"],
        1000,
        &[Fault::Crash],
    ),
    case(Mutant::StartBeforeLock, &["valid starts"], 20, &[]),
    case(Mutant::OneTooMany, &["limits"], 50, &[]),
    Case {
        tune: |plan| plan.with_money_for(2),
        ..case(
            Mutant::PendingCreatesUnpriced,
            &["limits"],
            50,
            &[Fault::CreateSlow],
        )
    },
    case(
        Mutant::NoCanary,
        &["one canary"],
        200,
        &[Fault::CreateFails, Fault::CreateSlow],
    ),
    case(
        Mutant::FailuresIgnored,
        &["what failed rests"],
        50,
        &[Fault::CreateFails],
    ),
    Case {
        tune: |plan| plan.with_preemptible_types(),
        ..case(
            Mutant::PreemptionNoticeIgnored,
            &["valid starts"],
            200,
            &[Fault::SpotNotice],
        )
    },
    Case {
        tune: |plan| plan.with_boot_failures(2),
        ..case(
            Mutant::BootsRepeated,
            &["what does not boot rests"],
            200,
            &[Fault::NeverBoots],
        )
    },
    Case {
        tune: |plan| plan.with_create_rate(SELDOM),
        ..case(Mutant::RatesIgnored, &["rates"], 50, &[])
    },
    Case {
        tune: |plan| plan.with_probe_rate(SELDOM),
        ..case(Mutant::ProbeRateIgnored, &["rates"], 50, &[])
    },
    case(
        Mutant::QuotaNeverRetried,
        &["true reasons", "liveness"],
        100,
        &[Fault::QuotaShrinks],
    ),
    case(Mutant::JudgedByOldSnapshot, &["true ends"], 100, &[]),
    case(
        Mutant::StaleSnapshotTaken,
        &["one at a time", "true ends", "valid starts"],
        500,
        &[],
    ),
    case(Mutant::ChangesOverlap, &["one at a time"], 200, &[]),
    case(
        Mutant::RefusalIsFinal,
        &["liveness", "reasons"],
        100,
        &[Fault::QueueBusy],
    ),
    case(
        Mutant::EarlierRunnerIgnored,
        &["earlier runners end first", "one user process"],
        2000,
        &[Fault::Crash, Fault::StartAnswerLost, Fault::UpdateLost],
    ),
    case(
        Mutant::KillNeverSent,
        &["the ladder goes down"],
        100,
        &[Fault::IgnoresTerm, Fault::UserCancels],
    ),
    case(
        Mutant::UnkillableStays,
        &["liveness"],
        500,
        &[Fault::IgnoresTerm, Fault::IgnoresKill, Fault::UserCancels],
    ),
    case(
        Mutant::IdleHoldIgnored,
        &["held VMs stay"],
        50,
        &[Fault::OperatorHolds],
    ),
    case(
        Mutant::TagForgotten,
        &["tags tell"],
        50,
        &[Fault::OperatorHolds],
    ),
    case(
        Mutant::LostCreateForgotten,
        &["limits"],
        50,
        &[Fault::CreateAnswerLost],
    ),
    case(
        Mutant::UnknownRunnerSpared,
        &["strangers are stopped"],
        2000,
        &[Fault::RecordDeleted, Fault::Crash],
    ),
    case(
        Mutant::DeletedRunnerSpared,
        &["strangers are stopped"],
        500,
        &[Fault::RecordDeleted],
    ),
    case(
        Mutant::LostLeadershipIgnored,
        &["leaders only"],
        50,
        &[Fault::LeadershipLost],
    ),
    Case {
        tune: Plan::with_images,
        ..case(Mutant::ImageIgnored, &["valid starts"], 20, &[])
    },
    case(
        Mutant::HungProbeAwaited,
        &["probes go on"],
        100,
        &[Fault::CommandHangs],
    ),
    case(
        Mutant::BootTimeoutIgnored,
        &["liveness"],
        50,
        &[Fault::NeverBoots],
    ),
    case(
        Mutant::SilenceIgnored,
        &["liveness"],
        1000,
        &[Fault::Freezes],
    ),
    case(Mutant::ReasonForgotten, &["reasons"], 50, &[]),
    case(
        Mutant::PriorityZeroKept,
        &["liveness"],
        100,
        &[Fault::UserCancels],
    ),
    Case {
        tune: Plan::with_small_budget,
        ..case(Mutant::BudgetsIgnored, &["budgets"], 200, &[])
    },
    case(
        Mutant::OverloadIgnored,
        &["overload"],
        200,
        &[Fault::QueueBusy],
    ),
    case(Mutant::SupervisorsUncounted, &["supervisors"], 500, &[]),
    case(Mutant::OwnLimitsCount, &["true ends"], 1000, &[]),
    case(Mutant::ReasonWrong, &["true reasons"], 100, &[]),
    case(Mutant::DoubleStart, &["one at a time"], 100, &[]),
    case(
        Mutant::NoBackoff,
        &["no tight loops"],
        500,
        &[Fault::QuotaShrinks],
    ),
    case(
        Mutant::TimeoutProbeEarly,
        &["true shutdowns"],
        500,
        &[Fault::Freezes],
    ),
    case(Mutant::TombstonesKept, &["bounded memory"], 50, &[]),
    case(Mutant::NoVmKept, &["the last VM is kept"], 1000, &[]),
];

/// One create each half minute.
const SELDOM: Rate = Rate {
    interval: Duration::from_secs(30),
    burst: 1,
};

/// What became of the search for one bug.
struct Found {
    seed: u64,
    rule: &'static str,
}

impl Case {
    fn plan(&self, seed: u64) -> Plan {
        let drawn = Plan::draw(seed, Profile::Lite);
        (self.tune)(drawn.with_faults(self.faults))
    }

    /// The first seed whose run notices the bug by a rule that it breaks, and is well without it;
    /// otherwise what was noticed instead.
    fn search(&self) -> Result<Found, String> {
        let mut other = BTreeSet::new();
        let bug = self.bug;
        for seed in 0..self.within {
            let report = run(
                &self.plan(seed).tampered(move |core| core.plant(bug)),
                false,
            );
            let Some(rule) = broken_rule(&report) else {
                continue;
            };
            if !self.rules.contains(&rule) {
                other.insert(format!("{rule} (seed {seed})"));
            } else if run(&self.plan(seed), false).verdict == Verdict::Ok {
                return Ok(Found { seed, rule });
            }
        }
        let within = self.within;
        Err(format!(
            "{bug:?} was not noticed within {within} seeds; other rules: {other:?}"
        ))
    }
}

fn broken_rule(report: &Report) -> Option<&'static str> {
    match report.verdict {
        Verdict::Ok => None,
        Verdict::Safety => report.violations.first().map(|violation| violation.rule),
        Verdict::Liveness => Some("liveness"),
    }
}

/// Searches on all cores; the order of the results is the order of the cases.
fn search_all() -> Vec<Result<Found, String>> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<Result<Found, String>>>> =
        Mutex::new(CASES.iter().map(|_| None).collect());
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((at, case)) = {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    CASES.get(at).map(|case| (at, case))
                } {
                    let result = case.search();
                    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                    results[at] = Some(result);
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.into_iter().flatten().collect()
}

const INTRODUCTION: &str = "\
# Planted bugs

What the simulator is worth: each of these bugs, planted in the core alone, is noticed by a rule
that it breaks. The seeds are drawn worlds of the profile `lite`, some with the weather that makes
the bug harmful; the same world without the bug is well. Written by
`LONGSHORE_REWRITE=1 cargo test -p longshore-sim --test planted_bugs`.

| bug | what it breaks | rule of behaviour | noticed by | first seed | must be found within |
|---|---|---|---|---:|---:|
";

fn page(found: &[(&Case, &Found)]) -> String {
    let mut page = INTRODUCTION.to_owned();
    for (case, found) in found {
        let (name, what, rule) = (case.bug.name(), case.bug.what(), case.bug.rule());
        let _ = writeln!(
            page,
            "| {name} | {} | {rule} | {} | {} | {} seeds |",
            what.trim(),
            found.rule,
            found.seed,
            case.within
        );
    }
    page
}

/// The page without the seeds, which change with the world.
fn lasting(page: &str) -> Vec<String> {
    let without_seed = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        match cells.len() {
            8 => format!("{} {} {} {}", cells[1], cells[2], cells[3], cells[6]),
            _ => line.to_owned(),
        }
    };
    page.lines().map(without_seed).collect()
}

#[test]
fn every_planted_bug_is_noticed() {
    let cases: BTreeSet<Mutant> = CASES.iter().map(|case| case.bug).collect();
    let all: BTreeSet<Mutant> = Mutant::ALL.iter().copied().collect();
    assert_eq!(cases, all, "every bug has its case");
    let results = search_all();
    let mut found = Vec::new();
    let mut missed = Vec::new();
    for (case, result) in CASES.iter().zip(&results) {
        match result {
            Ok(one) => found.push((case, one)),
            Err(text) => missed.push(text.as_str()),
        }
    }
    let page = page(&found);
    println!("{page}");
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/PLANTED_BUGS.md");
    if std::env::var_os("LONGSHORE_REWRITE").is_some() {
        std::fs::write(path, &page).expect("the page is written");
    }
    let written = std::fs::read_to_string(path).expect("the page is there");
    assert_eq!(lasting(&written), lasting(&page), "rewrite {path}");
}
