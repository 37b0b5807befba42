//! Checks of the lifecycle of one instance, from create request to termination.

use std::cell::RefCell;

use longshore_core::ids::InstanceId;
use longshore_core::input::IdleBehavior;
use longshore_core::time::Timestamp;
use tokio::time::{Instant, sleep};

use super::run::{
    CheckError, CheckResult, Run, Subject, cloud_failure, fail, intent, names, skipped,
};
use super::{CommandError, Identity};
use crate::driver::Cloud as _;
use crate::instance::{CreateSpec, HostKeyCheck, Instance};
use crate::{CloudError, tag};

/// Temporary value of a tag in the check for tag changes.
const OTHER_BEHAVIOR: IdleBehavior = IdleBehavior::Hold;

impl Run<'_> {
    /// Fails if an instance of another set is listed. Listed instances of the tested set are
    /// destroyed with `destroy_existing`, and are a failure otherwise.
    pub(super) async fn clear(&self, instances: Vec<Instance>) -> CheckResult<()> {
        let own = self.harness.instance_set_id();
        let set = |i: &Instance| i.tags.get(tag::SET).cloned().unwrap_or_default();
        if let Some(other) = instances.iter().find(|i| set(i) != own) {
            return fail(format!(
                "the list for set {own:?} contains {} of set {:?}",
                other.id,
                set(other)
            ));
        }
        let running = instances.into_iter().filter(|i| !i.terminated);
        let ids: Vec<InstanceId> = running.map(|i| i.id).collect();
        if ids.is_empty() {
            return Ok(((), String::new()));
        }
        if !self.options.destroy_existing {
            return fail(format!(
                "set {own:?} has {} from before: {}",
                count(ids.len()),
                names(&ids)
            ));
        }
        self.progress
            .waiting_for(&format!("destroying {}", names(&ids)));
        self.destroy_and_wait(&ids).await?;
        Ok(((), format!("destroyed {}", names(&ids))))
    }

    /// Creates the instance. After an error the list is polled for the instance; an instance found
    /// then is returned together with the error.
    pub(super) async fn create(&mut self) -> Result<(Subject, Option<CheckError>), CheckError> {
        let spec = self.new_spec()?;
        let error = match self.cloud.create(spec.clone()).await {
            Ok(instance) => {
                let wrong = created_error(&spec, &instance);
                let subject = self.subject(spec, instance);
                return Ok((subject, wrong));
            }
            Err(error) => error,
        };
        let what = format!("an instance of the failed create, after {error}");
        let timeout = match error {
            CloudError::Ambiguous { .. } => self.timeouts.visible,
            _ => self.timeouts.absence,
        };
        let found = self
            .poll_until(&what, timeout, |instances| {
                let wanted = |i: &&Instance| intent(i) == Some(spec.intent) && !i.terminated;
                Ok(instances.iter().find(wanted).cloned())
            })
            .await;
        match found {
            Ok(instance) => {
                let what = match error {
                    CloudError::Ambiguous { .. } => {
                        "the instance was created, but the create returned"
                    }
                    _ => "the instance was created, but the create returned a definite failure",
                };
                let error = cloud_failure(what, &error);
                Ok((self.subject(spec, instance), Some(error)))
            }
            Err(_) => Err(error.into()),
        }
    }

    /// Create request with an unused intent. Any instance with the intent belongs to this run.
    pub(super) fn new_spec(&mut self) -> Result<CreateSpec, CheckError> {
        let spec = self.harness.spec().or_else(fail)?;
        if self.intents.contains(&spec.intent) {
            return fail("the harness returned the same intent twice");
        }
        self.intents.push(spec.intent);
        Ok(spec)
    }

    fn subject(&mut self, spec: CreateSpec, instance: Instance) -> Subject {
        self.created.push(instance.id.clone());
        Subject {
            spec,
            instance,
            host_key: None,
        }
    }

    pub(super) async fn listed(&self, subject: &mut Subject) -> CheckResult<()> {
        let id = subject.instance.id.clone();
        let found = self
            .poll_until(
                &format!("{id} in the list"),
                self.timeouts.visible,
                |instances| {
                    let mut same = instances.iter().filter(|i| i.id == id);
                    match (same.next(), same.next()) {
                        (Some(_), Some(_)) => fail(format!("the list contains {id} twice")),
                        (Some(one), None) if one.terminated => {
                            fail(format!("{id} terminated without a destroy"))
                        }
                        (one, _) => Ok(one.cloned()),
                    }
                },
            )
            .await?;
        subject.instance = found;
        Ok(((), String::new()))
    }

    pub(super) async fn tags(&self, subject: &mut Subject) -> CheckResult<()> {
        let id = subject.instance.id.clone();
        subject.instance = self.wait_tagged(&subject.spec, &id).await?;
        self.resource_tags(&id).await
    }

    /// Polls until the instance has the tags of the create request.
    pub(super) async fn wait_tagged(
        &self,
        spec: &CreateSpec,
        id: &InstanceId,
    ) -> Result<Instance, CheckError> {
        let what = format!("the tags of {id}");
        self.wait_correct(&what, id, |instance| self.tags_wrong(spec, instance))
            .await
    }

    /// Polls until `wrong` returns an empty text for the instance. On timeout fails with the last
    /// text.
    async fn wait_correct(
        &self,
        what: &str,
        id: &InstanceId,
        wrong: impl Fn(&Instance) -> String,
    ) -> Result<Instance, CheckError> {
        let last = RefCell::new(String::new());
        let instances = self
            .poll_until(what, self.timeouts.visible, |instances| {
                let Some(instance) = find_running(instances, id)? else {
                    return Ok(None);
                };
                *last.borrow_mut() = wrong(instance);
                Ok(last.borrow().is_empty().then(|| instance.clone()))
            })
            .await;
        match (instances, last.into_inner().as_str()) {
            (Err(CheckError::Failed { class: None, .. }), wrong) if !wrong.is_empty() => {
                fail(wrong)
            }
            (instances, _) => instances,
        }
    }

    /// Differences between requested and actual tags; empty if none.
    fn tags_wrong(&self, spec: &CreateSpec, instance: &Instance) -> String {
        let own = [
            (
                tag::SET.to_owned(),
                self.harness.instance_set_id().to_owned(),
            ),
            (tag::INTENT.to_owned(), spec.intent.to_string()),
        ];
        let mut expected = instance.clone();
        expected.tags = spec.tags.clone();
        expected.tags.extend(own);
        expected.secret = spec.secret.clone();
        tags_differ(&expected, instance)
    }

    async fn resource_tags(&self, id: &InstanceId) -> CheckResult<()> {
        let expected = self.harness.resource_tags();
        let instances = self.harness.provider_tags(id).await.or_else(fail)?;
        let Some(instances) = instances else {
            return Ok(((), String::new()));
        };
        for (name, value) in expected {
            if instances.get(&name) != Some(&value) {
                return fail(format!(
                    "the resource tag {name:?} is {:?} instead of {value:?}",
                    instances.get(&name)
                ));
            }
        }
        Ok(((), "including resource tags".to_owned()))
    }

    pub(super) async fn retag(&self, subject: &mut Subject) -> CheckResult<()> {
        let id = &subject.instance.id;
        let name = tag::IDLE_BEHAVIOR.to_owned();
        let new = [(name.clone(), OTHER_BEHAVIOR.name().to_owned())];
        self.cloud.set_tags(id, new.clone().into()).await?;
        // Starting from the tags before the change, so that any other change is detected too.
        let mut expected = subject.instance.clone();
        let before = expected.tags.get(&name).cloned();
        expected.tags.extend(new);
        self.wait_correct("the changed tag", id, |instances| {
            tags_differ(&expected, instances)
        })
        .await?;
        if let Some(before) = before {
            self.cloud.set_tags(id, [(name, before)].into()).await?;
        }
        Ok(((), String::new()))
    }

    pub(super) async fn address(&self, subject: &mut Subject) -> CheckResult<()> {
        let id = subject.instance.id.clone();
        let what = format!("an address of {id}");
        let instances = self
            .poll_until(&what, self.timeouts.address, |instances| {
                let instance = find_running(instances, &id)?;
                Ok(instance.filter(|i| i.address.is_some()).cloned())
            })
            .await?;
        let address = instances.address.clone().unwrap_or_default();
        subject.instance = instances;
        Ok(((), address))
    }

    pub(super) async fn identity(&self, subject: &mut Subject) -> CheckResult<()> {
        // The expected secret is the secret of the create request, independent of the listed tags.
        subject.instance.secret = subject.spec.secret.clone();
        let Identity { host_key } = self
            .ask_until_ok(subject, async |instance| {
                self.harness.verify_identity(instance).await
            })
            .await?;
        subject.host_key = host_key;
        Ok(((), String::new()))
    }

    pub(super) async fn host_key(&self, subject: &Subject) -> CheckResult<()> {
        let Some(presented) = &subject.host_key else {
            return skipped("the SSH host key of the instance is unknown");
        };
        match self
            .cloud
            .host_key_check(&subject.instance.id, presented)
            .await?
        {
            HostKeyCheck::Own => Ok(((), String::new())),
            HostKeyCheck::Unknown => skipped("this cloud has no information about host keys"),
            HostKeyCheck::Other => fail(format!(
                "the cloud reports another host key than {presented:?}"
            )),
        }
    }

    pub(super) async fn boot_probe(&self, subject: &mut Subject) -> CheckResult<()> {
        self.ask_until_ok(subject, async |instance| {
            self.harness.boot_probe(instance).await
        })
        .await?;
        Ok(((), String::new()))
    }

    pub(super) async fn command(&self, subject: &Subject) -> CheckResult<()> {
        match self.harness.command(&subject.instance).await {
            Ok(message) => Ok(((), message)),
            Err(CommandError::NotRequested) => skipped("no command was given"),
            Err(CommandError::Failed(message)) => fail(message),
        }
    }

    pub(super) async fn pause(&self, subject: &Subject) -> CheckResult<()> {
        match self.harness.pause(&subject.instance).await {
            true => Ok(((), String::new())),
            false => skipped("not requested"),
        }
    }

    pub(super) async fn prices(&self, subject: &Subject) -> CheckResult<()> {
        let id = &subject.instance.id;
        let ids = std::slice::from_ref(id);
        let prices = self.cloud.prices(ids, Timestamp::EPOCH).await?;
        if let Some(other) = prices.keys().find(|other| *other != id) {
            return fail(format!(
                "requested the price of {id}, received the price of {other}"
            ));
        }
        let points = prices.get(id).map(Vec::as_slice).unwrap_or_default();
        if !points.is_sorted_by_key(|point| point.since) {
            return fail("the prices are not sorted by time");
        }
        if self.harness.capabilities().market_prices {
            let preemptible = subject.spec.instance_type.preemptible;
            match (preemptible, points.is_empty()) {
                (true, true) => {
                    return fail(
                        "the instance is preemptible, but the driver returned no spot price",
                    );
                }
                (false, false) => {
                    return fail("the instance is on demand, but the driver returned a spot price");
                }
                _ => {}
            }
        }
        let note = match points.last() {
            None => "as configured".to_owned(),
            Some(last) => format!("{} per hour now", last.price),
        };
        Ok(((), note))
    }

    /// Destroys these instances and waits until all are terminated.
    pub(super) async fn destroy_and_wait(&self, ids: &[InstanceId]) -> Result<(), CheckError> {
        let answers = self.cloud.destroy_many(ids).await;
        if answers.len() != ids.len() {
            return fail(format!(
                "requested to destroy {}, received {} results",
                count(ids.len()),
                answers.len()
            ));
        }
        for answer in answers {
            answer.map_err(|error| cloud_failure(&format!("destroying {}", names(ids)), &error))?;
        }
        self.wait_terminated(&format!("termination of {}", names(ids)), ids)
            .await?;
        Ok(())
    }

    pub(super) async fn destroy(&self, subject: &Subject) -> CheckResult<()> {
        self.cloud.destroy(&subject.instance.id).await?;
        Ok(((), String::new()))
    }

    pub(super) async fn terminated(&self, subject: &Subject) -> CheckResult<()> {
        let id = subject.instance.id.clone();
        let how = self
            .wait_terminated(&format!("termination of {id}"), &[id])
            .await?;
        Ok(((), how))
    }

    pub(super) async fn destroy_again(&self, subject: &Subject) -> CheckResult<()> {
        let id = &subject.instance.id;
        let again = self.cloud.destroy(id).await;
        again.map_err(|error| {
            cloud_failure(
                &format!("destroying the terminated instance {id} must succeed"),
                &error,
            )
        })?;
        Ok(((), String::new()))
    }

    /// Repeats `ask` until success, with the latest address of the instance. Fails if the instance
    /// terminates.
    async fn ask_until_ok<T>(
        &self,
        subject: &mut Subject,
        ask: impl AsyncFn(&Instance) -> Result<T, String>,
    ) -> Result<T, CheckError> {
        let deadline = Instant::now() + self.timeouts.boot;
        loop {
            let message = match ask(&subject.instance).await {
                Ok(answer) => return Ok(answer),
                Err(message) => message,
            };
            self.progress.waiting_for(&message);
            if self.stopped() {
                return skipped("stopped");
            }
            if Instant::now() + self.timeouts.poll_interval > deadline {
                return fail(format!("not within {:?}: {message}", self.timeouts.boot));
            }
            sleep(self.timeouts.poll_interval).await;
            // A failed list gives no information about the instance.
            if let Ok(instances) = self.cloud.list().await
                && let Some(now) = find_running(&instances, &subject.instance.id)?
            {
                subject.instance.address = now.address.clone();
            }
        }
    }

    /// Polls the list until all these instances are terminated, and periodically repeats the
    /// destroy for the rest.
    pub(super) async fn wait_terminated(
        &self,
        what: &str,
        ids: &[InstanceId],
    ) -> Result<String, CheckError> {
        let deadline = Instant::now() + self.timeouts.terminated;
        loop {
            let left = RefCell::new(ids.to_vec());
            let timeout = self.timeouts.destroy_retry;
            let terminated = self
                .poll_until(what, timeout, |instances| {
                    let presented: Vec<&Instance> =
                        instances.iter().filter(|i| ids.contains(&i.id)).collect();
                    let running = presented.iter().filter(|i| !i.terminated);
                    *left.borrow_mut() = running.map(|i| i.id.clone()).collect();
                    let how = match presented.is_empty() {
                        true => "no longer listed",
                        false => "listed as terminated",
                    };
                    Ok(left.borrow().is_empty().then(|| how.to_owned()))
                })
                .await;
            let left = left.into_inner();
            match terminated {
                Err(CheckError::Failed { message, class }) if Instant::now() >= deadline => {
                    let message = format!("{message}; not terminated: {}", names(&left));
                    return Err(CheckError::Failed { message, class });
                }
                Err(CheckError::Failed { .. }) => {
                    // An error shows up in the next list, or at the deadline.
                    let _ = self.cloud.destroy_many(&left).await;
                    sleep(self.timeouts.poll_interval).await;
                }
                other => return other,
            }
        }
    }
}

/// Differences between expected and actual tags.
fn tags_differ(expected: &Instance, instances: &Instance) -> String {
    let mut wrong = Vec::new();
    for (name, value) in &expected.tags {
        match instances.tags.get(name) {
            Some(instances) if instances == value => {}
            Some(instances) => wrong.push(format!("{name} is {instances:?} instead of {value:?}")),
            None => wrong.push(format!("{name} is missing")),
        }
    }
    if instances.secret != expected.secret {
        let how = match instances.secret.is_empty() {
            true => "is missing",
            false => "has another value",
        };
        wrong.push(format!("{} {how}", tag::SECRET));
    }
    if instances.tags.contains_key(tag::SECRET) {
        wrong.push(format!("{} must not be among the tags", tag::SECRET));
    }
    wrong.join("; ")
}

/// Problem in a successful create result, if any.
fn created_error(spec: &CreateSpec, instance: &Instance) -> Option<CheckError> {
    let wrong = if instance.id.as_str().is_empty() {
        "the new instance has no id".to_owned()
    } else if instance.terminated {
        format!("the new instance {} is already terminated", instance.id)
    } else if intent(instance).is_some_and(|intent| intent != spec.intent) {
        format!("the new instance {} has another intent", instance.id)
    } else {
        return None;
    };
    fail::<()>(wrong).err()
}

/// Listed instance with this id; an error if the instance is terminated.
fn find_running<'a>(
    instances: &'a [Instance],
    id: &InstanceId,
) -> Result<Option<&'a Instance>, CheckError> {
    let found = instances.iter().find(|instance| instance.id == *id);
    match found {
        Some(instance) if instance.terminated => fail(format!("{id} terminated without a destroy")),
        other => Ok(other),
    }
}

pub(super) fn count(instances: usize) -> String {
    match instances {
        1 => "1 instance".to_owned(),
        n => format!("{n} instances"),
    }
}
