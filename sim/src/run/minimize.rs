//! Minimization of a failing plan: fewer faults for a shorter time and fewer containers, with the
//! same rule broken.

use std::time::Duration;

use crate::run::{Report, Verdict, run};
use crate::world::faults::Fault;
use crate::world::plan::Plan;

/// Result of a minimization.
#[derive(Clone, Debug)]
pub struct Minimized {
    /// Minimized plan.
    pub plan: Plan,
    /// Report of the run of the minimized plan.
    pub report: Report,
    /// Faults needed for the failure.
    pub faults: Vec<Fault>,
    /// Number of containers still submitted.
    pub containers: u32,
    /// Number of runs executed during the search.
    pub runs: u32,
}

/// Reduces a failing plan as far as the failure remains the same; `None` if the plan does not fail.
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

/// Lower bound of the time with faults.
const FAULT_TIME_MIN: Duration = Duration::from_secs(10);

/// Kind of failure of a run: the verdict and the first broken rule.
fn failure(report: &Report) -> Option<(Verdict, Option<&'static str>)> {
    let rule = report.violations.first().map(|v| v.rule);
    (report.verdict != Verdict::Ok).then_some((report.verdict, rule))
}

/// Slightly smaller plans, the largest reductions first. Each candidate is smaller in a finite
/// measure, so the search ends.
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
    fn minimize_endless_plan_keeps_failure() {
        let mut plan = Plan::generate(3, Profile::Lite);
        // No VM boots within the timeout, so no container ever ends.
        plan.config.timeouts.booting = Duration::from_millis(1);
        for fault in [Fault::Reconfigured, Fault::RestartReconfigured] {
            plan.faults.ratios.remove(&fault);
        }
        let never_matters = crate::world::rng::Ratio::new(1, 3);
        plan.faults.ratios.insert(Fault::NoHint, never_matters);
        let before = plan.workloads.iter().map(|w| w.left).sum::<u32>();
        let small = minimize(&plan).expect("plan fails");
        assert_eq!(small.report.verdict, Verdict::Liveness);
        assert!(small.containers < before, "{} left", small.containers);
        assert!(small.faults.len() < plan.faults.ratios.len());
        assert!(small.plan.fault_budget < plan.fault_budget);
        assert!(small.plan.faults_stop_after < plan.faults_stop_after);
    }

    #[test]
    fn minimize_successful_plan_returns_none() {
        assert!(minimize(&Plan::generate(3, Profile::Lite)).is_none());
    }
}
