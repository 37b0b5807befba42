//! Output of the test: a row for each step when the step ends, and a summary; or one JSON document.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use longshore_cluster_config::ClusterConfig;
use longshore_driver::conformance::{Check, Hint, Outcome as StepOutcome, Progress, Report, Step};
use serde_json::json;

use super::Subject;
use crate::cli::CloudtestArgs;
use crate::error::{CliError, CliResult};

const TITLE_WIDTH: usize = 32;
const TICK: Duration = Duration::from_millis(200);

/// Result of the suite in one subnet.
pub(super) struct Subnet {
    /// Subnet, if the driver has subnets.
    pub(super) subnet: Option<String>,
    pub(super) report: Report,
}

/// Printer of the results of a test run.
pub(super) struct Reporter {
    json: bool,
    driver: String,
    set: String,
    type_name: String,
    provider_type: String,
    image: String,
    done: Vec<Subnet>,
}

impl Reporter {
    pub(super) fn new(cluster: &ClusterConfig, args: &CloudtestArgs, subject: &Subject) -> Self {
        let reporter = Self {
            json: args.json.json,
            driver: cluster.cloud.driver.clone(),
            set: args.instance_set_id.clone(),
            type_name: subject.type_name.to_string(),
            provider_type: subject.offer.provider_type.clone(),
            image: subject.image.to_string(),
            done: Vec::new(),
        };
        if !reporter.json {
            println!(
                "driver {}, instance set {}, type {} ({}), image {}",
                reporter.driver,
                reporter.set,
                reporter.type_name,
                reporter.provider_type,
                reporter.image
            );
        }
        reporter
    }

    /// Prints the heading of a subnet.
    pub(super) fn begin(&self, subnet: Option<&str>) -> Rows {
        if !self.json {
            if let Some(subnet) = subnet {
                println!("\nsubnet {subnet}");
            }
            println!("{:TITLE_WIDTH$} {:8} {:>9}", "STEP", "RESULT", "SECONDS");
        }
        Rows::new(self.json)
    }

    pub(super) fn add(&mut self, done: Subnet) {
        self.done.push(done);
    }

    /// Prints the summary; returns an error if a step failed.
    pub(super) fn finish(self, stopped: bool) -> CliResult {
        let failures: Vec<String> = self.done.iter().flat_map(failures).collect();
        let passed = failures.is_empty() && !stopped;
        if self.json {
            println!("{}", self.document(passed));
        }
        if !failures.is_empty() {
            return Err(CliError::failed(format!("failed: {}", failures.join(", "))));
        }
        if stopped {
            return Err(CliError::failed(
                "stopped before the end; the instances of the test are destroyed".to_owned(),
            ));
        }
        if !self.json {
            println!("All steps passed.");
        }
        Ok(())
    }

    fn document(&self, passed: bool) -> serde_json::Value {
        let step = |step: &Step| {
            let mut value = json!(step);
            value["title"] = step.check.title().into();
            if let StepOutcome::Failed { hints, .. } = &step.outcome {
                value["advice"] = hints.iter().map(|hint| hint.advice()).collect();
            }
            value
        };
        let run = |done: &Subnet| {
            let steps: Vec<_> = done.report.steps.iter().map(step).collect();
            json!({
                "subnet": done.subnet,
                "passed": done.report.passed(),
                "steps": steps,
            })
        };
        let runs: Vec<_> = self.done.iter().map(run).collect();
        json!({
            "passed": passed,
            "driver": self.driver,
            "instance_set_id": self.set,
            "instance_type": self.type_name,
            "provider_type": self.provider_type,
            "image": self.image,
            "runs": runs,
        })
    }
}

fn failures(done: &Subnet) -> Vec<String> {
    let named = |check: Check| match &done.subnet {
        Some(subnet) => format!("{} ({subnet})", check.title()),
        None => check.title().to_owned(),
    };
    done.report.failures().into_iter().map(named).collect()
}

/// Rows of one run, printed when a step ends; on a terminal a progress line below.
pub(super) struct Rows {
    json: bool,
    bar: ProgressBar,
}

impl Rows {
    fn new(json: bool) -> Self {
        let target = match std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(TICK);
        Self { json, bar }
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for Rows {
    fn check_started(&self, check: Check) {
        self.bar.reset_elapsed();
        self.bar.set_prefix(check.title());
        self.bar.set_message("");
        if check == Check::Pause {
            // The user reads and types now.
            self.bar.disable_steady_tick();
            self.bar.suspend(|| {});
        }
    }

    fn waiting_for(&self, words: &str) {
        self.bar.set_message(words.to_owned());
    }

    fn check_ended(&self, step: &Step) {
        if step.check == Check::Pause {
            self.bar.enable_steady_tick(TICK);
        }
        if !self.json {
            self.bar.suspend(|| print!("{}", rows(step)));
        }
    }
}

/// Row of a step, and detail lines below.
fn rows(step: &Step) -> String {
    let seconds = step.took.as_secs_f64();
    let row = |result: &str, words: &str| {
        let title = step.check.title();
        let row = format!("{title:TITLE_WIDTH$} {result:8} {seconds:9.2}  {words}");
        format!("{}\n", row.trim_end())
    };
    match &step.outcome {
        StepOutcome::Passed { note } => match note.contains('\n') {
            false => row("ok", note),
            true => format!("{}{}", row("ok", ""), indented(note)),
        },
        StepOutcome::Skipped { reason } => row("-", reason),
        StepOutcome::Failed { message, hints } => {
            let hints = hints.iter().map(Hint::to_string);
            let hints: String = hints.map(|hint| format!("    check {hint}\n")).collect();
            format!("{}{}{hints}", row("FAILED", ""), indented(message))
        }
    }
}

fn indented(words: &str) -> String {
    words.lines().map(|line| format!("    {line}\n")).collect()
}
