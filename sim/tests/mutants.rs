//! Mutation tests of the simulator: each mutant of the core must be detected by a rule broken by
//! the mutant.
//!
//! `MUTANTS.md` has the results; rewrite the file with
//! `LONGSHORE_REWRITE=1 cargo test -p longshore-sim --test mutants`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use longshore_core::config::Rate;
use longshore_core::mutants::Mutant;
use longshore_sim::{Fault, Plan, Profile, Report, Verdict, run};

/// Search parameters of a mutant.
struct Case {
    mutant: Mutant,
    /// Rules allowed to detect the mutant first.
    rules: &'static [&'static str],
    /// Number of seeds within which the mutant must be detected.
    within: u64,
    /// Faults required for an effect of the mutant.
    faults: &'static [Fault],
    /// Additional changes of the plan required for an effect.
    tune: fn(Plan) -> Plan,
}

const fn case(
    mutant: Mutant,
    rules: &'static [&'static str],
    within: u64,
    faults: &'static [Fault],
) -> Case {
    Case {
        mutant,
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
        tune: |plan| plan.with_create_rate(EVERY_30_S),
        ..case(Mutant::RatesIgnored, &["rates"], 50, &[])
    },
    Case {
        tune: |plan| plan.with_probe_rate(EVERY_30_S),
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

/// Rate of one create each 30 seconds.
const EVERY_30_S: Rate = Rate {
    interval: Duration::from_secs(30),
    burst: 1,
};

/// Result of the search for a mutant.
struct Detection {
    seed: u64,
    rule: &'static str,
}

impl Case {
    fn plan(&self, seed: u64) -> Plan {
        let drawn = Plan::generate(seed, Profile::Lite);
        (self.tune)(drawn.with_faults(self.faults))
    }

    /// Searches the first seed with a violation of an expected rule and without violations in the
    /// unmutated core; on failure returns the other violated rules.
    fn search(&self) -> Result<Detection, String> {
        let mut other = BTreeSet::new();
        let mutant = self.mutant;
        for seed in 0..self.within {
            let report = run(
                &self
                    .plan(seed)
                    .with_core_hook(move |core| core.plant(mutant)),
                false,
            );
            let Some(rule) = violated_rule(&report) else {
                continue;
            };
            if !self.rules.contains(&rule) {
                other.insert(format!("{rule} (seed {seed})"));
            } else if run(&self.plan(seed), false).verdict == Verdict::Ok {
                return Ok(Detection { seed, rule });
            }
        }
        let within = self.within;
        Err(format!(
            "{mutant:?} was not detected within {within} seeds; other violated rules: {other:?}"
        ))
    }
}

fn violated_rule(report: &Report) -> Option<&'static str> {
    match report.verdict {
        Verdict::Ok => None,
        Verdict::Safety => report.violations.first().map(|violation| violation.rule),
        Verdict::Liveness => Some("liveness"),
    }
}

/// Searches on all cores; results are in the order of the cases.
fn search_all() -> Vec<Result<Detection, String>> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<Result<Detection, String>>>> =
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
# Mutants

Mutation test of the simulator: each mutant breaks one rule in the core, and an invariant of the
simulator must detect the violation. Seeds are generated worlds of the profile `lite`, for some
mutants with the faults required for an effect; the same world without the mutant passes. Written by
`LONGSHORE_REWRITE=1 cargo test -p longshore-sim --test mutants`.

| mutant | effect | broken rule | detected by | first seed | required within |
|---|---|---|---|---:|---:|
";

fn page(detections: &[(&Case, &Detection)]) -> String {
    let mut page = INTRODUCTION.to_owned();
    for (case, detection) in detections {
        let (name, what, rule) = (case.mutant.name(), case.mutant.what(), case.mutant.rule());
        let _ = writeln!(
            page,
            "| {name} | {} | {rule} | {} | {} | {} seeds |",
            what.trim(),
            detection.rule,
            detection.seed,
            case.within
        );
    }
    page
}

/// Page without the seeds, because seeds change with the world.
fn without_seeds(page: &str) -> Vec<String> {
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
fn every_mutant_detected() {
    let cases: BTreeSet<Mutant> = CASES.iter().map(|case| case.mutant).collect();
    let all: BTreeSet<Mutant> = Mutant::ALL.iter().copied().collect();
    assert_eq!(cases, all, "every mutant has a case");
    let results = search_all();
    let mut detections = Vec::new();
    let mut undetected = Vec::new();
    for (case, result) in CASES.iter().zip(&results) {
        match result {
            Ok(detection) => detections.push((case, detection)),
            Err(text) => undetected.push(text.as_str()),
        }
    }
    let page = page(&detections);
    println!("{page}");
    assert!(undetected.is_empty(), "{}", undetected.join("\n"));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/MUTANTS.md");
    if std::env::var_os("LONGSHORE_REWRITE").is_some() {
        std::fs::write(path, &page).expect("sim/MUTANTS.md is writable");
    }
    let written = std::fs::read_to_string(path).expect("sim/MUTANTS.md is readable");
    assert_eq!(
        without_seeds(&written),
        without_seeds(&page),
        "out of date: {path}"
    );
}
