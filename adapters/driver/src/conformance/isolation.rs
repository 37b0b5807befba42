//! Checks beyond the lifecycle of one instance: idempotency, instance sets, error classes, lost
//! responses, batches.

use std::collections::BTreeMap;

use longshore_core::ids::InstanceId;
use tokio::time::{Instant, sleep};

use super::lifecycle::count;
use super::run::{CheckError, CheckResult, Run, Subject, fail, intent, skipped};
use super::{ErrorCase, Fault, InjectError};
use crate::driver::Cloud as _;
use crate::instance::{CreateSpec, Instance};
use crate::layer::Operation;
use crate::{CloudError, ErrorClass, tag};

impl Run<'_> {
    pub(super) async fn duplicate_token(&mut self, subject: &Subject) -> CheckResult<()> {
        if !self.harness.capabilities().idempotent_create {
            return skipped("the driver does not declare idempotent creates");
        }
        let id = &subject.instance.id;
        let note = match self.cloud.create(subject.spec.clone()).await {
            Ok(again) if again.id == *id => String::new(),
            Ok(second) => {
                let message = format!("the same token created {} beside {id}", second.id);
                self.created.push(second.id);
                return fail(message);
            }
            Err(error) => format!("the create returned: {error}"),
        };
        match self.find_second(id).await? {
            Some(second) => fail(format!("the same token created {second} beside {id}")),
            None => Ok(((), note)),
        }
    }

    /// Polls for an instance of the set other than `first`. The set was empty before the run, so
    /// any other instance, even without an intent, was created by the run and must be destroyed.
    async fn find_second(&mut self, first: &InstanceId) -> Result<Option<InstanceId>, CheckError> {
        let deadline = Instant::now() + self.timeouts.absence;
        self.progress
            .waiting_for("a second instance; none is expected");
        loop {
            let instances = self.cloud.list().await?;
            let own = self.harness.instance_set_id();
            let second = instances.into_iter().find(|i| {
                let of_the_set = i.tags.get(tag::SET).is_some_and(|set| set == own);
                of_the_set && !i.terminated && i.id != *first && !self.created.contains(&i.id)
            });
            if let Some(second) = second {
                self.created.push(second.id.clone());
                return Ok(Some(second.id));
            }
            if Instant::now() >= deadline || self.stopped() {
                return Ok(None);
            }
            sleep(self.timeouts.poll_interval).await;
        }
    }

    pub(super) async fn other_set(&self, subject: &Subject) -> CheckResult<()> {
        let Some(other) = self.harness.other_set() else {
            return skipped("the harness has no other instance set");
        };
        let id = &subject.instance.id;
        let own = self.harness.instance_set_id();
        let in_own_set = |i: &Instance| i.tags.get(tag::SET).is_some_and(|set| set == own);
        if let Some(instance) = other
            .list()
            .await?
            .iter()
            .find(|i| i.id == *id || in_own_set(i))
        {
            return fail(format!(
                "the list for another set contains {} of set {own:?}",
                instance.id
            ));
        }
        if let Some(instance) = self.cloud.list().await?.iter().find(|i| !in_own_set(i)) {
            return fail(format!(
                "the list for set {own:?} contains {} of another set",
                instance.id
            ));
        }
        Ok(((), String::new()))
    }

    pub(super) async fn error_classes(&mut self, subject: &Subject) -> CheckResult<()> {
        let table = self.harness.error_cases();
        if table.is_empty() {
            return skipped("the harness cannot inject provider errors");
        }
        let mut problems = Vec::new();
        for case in &table {
            let fault = Fault::Error(case.clone());
            match self.harness.inject(&fault).await {
                Ok(()) => {}
                Err(InjectError::Unsupported) => {
                    return skipped("the harness cannot inject provider errors");
                }
                Err(InjectError::Failed(message)) => {
                    problems.push(format!("{}: {message}", case.code));
                    continue;
                }
            }
            self.progress.waiting_for(&case.code);
            let answer = self.failing_call(case, subject).await?;
            if let Some(message) = misclassified(case, answer) {
                problems.push(message);
            }
        }
        match problems.as_slice() {
            [] => Ok(((), format!("{} errors", table.len()))),
            problems => fail(problems.join("; ")),
        }
    }

    /// Makes the call for an injected error.
    async fn failing_call(
        &mut self,
        case: &ErrorCase,
        subject: &Subject,
    ) -> Result<Result<(), CloudError>, CheckError> {
        let id = &subject.instance.id;
        Ok(match case.operation {
            Operation::Create => {
                let spec = self.new_spec()?;
                let created = self.cloud.create(spec).await;
                created.map(|instance| self.created.push(instance.id))
            }
            Operation::List => self.cloud.list().await.map(drop),
            Operation::SetTags => {
                let same = subject.spec.tags.get(tag::IDLE_BEHAVIOR);
                let same = same.map(|value| (tag::IDLE_BEHAVIOR.to_owned(), value.clone()));
                let tags: BTreeMap<_, _> = same.into_iter().collect();
                self.cloud.set_tags(id, tags).await
            }
            Operation::Destroy => self.cloud.destroy(id).await,
            Operation::Prices | Operation::HostKeyCheck => {
                return fail(format!(
                    "the harness lists an error of {}, an operation without this check",
                    case.operation
                ));
            }
        })
    }

    pub(super) async fn lost_create(&mut self) -> CheckResult<()> {
        match self.harness.inject(&Fault::LostCreate).await {
            Ok(()) => {}
            Err(InjectError::Unsupported) => {
                return skipped("the harness cannot inject a lost response");
            }
            Err(InjectError::Failed(message)) => return fail(message),
        }
        let spec = self.new_spec()?;
        let mut problems = Vec::new();
        match self.cloud.create(spec.clone()).await {
            Err(CloudError::Ambiguous { .. }) => {}
            Err(error) => problems.push(format!(
                "a create with a lost response must be ambiguous, but the driver returned: {error}"
            )),
            Ok(instance) => {
                self.created.push(instance.id);
                problems.push("a create with a lost response must be ambiguous, but the driver returned success".to_owned());
            }
        }
        let what = format!("the instance of intent {}", spec.intent);
        let found = self
            .poll_until(&what, self.timeouts.visible, |instances| {
                let same = |i: &&Instance| intent(i) == Some(spec.intent) && !i.terminated;
                Ok(instances.iter().find(same).cloned())
            })
            .await?;
        self.created.push(found.id.clone());
        if self.harness.capabilities().idempotent_create {
            problems.extend(self.create_again(spec, &found.id).await?);
        }
        self.destroy_and_wait(std::slice::from_ref(&found.id))
            .await?;
        match problems.is_empty() {
            true => Ok(((), format!("found and destroyed {}", found.id))),
            false => fail(problems.join("; ")),
        }
    }

    /// Repeats a create request like a dispatcher after an ambiguous result. Returns the problem,
    /// if any.
    async fn create_again(
        &mut self,
        spec: CreateSpec,
        found: &InstanceId,
    ) -> Result<Option<String>, CheckError> {
        let second = match self.cloud.create(spec).await {
            Ok(again) if again.id != *found => {
                self.created.push(again.id.clone());
                Some(again.id)
            }
            _ => self.find_second(found).await?,
        };
        Ok(second.map(|second| {
            format!("on a repeated create, the driver created {second} beside {found}")
        }))
    }

    pub(super) async fn batch(&mut self) -> CheckResult<()> {
        if !self.harness.capabilities().batches {
            return skipped("the driver does not declare batches");
        }
        let specs = vec![self.new_spec()?, self.new_spec()?];
        let mut problems = Vec::new();
        let answers = self.cloud.create_many(specs.clone()).await;
        let mut created = Vec::new();
        if answers.len() != specs.len() {
            problems.push(format!(
                "requested {}, received {} results",
                count(specs.len()),
                answers.len()
            ));
        }
        for answer in answers {
            match answer {
                Ok(instance) => created.push(instance.id),
                Err(error) => problems.push(error.to_string()),
            }
        }
        self.created.extend(created.iter().cloned());
        for (spec, id) in specs.iter().zip(&created) {
            // Result and request at the same index must match.
            if let Err(error) = self.wait_tagged(spec, id).await {
                problems.push(match error {
                    CheckError::Failed { message, .. } | CheckError::Skipped(message) => message,
                });
            }
        }
        self.destroy_and_wait(&created).await?;
        match problems.is_empty() {
            true => Ok(((), String::new())),
            false => fail(problems.join("; ")),
        }
    }
}

/// Problem in the result of a failing call, if any.
fn misclassified(case: &ErrorCase, answer: Result<(), CloudError>) -> Option<String> {
    let ErrorCase {
        code,
        message,
        operation,
        class,
    } = case;
    let already_gone = *operation == Operation::Destroy && *class == ErrorClass::NotFound;
    let error = match answer {
        Ok(()) if already_gone => return None,
        Ok(()) => {
            return Some(format!(
                "{code}: the cloud refused {operation}, but the driver returned success"
            ));
        }
        Err(error) if already_gone => {
            return Some(format!(
                "{code}: destroying a terminated instance must succeed: {error}"
            ));
        }
        Err(error) => error,
    };
    let text = error.to_string();
    let actual = ErrorClass::of(&error);
    if actual != *class {
        return Some(format!("{code}: expected {class}, got {actual}: {text}"));
    }
    if !text.contains(code.as_str()) || !text.contains(message.as_str()) {
        return Some(format!(
            "{code}: the code or the message of the cloud is missing: {text}"
        ));
    }
    None
}
