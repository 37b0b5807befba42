//! Drawn worlds: a few hundred of them with every test run.

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
fn the_rules_hold_in_small_worlds() {
    let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
    for number in 0..1000 {
        for (name, count) in seed(number, Profile::Lite).faults {
            *faults.entry(name).or_default() += count;
        }
    }
    let never: Vec<_> = faults.iter().filter(|(_, n)| **n == 0).collect();
    assert!(never.is_empty(), "faults that never struck: {never:?}");
}

#[test]
fn the_rules_hold_in_some_larger_worlds() {
    for number in 0..20 {
        seed(number, Profile::Swarm);
    }
}

#[test]
fn equal_seeds_give_equal_runs() {
    for number in 0..20 {
        let plan = Plan::generate(number, Profile::Lite);
        let (one, two) = (run(&plan, true), run(&plan, true));
        assert_eq!(one.trace, two.trace, "seed {number}");
        assert!(!one.trace.is_empty());
    }
}

#[test]
fn what_once_failed_never_fails_again() {
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
