//! The life of one instance, from the wish to its end.

use std::cell::RefCell;

use longshore_core::ids::InstanceId;
use longshore_core::time::Timestamp;
use tokio::time::{Instant, sleep};

use super::run::{Found, Miss, Run, Subject, broken, intent, left_out, names, said};
use super::{CommandError, Proof};
use crate::driver::Cloud as _;
use crate::instance::{CreateSpec, HostKeyCheck, Instance};
use crate::{CloudError, tag};

/// What a tag is changed to, and back to what it was.
const OTHER_BEHAVIOR: &str = "hold";

impl Run<'_> {
    /// Nothing of another set may be shown. What is shown of ours goes, or ends the run.
    pub(super) async fn clear(&self, seen: Vec<Instance>) -> Found<()> {
        let own = self.bench.instance_set_id();
        let set = |i: &Instance| i.tags.get(tag::SET).cloned().unwrap_or_default();
        if let Some(other) = seen.iter().find(|i| set(i) != own) {
            return broken(format!(
                "the list for set {own:?} shows {} of set {:?}",
                other.id,
                set(other)
            ));
        }
        let living = seen.into_iter().filter(|i| !i.terminated);
        let ids: Vec<InstanceId> = living.map(|i| i.id).collect();
        if ids.is_empty() {
            return Ok(((), String::new()));
        }
        if !self.plan.destroy_existing {
            return broken(format!(
                "set {own:?} has {} from before: {}",
                count(ids.len()),
                names(&ids)
            ));
        }
        self.progress.note(&format!("destroying {}", names(&ids)));
        self.end_of(&ids).await?;
        Ok(((), format!("destroyed {}", names(&ids))))
    }

    /// Makes the instance. Where the answer was an error and it is there all the same, it is found,
    /// and the error with it.
    pub(super) async fn create(&mut self) -> Result<(Subject, Option<Miss>), Miss> {
        let spec = self.wish()?;
        let error = match self.cloud.create(spec.clone()).await {
            Ok(instance) => {
                let wrong = created_wrong(&spec, &instance);
                let subject = self.subject(spec, instance);
                return Ok((subject, wrong));
            }
            Err(error) => error,
        };
        let what = format!("an instance all the same, after {error}");
        let patience = match error {
            CloudError::Ambiguous { .. } => self.patience.appear,
            _ => self.patience.settle,
        };
        let found = self
            .until(&what, patience, |seen| {
                let wanted = |i: &&Instance| intent(i) == Some(spec.intent) && !i.terminated;
                Ok(seen.iter().find(wanted).cloned())
            })
            .await;
        match found {
            Ok(instance) => {
                let what = match error {
                    CloudError::Ambiguous { .. } => "it was made, but the answer was",
                    _ => "it was made, but the answer said for sure that it was not",
                };
                let miss = said(what, &error);
                Ok((self.subject(spec, instance), Some(miss)))
            }
            Err(_) => Err(error.into()),
        }
    }

    /// A wish that was never sent before; from now on what bears it is ours.
    pub(super) fn wish(&mut self) -> Result<CreateSpec, Miss> {
        let spec = self.bench.spec().or_else(broken)?;
        if self.wishes.contains(&spec.intent) {
            return broken("the bench gave the same wish twice");
        }
        self.wishes.push(spec.intent);
        Ok(spec)
    }

    fn subject(&mut self, spec: CreateSpec, instance: Instance) -> Subject {
        self.made.push(instance.id.clone());
        Subject {
            spec,
            instance,
            host_key: None,
        }
    }

    pub(super) async fn listed(&self, subject: &mut Subject) -> Found<()> {
        let id = subject.instance.id.clone();
        let found = self
            .until(&format!("{id} in the list"), self.patience.appear, |seen| {
                let mut same = seen.iter().filter(|i| i.id == id);
                match (same.next(), same.next()) {
                    (Some(_), Some(_)) => broken(format!("the list shows {id} twice")),
                    (Some(one), None) if one.terminated => broken(format!(
                        "{id} ended by itself: the list shows it terminated"
                    )),
                    (one, _) => Ok(one.cloned()),
                }
            })
            .await?;
        subject.instance = found;
        Ok(((), String::new()))
    }

    pub(super) async fn tags(&self, subject: &mut Subject) -> Found<()> {
        let id = subject.instance.id.clone();
        subject.instance = self.until_tagged(&subject.spec, &id).await?;
        self.resource_tags(&id).await
    }

    /// Looks at an instance until it bears the tags of this wish.
    pub(super) async fn until_tagged(
        &self,
        spec: &CreateSpec,
        id: &InstanceId,
    ) -> Result<Instance, Miss> {
        let what = format!("the tags of {id}");
        self.until_right(&what, id, |instance| self.tags_wrong(spec, instance))
            .await
    }

    /// Looks at an instance until nothing is wrong with it. What is still wrong in the end is what
    /// is said.
    async fn until_right(
        &self,
        what: &str,
        id: &InstanceId,
        wrong: impl Fn(&Instance) -> String,
    ) -> Result<Instance, Miss> {
        let last = RefCell::new(String::new());
        let seen = self
            .until(what, self.patience.appear, |seen| {
                let Some(instance) = living(seen, id)? else {
                    return Ok(None);
                };
                *last.borrow_mut() = wrong(instance);
                Ok(last.borrow().is_empty().then(|| instance.clone()))
            })
            .await;
        match (seen, last.into_inner().as_str()) {
            (Err(Miss::Failed { class: None, .. }), wrong) if !wrong.is_empty() => broken(wrong),
            (seen, _) => seen,
        }
    }

    /// Which tags are not as they were wished for; nothing where all are.
    fn tags_wrong(&self, spec: &CreateSpec, instance: &Instance) -> String {
        let own = [
            (tag::SET.to_owned(), self.bench.instance_set_id().to_owned()),
            (tag::INTENT.to_owned(), spec.intent.to_string()),
        ];
        let mut expected = instance.clone();
        expected.tags = spec.tags.clone();
        expected.tags.extend(own);
        expected.secret = spec.secret.clone();
        tags_differ(&expected, instance)
    }

    async fn resource_tags(&self, id: &InstanceId) -> Found<()> {
        let expected = self.bench.resource_tags();
        let seen = self.bench.tags_seen_otherwise(id).await.or_else(broken)?;
        let Some(seen) = seen else {
            return Ok(((), String::new()));
        };
        for (name, value) in expected {
            if seen.get(&name) != Some(&value) {
                return broken(format!(
                    "the resource tag {name:?} is {:?} instead of {value:?}",
                    seen.get(&name)
                ));
            }
        }
        Ok(((), "resource tags too".to_owned()))
    }

    pub(super) async fn retag(&self, subject: &mut Subject) -> Found<()> {
        let id = &subject.instance.id;
        let name = tag::IDLE_BEHAVIOR.to_owned();
        let new = [(name.clone(), OTHER_BEHAVIOR.to_owned())];
        self.cloud.set_tags(id, new.clone().into()).await?;
        // What it was with the new value: whatever else changed shows too.
        let mut expected = subject.instance.clone();
        let before = expected.tags.get(&name).cloned();
        expected.tags.extend(new);
        self.until_right("the changed tag", id, |seen| tags_differ(&expected, seen))
            .await?;
        if let Some(before) = before {
            self.cloud.set_tags(id, [(name, before)].into()).await?;
        }
        Ok(((), String::new()))
    }

    pub(super) async fn address(&self, subject: &mut Subject) -> Found<()> {
        let id = subject.instance.id.clone();
        let what = format!("an address of {id}");
        let seen = self
            .until(&what, self.patience.address, |seen| {
                let instance = living(seen, &id)?;
                Ok(instance.filter(|i| i.address.is_some()).cloned())
            })
            .await?;
        let address = seen.address.clone().unwrap_or_default();
        subject.instance = seen;
        Ok(((), address))
    }

    pub(super) async fn identity(&self, subject: &mut Subject) -> Found<()> {
        // What it must show is what we sent, whatever the cloud makes of it.
        subject.instance.secret = subject.spec.secret.clone();
        let Proof { host_key } = self
            .until_it_says(subject, async |instance| self.bench.prove(instance).await)
            .await?;
        subject.host_key = host_key;
        Ok(((), String::new()))
    }

    pub(super) async fn host_key(&self, subject: &Subject) -> Found<()> {
        let Some(shown) = &subject.host_key else {
            return left_out("it is not known which one it showed");
        };
        match self
            .cloud
            .host_key_check(&subject.instance.id, shown)
            .await?
        {
            HostKeyCheck::Own => Ok(((), String::new())),
            HostKeyCheck::Unknown => left_out("this cloud knows nothing of host keys"),
            HostKeyCheck::Other => broken(format!(
                "the cloud says that {shown:?} is not the instance's host key"
            )),
        }
    }

    pub(super) async fn boot_probe(&self, subject: &mut Subject) -> Found<()> {
        self.until_it_says(subject, async |instance| {
            self.bench.boot_probe(instance).await
        })
        .await?;
        Ok(((), String::new()))
    }

    pub(super) async fn command(&self, subject: &Subject) -> Found<()> {
        match self.bench.command(&subject.instance).await {
            Ok(words) => Ok(((), words)),
            Err(CommandError::NotWanted) => left_out("no command was given"),
            Err(CommandError::Failed(words)) => broken(words),
        }
    }

    pub(super) async fn pause(&self, subject: &Subject) -> Found<()> {
        match self.bench.pause(&subject.instance).await {
            true => Ok(((), String::new())),
            false => left_out("not wanted"),
        }
    }

    pub(super) async fn prices(&self, subject: &Subject) -> Found<()> {
        let id = &subject.instance.id;
        let ids = std::slice::from_ref(id);
        let prices = self.cloud.prices(ids, Timestamp::EPOCH).await?;
        if let Some(other) = prices.keys().find(|other| *other != id) {
            return broken(format!("asked for {id}, it tells the price of {other}"));
        }
        let points = prices.get(id).map(Vec::as_slice).unwrap_or_default();
        if !points.is_sorted_by_key(|point| point.since) {
            return broken("the prices are not in the order of time");
        }
        if self.bench.promises().market_prices {
            let preemptible = subject.spec.instance_type.preemptible;
            match (preemptible, points.is_empty()) {
                (true, true) => return broken("the instance is preemptible, and has no price"),
                (false, false) => return broken("the price is fixed, and the market tells one"),
                _ => {}
            }
        }
        let note = match points.last() {
            None => "as configured".to_owned(),
            Some(last) => format!("{} an hour now", last.price),
        };
        Ok(((), note))
    }

    /// Ends these and waits until they are gone.
    pub(super) async fn end_of(&self, ids: &[InstanceId]) -> Result<(), Miss> {
        let answers = self.cloud.destroy_many(ids).await;
        if answers.len() != ids.len() {
            return broken(format!(
                "asked to destroy {}, it gave {} answers",
                count(ids.len()),
                answers.len()
            ));
        }
        for answer in answers {
            answer.map_err(|error| said(&format!("destroying {}", names(ids)), &error))?;
        }
        self.until_gone(&format!("{} to be gone", names(ids)), ids)
            .await?;
        Ok(())
    }

    pub(super) async fn destroy(&self, subject: &Subject) -> Found<()> {
        self.cloud.destroy(&subject.instance.id).await?;
        Ok(((), String::new()))
    }

    pub(super) async fn gone(&self, subject: &Subject) -> Found<()> {
        let id = subject.instance.id.clone();
        let how = self.until_gone(&format!("{id} to be gone"), &[id]).await?;
        Ok(((), how))
    }

    pub(super) async fn destroy_again(&self, subject: &Subject) -> Found<()> {
        let id = &subject.instance.id;
        let again = self.cloud.destroy(id).await;
        again.map_err(|error| said(&format!("{id} is gone, and so must be success"), &error))?;
        Ok(((), String::new()))
    }

    /// Asks the instance itself until it gives an answer, follows its address meanwhile, and gives
    /// up where it ends.
    async fn until_it_says<T>(
        &self,
        subject: &mut Subject,
        ask: impl AsyncFn(&Instance) -> Result<T, String>,
    ) -> Result<T, Miss> {
        let deadline = Instant::now() + self.patience.boot;
        loop {
            let words = match ask(&subject.instance).await {
                Ok(answer) => return Ok(answer),
                Err(words) => words,
            };
            self.progress.note(&words);
            if self.stopped() {
                return left_out("stopped");
            }
            if Instant::now() + self.patience.pause > deadline {
                return broken(format!("not within {:?}: {words}", self.patience.boot));
            }
            sleep(self.patience.pause).await;
            // A list that fails now says nothing about the instance.
            if let Ok(seen) = self.cloud.list().await
                && let Some(now) = living(&seen, &subject.instance.id)?
            {
                subject.instance.address = now.address.clone();
            }
        }
    }

    /// Looks at the list until none of these live, and destroys again what does after a while.
    pub(super) async fn until_gone(&self, what: &str, ids: &[InstanceId]) -> Result<String, Miss> {
        let deadline = Instant::now() + self.patience.gone;
        loop {
            let left = RefCell::new(ids.to_vec());
            let patience = self.patience.again;
            let gone = self
                .until(what, patience, |seen| {
                    let shown: Vec<&Instance> =
                        seen.iter().filter(|i| ids.contains(&i.id)).collect();
                    let living = shown.iter().filter(|i| !i.terminated);
                    *left.borrow_mut() = living.map(|i| i.id.clone()).collect();
                    let how = match shown.is_empty() {
                        true => "no longer listed",
                        false => "listed as terminated",
                    };
                    Ok(left.borrow().is_empty().then(|| how.to_owned()))
                })
                .await;
            let left = left.into_inner();
            match gone {
                Err(Miss::Failed { words, class }) if Instant::now() >= deadline => {
                    let words = format!("{words}; still there: {}", names(&left));
                    return Err(Miss::Failed { words, class });
                }
                Err(Miss::Failed { .. }) => {
                    // Errors show in the next list, or in the end.
                    let _ = self.cloud.destroy_many(&left).await;
                    sleep(self.patience.pause).await;
                }
                other => return other,
            }
        }
    }
}

/// Which of the expected tags are missing or others.
fn tags_differ(expected: &Instance, seen: &Instance) -> String {
    let mut wrong = Vec::new();
    for (name, value) in &expected.tags {
        match seen.tags.get(name) {
            Some(seen) if seen == value => {}
            Some(seen) => wrong.push(format!("{name} is {seen:?} instead of {value:?}")),
            None => wrong.push(format!("{name} is missing")),
        }
    }
    if seen.secret != expected.secret {
        let how = match seen.secret.is_empty() {
            true => "is missing",
            false => "is another",
        };
        wrong.push(format!("{} {how}", tag::SECRET));
    }
    if seen.tags.contains_key(tag::SECRET) {
        wrong.push(format!("{} is shown among the tags", tag::SECRET));
    }
    wrong.join("; ")
}

/// What is wrong with the answer to a create.
fn created_wrong(spec: &CreateSpec, instance: &Instance) -> Option<Miss> {
    let wrong = if instance.id.as_str().is_empty() {
        "the new instance has no name".to_owned()
    } else if instance.terminated {
        format!("the new instance {} is shown as terminated", instance.id)
    } else if intent(instance).is_some_and(|intent| intent != spec.intent) {
        format!("the new instance {} bears another intent", instance.id)
    } else {
        return None;
    };
    broken::<()>(wrong).err()
}

/// The instance, if the list has it; an error if it has ended by itself.
fn living<'a>(seen: &'a [Instance], id: &InstanceId) -> Result<Option<&'a Instance>, Miss> {
    let found = seen.iter().find(|instance| instance.id == *id);
    match found {
        Some(instance) if instance.terminated => broken(format!("{id} ended by itself")),
        other => Ok(other),
    }
}

pub(super) fn count(instances: usize) -> String {
    match instances {
        1 => "1 instance".to_owned(),
        n => format!("{n} instances"),
    }
}
