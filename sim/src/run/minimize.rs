//! The smallest plan that still breaks the same rule: fewer faults for a shorter time, fewer
//! containers.

use std::time::Duration;

use crate::run::{Report, Verdict, run};
use crate::world::faults::Fault;
use crate::world::plan::Plan;

/// What is left of a failing plan.
#[derive(Clone, Debug)]
pub struct Minimized {
    /// What is left.
    pub plan: Plan,
    /// The run of what is left.
    pub report: Report,
    /// The faults that are still needed.
    pub faults: Vec<Fault>,
    /// Containers that are still submitted.
    pub containers: u32,
    /// Runs that it took.
    pub runs: u32,
}

/// Makes a failing plan smaller while it fails in the same way; `None` if it does not fail.
#[must_use]
pub fn minimize(plan: &Plan) -> Option<Minimized> {
    let mut report = run(plan, false);
    let wanted = failure(&report)?;
    let (mut plan, mut runs) = (plan.clone(), 1);
    let mut smaller = true;
    while smaller {
        smaller = false;
        for candidate in candidates(&plan) {
            runs += 1;
            let tried = run(&candidate, false);
            if failure(&tried).as_ref() == Some(&wanted) {
                (plan, report, smaller) = (candidate, tried, true);
                break;
            }
        }
    }
    Some(Minimized {
        faults: plan.faults.ratios.keys().copied().collect(),
        containers: plan.workloads.iter().map(|w| w.left).sum(),
        plan,
        report,
        runs,
    })
}

/// No world heals sooner.
const FAULT_TIME_MIN: Duration = Duration::from_secs(10);

/// In which way a run failed.
fn failure(report: &Report) -> Option<(Verdict, Option<&'static str>)> {
    let rule = report.violations.first().map(|v| v.rule);
    (report.verdict != Verdict::Ok).then_some((report.verdict, rule))
}

/// Plans that are a little smaller, the boldest first. Each of them is smaller in a finite measure,
/// so the search ends.
fn candidates(plan: &Plan) -> Vec<Plan> {
    let mut all = Vec::new();
    for index in 0..plan.workloads.len() {
        for left in [0, plan.workloads[index].left / 2] {
            if left < plan.workloads[index].left {
                let mut candidate = plan.clone();
                candidate.workloads[index].left = left;
                all.push(candidate);
            }
        }
    }
    if plan.fault_budget > 0 {
        let mut candidate = plan.clone();
        candidate.fault_budget /= 2;
        all.push(candidate);
    }
    if let Some(after) = plan
        .faults_stop_after
        .filter(|after| *after > FAULT_TIME_MIN)
    {
        let mut candidate = plan.clone();
        candidate.faults_stop_after = Some((after / 2).max(FAULT_TIME_MIN));
        all.push(candidate);
    }
    for fault in plan.faults.ratios.keys() {
        let mut candidate = plan.clone();
        candidate.faults.ratios.remove(fault);
        all.push(candidate);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::plan::Profile;

    #[test]
    fn a_plan_that_cannot_end_is_reduced_to_what_keeps_it_from_ending() {
        let mut plan = Plan::generate(3, Profile::Lite);
        // Nothing ever boots in time, so nothing ever ends.
        plan.config.timeouts.booting = Duration::from_millis(1);
        for fault in [Fault::Reconfigured, Fault::RestartReconfigured] {
            plan.faults.ratios.remove(&fault);
        }
        let never_matters = crate::world::rng::Ratio::new(1, 3);
        plan.faults.ratios.insert(Fault::NoHint, never_matters);
        let before = plan.workloads.iter().map(|w| w.left).sum::<u32>();
        let small = minimize(&plan).expect("it fails");
        assert_eq!(small.report.verdict, Verdict::Liveness);
        assert!(small.containers < before, "{} left", small.containers);
        assert!(small.faults.len() < plan.faults.ratios.len());
        assert!(small.plan.fault_budget < plan.fault_budget);
        assert!(small.plan.faults_stop_after < plan.faults_stop_after);
    }

    #[test]
    fn what_does_not_fail_is_left_alone() {
        assert!(minimize(&Plan::generate(3, Profile::Lite)).is_none());
    }
}
