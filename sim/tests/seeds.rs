//! Invariants on generated worlds: about a thousand seeds in every test run, and the seeds of the
//! corpus.

use std::collections::BTreeMap;

use longshore_sim::{Plan, Profile, Report, Verdict, run};

fn seed(number: u64, profile: Profile) -> Report {
    let report = run(&Plan::generate(number, profile), false);
    assert_eq!(
        report.verdict,
        Verdict::Ok,
        "seed {number} ({profile:?}):\n{}\n{:#?}\n{:#?}",
        report.tail.join("\n"),
        report.stuck,
        report.violations
    );
    report
}

#[test]
fn lite_seeds_hold_invariants() {
    let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
    for number in 0..1000 {
        for (name, count) in seed(number, Profile::Lite).faults {
            *faults.entry(name).or_default() += count;
        }
    }
    let never: Vec<_> = faults.iter().filter(|(_, n)| **n == 0).collect();
    assert!(never.is_empty(), "faults without any occurrence: {never:?}");
}

#[test]
fn swarm_seeds_hold_invariants() {
    for number in 0..20 {
        seed(number, Profile::Swarm);
    }
}

#[test]
fn equal_seeds_equal_traces() {
    for number in 0..20 {
        let plan = Plan::generate(number, Profile::Lite);
        let (one, two) = (run(&plan, true), run(&plan, true));
        assert_eq!(one.trace, two.trace, "seed {number}");
        assert!(!one.trace.is_empty());
    }
}

#[test]
fn corpus_seeds_pass() {
    let numbers = |text: &str| -> Vec<u64> {
        let parsed = text.lines().map(str::parse).collect();
        Result::unwrap(parsed)
    };
    for number in numbers(include_str!("../corpus/lite.txt")) {
        seed(number, Profile::Lite);
    }
    for number in numbers(include_str!("../corpus/swarm.txt")) {
        seed(number, Profile::Swarm);
    }
}
