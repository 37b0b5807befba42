//! Execution of the checks, and cleanup of all created instances.

use std::collections::BTreeSet;
use std::time::Duration;

use longshore_core::ids::{InstanceId, IntentId};
use tokio::time::{Instant, sleep};

use super::check::Check;
use super::hint::hints;
use super::report::{Outcome, Progress, Report, Step};
use super::{Harness, Options, Timeouts};
use crate::driver::{Cloud as _, SharedCloud};
use crate::instance::{CreateSpec, Instance};
use crate::layer::{Deadlines, Layered};
use crate::{CloudError, ErrorClass, tag};

/// Maximum interval between polls after a rate-limit error.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Runs every check, and destroys all instances created by the run.
pub async fn run(harness: &dyn Harness, options: Options, progress: &dyn Progress) -> Report {
    let mut run = Run::new(harness, options, progress);
    run.run_all().await;
    Report { steps: run.steps }
}

/// Checks of the running instance.
const LIFECYCLE: [Check; 13] = [
    Check::Listed,
    Check::Tags,
    Check::Retag,
    Check::Address,
    Check::Identity,
    Check::HostKey,
    Check::BootProbe,
    Check::Command,
    Check::Pause,
    Check::Prices,
    Check::DuplicateToken,
    Check::OtherSet,
    Check::ErrorClasses,
];
/// Checks at the end of the lifecycle, executed in any case once an instance exists.
const TEARDOWN: [Check; 3] = [Check::Destroy, Check::Terminated, Check::DestroyAgain];

/// Result of a check without success.
#[derive(Debug)]
pub(super) enum CheckError {
    /// Failure, with the error class if caused by an error of the driver.
    Failed {
        message: String,
        class: Option<ErrorClass>,
    },
    Skipped(String),
}

/// Result of a check, with a note for the report.
pub(super) type CheckResult<T> = Result<(T, String), CheckError>;

impl From<CloudError> for CheckError {
    fn from(error: CloudError) -> Self {
        Self::Failed {
            message: error.to_string(),
            class: Some(ErrorClass::of(&error)),
        }
    }
}

pub(super) fn fail<T>(message: impl Into<String>) -> Result<T, CheckError> {
    Err(CheckError::Failed {
        message: message.into(),
        class: None,
    })
}

pub(super) fn skipped<T>(reason: impl Into<String>) -> Result<T, CheckError> {
    Err(CheckError::Skipped(reason.into()))
}

/// Failure by an error of the driver, prefixed with a description of the operation.
pub(super) fn cloud_failure(what: &str, error: &CloudError) -> CheckError {
    CheckError::Failed {
        message: format!("{what}: {error}"),
        class: Some(ErrorClass::of(error)),
    }
}

/// State of a run.
pub(super) struct Run<'a> {
    pub(super) harness: &'a dyn Harness,
    pub(super) cloud: SharedCloud,
    pub(super) options: Options,
    pub(super) timeouts: Timeouts,
    pub(super) progress: &'a dyn Progress,
    /// Intents of all sent create requests: any instance with a listed intent belongs to the run.
    pub(super) intents: Vec<IntentId>,
    /// Ids of instances returned by create calls.
    pub(super) created: Vec<InstanceId>,
    steps: Vec<Step>,
    /// True during cleanup: stop requests are ignored.
    cleaning_up: bool,
}

/// Instance under test, and its create request.
pub(super) struct Subject {
    pub(super) spec: CreateSpec,
    pub(super) instance: Instance,
    /// Host key presented by the instance, after identity verification.
    pub(super) host_key: Option<String>,
}

impl<'a> Run<'a> {
    fn new(harness: &'a dyn Harness, options: Options, progress: &'a dyn Progress) -> Self {
        let timeouts = harness.timeouts();
        let each = timeouts.call;
        Self {
            harness,
            cloud: std::sync::Arc::new(Layered::new(harness.cloud(), Deadlines { each })),
            options,
            timeouts,
            progress,
            intents: Vec::new(),
            created: Vec::new(),
            steps: Vec::new(),
            cleaning_up: false,
        }
    }

    async fn run_all(&mut self) {
        let ready = self.prepare().await;
        let subject = match ready {
            Ok(()) => self.create_subject().await,
            Err(reason) => Err(reason),
        };
        match subject {
            Ok(subject) => {
                self.lifecycle(subject).await;
                self.separate_creates().await;
            }
            Err(reason) => {
                for check in Check::ALL {
                    if !self.tried(check) && check != Check::Cleanup {
                        self.skip(check, &reason);
                    }
                }
            }
        }
        self.cleaning_up = true;
        if self.intents.is_empty() {
            self.skip(Check::Cleanup, "no create request was sent");
        } else {
            let since = self.begin(Check::Cleanup);
            let result = self.clean_up().await;
            self.end(Check::Cleanup, since, result);
        }
    }

    /// Checks the preconditions for creates; returns the reason if creates are not allowed.
    async fn prepare(&mut self) -> Result<(), String> {
        let since = self.begin(Check::List);
        let listed = self.list().await;
        let instances = self.end(Check::List, since, listed);
        let instances = instances.ok_or("the list call failed")?;
        if self.harness.stopped() {
            return Err("stopped".to_owned());
        }
        let since = self.begin(Check::Leftovers);
        let cleared = self.clear(instances).await;
        let cleared = self.end(Check::Leftovers, since, cleared);
        cleared.ok_or_else(|| match self.harness.stopped() {
            true => "stopped".to_owned(),
            false => "instances of the set exist from before".to_owned(),
        })
    }

    /// Creates the instance for the checks of the lifecycle.
    async fn create_subject(&mut self) -> Result<Subject, String> {
        if self.harness.stopped() {
            return Err("stopped".to_owned());
        }
        let since = self.begin(Check::Create);
        let (subject, outcome) = match self.create().await {
            Ok((subject, error)) => (Some(subject), error.map_or(Ok(((), String::new())), Err)),
            Err(error) => (None, Err(error)),
        };
        self.end(Check::Create, since, outcome);
        subject.ok_or_else(|| "no instance was created".to_owned())
    }

    /// Runs the checks of the lifecycle, including teardown.
    async fn lifecycle(&mut self, mut subject: Subject) {
        for check in LIFECYCLE {
            match self.skip_reason(check) {
                Some(reason) => self.skip(check, reason),
                None => self.run_check(check, &mut subject).await,
            }
        }
        self.cleaning_up = true;
        for check in TEARDOWN {
            self.run_check(check, &mut subject).await;
        }
        self.cleaning_up = false;
    }

    /// Reason to skip a check after the results so far.
    fn skip_reason(&self, check: Check) -> Option<&'static str> {
        let not_passed = |before| before < check && !self.passed(before);
        if self.harness.stopped() {
            return Some("stopped");
        }
        if not_passed(Check::Listed) {
            return Some("the instance is not listed");
        }
        match check {
            Check::Identity | Check::Pause if not_passed(Check::Address) => {
                Some("the instance has no address")
            }
            Check::HostKey | Check::BootProbe | Check::Command if not_passed(Check::Identity) => {
                Some("the identity is not verified")
            }
            Check::Command if not_passed(Check::BootProbe) => Some("the instance is not ready"),
            _ => None,
        }
    }

    /// Runs the checks with instances of their own.
    async fn separate_creates(&mut self) {
        for check in [Check::LostCreate, Check::Batch] {
            if self.harness.stopped() {
                self.skip(check, "stopped");
                continue;
            }
            let since = self.begin(check);
            let result = match check {
                Check::LostCreate => self.lost_create().await,
                _ => self.batch().await,
            };
            self.end(check, since, result);
        }
    }

    async fn run_check(&mut self, check: Check, subject: &mut Subject) {
        let since = self.begin(check);
        let result = match check {
            Check::Listed => self.listed(subject).await,
            Check::Tags => self.tags(subject).await,
            Check::Retag => self.retag(subject).await,
            Check::Address => self.address(subject).await,
            Check::Identity => self.identity(subject).await,
            Check::HostKey => self.host_key(subject).await,
            Check::BootProbe => self.boot_probe(subject).await,
            Check::Command => self.command(subject).await,
            Check::Pause => self.pause(subject).await,
            Check::Prices => self.prices(subject).await,
            Check::DuplicateToken => self.duplicate_token(subject).await,
            Check::OtherSet => self.other_set(subject).await,
            Check::ErrorClasses => self.error_classes(subject).await,
            Check::Destroy => self.destroy(subject).await,
            Check::Terminated => self.terminated(subject).await,
            Check::DestroyAgain => self.destroy_again(subject).await,
            _ => skipped("not a check of a single instance"),
        };
        self.end(check, since, result);
    }

    fn passed(&self, check: Check) -> bool {
        let passed = |step: &Step| matches!(step.outcome, Outcome::Passed { .. });
        let steps = &mut self.steps.iter();
        steps.any(|step| step.check == check && passed(step))
    }

    fn tried(&self, check: Check) -> bool {
        self.steps.iter().any(|step| step.check == check)
    }

    fn begin(&self, check: Check) -> Instant {
        self.progress.check_started(check);
        Instant::now()
    }

    fn end<T>(&mut self, check: Check, since: Instant, result: CheckResult<T>) -> Option<T> {
        let (value, outcome) = match result {
            Ok((value, note)) => (Some(value), Outcome::Passed { note }),
            Err(CheckError::Skipped(reason)) => (None, Outcome::Skipped { reason }),
            Err(CheckError::Failed { message, class }) => {
                let hints = hints(check, class, &message);
                (None, Outcome::Failed { message, hints })
            }
        };
        self.record(Step {
            check,
            took: since.elapsed(),
            outcome,
        });
        value
    }

    fn skip(&mut self, check: Check, reason: &str) {
        self.record(Step {
            check,
            took: Duration::ZERO,
            outcome: Outcome::Skipped {
                reason: reason.to_owned(),
            },
        });
    }

    fn record(&mut self, step: Step) {
        self.progress.check_ended(&step);
        self.steps.push(step);
    }

    async fn list(&self) -> CheckResult<Vec<Instance>> {
        let instances = self.cloud.list().await?;
        let note = match instances.len() {
            1 => "1 instance".to_owned(),
            count => format!("{count} instances"),
        };
        Ok((instances, note))
    }

    /// Polls the list until `find` returns a value, up to `timeout`.
    pub(super) async fn poll_until<T>(
        &self,
        what: &str,
        timeout: Duration,
        mut find: impl FnMut(&[Instance]) -> Result<Option<T>, CheckError>,
    ) -> Result<T, CheckError> {
        let deadline = Instant::now() + timeout;
        let mut pause = self.timeouts.poll_interval / 8;
        let mut pause_max = self.timeouts.poll_interval;
        self.progress.waiting_for(what);
        loop {
            let last_error = match self.cloud.list().await {
                Ok(instances) => match find(&instances)? {
                    Some(found) => return Ok(found),
                    None => None,
                },
                Err(error @ CloudError::Permanent { .. }) => {
                    return Err(cloud_failure(what, &error));
                }
                Err(error) => {
                    if matches!(error, CloudError::RateLimited { .. }) {
                        pause = pause.max(self.timeouts.poll_interval);
                        pause_max = PAUSE_MAX;
                    }
                    self.progress.waiting_for(&format!("{what}: {error}"));
                    Some(error)
                }
            };
            if self.stopped() {
                return skipped("stopped");
            }
            if Instant::now() + pause > deadline {
                return match last_error {
                    Some(error) => Err(cloud_failure(
                        &format!("{what}: not within {timeout:?}"),
                        &error,
                    )),
                    None => fail(format!("{what}: not within {timeout:?}")),
                };
            }
            sleep(pause).await;
            pause = (pause * 2).min(pause_max);
        }
    }

    /// True if a stop was requested; always false during cleanup.
    pub(super) fn stopped(&self) -> bool {
        !self.cleaning_up && self.harness.stopped()
    }

    /// Destroys all remaining instances of the run, repeatedly until none is left.
    async fn clean_up(&self) -> CheckResult<()> {
        let deadline = Instant::now() + self.timeouts.terminated;
        let mut destroyed = BTreeSet::new();
        let others = loop {
            let last_error = match self.cloud.list().await {
                Ok(instances) => {
                    let running = instances.iter().filter(|i| !i.terminated && self.in_set(i));
                    let (remaining, others): (Vec<&Instance>, _) =
                        running.partition(|i| self.created_here(i));
                    if remaining.is_empty() {
                        break ids(others);
                    }
                    let remaining = ids(remaining);
                    let answers = self.cloud.destroy_many(&remaining).await;
                    destroyed.extend(remaining);
                    answers.into_iter().find_map(Result::err)
                }
                Err(error) => Some(error),
            };
            if Instant::now() + self.timeouts.poll_interval > deadline {
                let remaining: Vec<InstanceId> = destroyed.into_iter().collect();
                let message = format!(
                    "not terminated after {:?}: {}",
                    self.timeouts.terminated,
                    names(&remaining)
                );
                return match last_error {
                    Some(error) => Err(cloud_failure(&message, &error)),
                    None => fail(message),
                };
            }
            sleep(self.timeouts.poll_interval).await;
        };
        self.cleanup_result(destroyed, &others)
    }

    /// Fails if an instance had to be destroyed that was unknown by id, or if an instance of
    /// another origin is in the set.
    fn cleanup_result(
        &self,
        destroyed: BTreeSet<InstanceId>,
        others: &[InstanceId],
    ) -> CheckResult<()> {
        let (known, unknown): (Vec<InstanceId>, Vec<InstanceId>) = destroyed
            .into_iter()
            .partition(|id| self.created.contains(id));
        if !unknown.is_empty() {
            let unknown = names(&unknown);
            return fail(format!(
                "the driver never reported {unknown}, created by this run; destroyed now"
            ));
        }
        if !others.is_empty() {
            let others = names(others);
            return fail(format!(
                "created in the set by another process, left unchanged: {others}"
            ));
        }
        match known.as_slice() {
            [] => Ok(((), String::new())),
            known => Ok(((), format!("destroyed {}", names(known)))),
        }
    }

    fn in_set(&self, instance: &Instance) -> bool {
        let set = instance.tags.get(tag::SET).map(String::as_str);
        set == Some(self.harness.instance_set_id())
    }

    /// True if the instance was created by this run.
    fn created_here(&self, instance: &Instance) -> bool {
        self.created.contains(&instance.id)
            || intent(instance).is_some_and(|intent| self.intents.contains(&intent))
    }
}

/// Intent of the create request, from the tags.
pub(super) fn intent(instance: &Instance) -> Option<IntentId> {
    instance.tags.get(tag::INTENT)?.parse().ok()
}

pub(super) fn names(ids: &[InstanceId]) -> String {
    let names: Vec<&str> = ids.iter().map(InstanceId::as_str).collect();
    names.join(", ")
}

fn ids(instances: Vec<&Instance>) -> Vec<InstanceId> {
    let ids = instances.into_iter().map(|instance| instance.id.clone());
    ids.collect()
}
