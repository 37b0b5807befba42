//! What must hold beside the life of one instance: tokens, sets, refusals, lost answers, batches.

use std::collections::BTreeMap;

use longshore_core::ids::InstanceId;
use tokio::time::{Instant, sleep};

use super::life::count;
use super::run::{Found, Miss, Run, Subject, broken, intent, left_out};
use super::{Fault, InjectError, Refusal};
use crate::driver::Cloud as _;
use crate::instance::{CreateSpec, Instance};
use crate::layer::Operation;
use crate::{CloudError, ErrorClass, tag};

impl Run<'_> {
    pub(super) async fn duplicate_token(&mut self, subject: &Subject) -> Found<()> {
        if !self.bench.promises().idempotent_create {
            return left_out("this cloud has no such guard");
        }
        let id = &subject.instance.id;
        let note = match self.cloud.create(subject.spec.clone()).await {
            Ok(again) if again.id == *id => String::new(),
            Ok(second) => {
                let words = format!("the same token made {} beside {id}", second.id);
                self.made.push(second.id);
                return broken(words);
            }
            Err(error) => format!("answered: {error}"),
        };
        match self.second(id).await? {
            Some(second) => broken(format!("the same token made {second} beside {id}")),
            None => Ok(((), note)),
        }
    }

    /// Looks for an instance beside this one for a while. The set was empty before, so whatever it
    /// bears, it comes from here, and is ours to destroy.
    async fn second(&mut self, first: &InstanceId) -> Result<Option<InstanceId>, Miss> {
        let deadline = Instant::now() + self.patience.settle;
        self.progress.note("a second instance, for a while");
        loop {
            let seen = self.cloud.list().await?;
            let own = self.bench.instance_set_id();
            let second = seen.into_iter().find(|i| {
                let of_the_set = i.tags.get(tag::SET).is_some_and(|set| set == own);
                of_the_set && !i.terminated && i.id != *first && !self.made.contains(&i.id)
            });
            if let Some(second) = second {
                self.made.push(second.id.clone());
                return Ok(Some(second.id));
            }
            if Instant::now() >= deadline || self.stopped() {
                return Ok(None);
            }
            sleep(self.patience.pause).await;
        }
    }

    pub(super) async fn other_set(&self, subject: &Subject) -> Found<()> {
        let Some(other) = self.bench.other_set() else {
            return left_out("there is no other set to try it with");
        };
        let id = &subject.instance.id;
        let own = self.bench.instance_set_id();
        let ours = |i: &Instance| i.tags.get(tag::SET).is_some_and(|set| set == own);
        if let Some(seen) = other.list().await?.iter().find(|i| i.id == *id || ours(i)) {
            return broken(format!(
                "another set's list shows {} of set {own:?}",
                seen.id
            ));
        }
        if let Some(seen) = self.cloud.list().await?.iter().find(|i| !ours(i)) {
            return broken(format!(
                "the list for set {own:?} shows {}, which is not of it",
                seen.id
            ));
        }
        Ok(((), String::new()))
    }

    pub(super) async fn refusals(&mut self, subject: &Subject) -> Found<()> {
        let table = self.bench.refusals();
        if table.is_empty() {
            return left_out("this cloud cannot be made to refuse");
        }
        let mut wrong = Vec::new();
        for refusal in &table {
            let fault = Fault::Refused(refusal.clone());
            match self.bench.inject(&fault).await {
                Ok(()) => {}
                Err(InjectError::Unable) => return left_out("this cloud cannot be made to refuse"),
                Err(InjectError::Failed(words)) => {
                    wrong.push(format!("{}: {words}", refusal.code));
                    continue;
                }
            }
            self.progress.note(&refusal.code);
            let answer = self.refused(refusal, subject).await?;
            if let Some(words) = misunderstood(refusal, answer) {
                wrong.push(words);
            }
        }
        match wrong.as_slice() {
            [] => Ok(((), format!("{} of them", table.len()))),
            wrong => broken(wrong.join("; ")),
        }
    }

    /// Makes the call that is refused.
    async fn refused(
        &mut self,
        refusal: &Refusal,
        subject: &Subject,
    ) -> Result<Result<(), CloudError>, Miss> {
        let id = &subject.instance.id;
        Ok(match refusal.operation {
            Operation::Create => {
                let spec = self.wish()?;
                let made = self.cloud.create(spec).await;
                made.map(|instance| self.made.push(instance.id))
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
                return broken(format!(
                    "the bench wants {} refused, which the suite does not try",
                    refusal.operation
                ));
            }
        })
    }

    pub(super) async fn lost_create(&mut self) -> Found<()> {
        match self.bench.inject(&Fault::LostCreate).await {
            Ok(()) => {}
            Err(InjectError::Unable) => {
                return left_out("this cloud cannot be made to lose an answer");
            }
            Err(InjectError::Failed(words)) => return broken(words),
        }
        let spec = self.wish()?;
        let mut wrong = Vec::new();
        match self.cloud.create(spec.clone()).await {
            Err(CloudError::Ambiguous { .. }) => {}
            Err(error) => wrong.push(format!(
                "the answer was lost, which must be an unknown outcome, and it says {error}"
            )),
            Ok(instance) => {
                self.made.push(instance.id);
                wrong.push("the answer was lost, and it says that all went well".to_owned());
            }
        }
        let what = format!("the instance of intent {}", spec.intent);
        let found = self
            .until(&what, self.patience.appear, |seen| {
                let same = |i: &&Instance| intent(i) == Some(spec.intent) && !i.terminated;
                Ok(seen.iter().find(same).cloned())
            })
            .await?;
        self.made.push(found.id.clone());
        if self.bench.promises().idempotent_create {
            wrong.extend(self.created_again(spec, &found.id).await?);
        }
        self.end_of(std::slice::from_ref(&found.id)).await?;
        match wrong.is_empty() {
            true => Ok(((), format!("found and destroyed {}", found.id))),
            false => broken(wrong.join("; ")),
        }
    }

    /// Asks once more, as a dispatcher may; says what is wrong.
    async fn created_again(
        &mut self,
        spec: CreateSpec,
        found: &InstanceId,
    ) -> Result<Option<String>, Miss> {
        let second = match self.cloud.create(spec).await {
            Ok(again) if again.id != *found => {
                self.made.push(again.id.clone());
                Some(again.id)
            }
            _ => self.second(found).await?,
        };
        Ok(second.map(|second| format!("asked again, it made {second} beside {found}")))
    }

    pub(super) async fn batch(&mut self) -> Found<()> {
        if !self.bench.promises().batches {
            return left_out("not wanted");
        }
        let specs = vec![self.wish()?, self.wish()?];
        let mut wrong = Vec::new();
        let answers = self.cloud.create_many(specs.clone()).await;
        let mut made = Vec::new();
        if answers.len() != specs.len() {
            wrong.push(format!(
                "asked for {}, it gave {} answers",
                count(specs.len()),
                answers.len()
            ));
        }
        for answer in answers {
            match answer {
                Ok(instance) => made.push(instance.id),
                Err(error) => wrong.push(error.to_string()),
            }
        }
        self.made.extend(made.iter().cloned());
        for (spec, id) in specs.iter().zip(&made) {
            // The answer with this place must be about the wish with this place.
            if let Err(miss) = self.until_tagged(spec, id).await {
                wrong.push(match miss {
                    Miss::Failed { words, .. } | Miss::Skipped(words) => words,
                });
            }
        }
        self.end_of(&made).await?;
        match wrong.is_empty() {
            true => Ok(((), String::new())),
            false => broken(wrong.join("; ")),
        }
    }
}

/// What is wrong with the answer to a refused call.
fn misunderstood(refusal: &Refusal, answer: Result<(), CloudError>) -> Option<String> {
    let Refusal {
        code,
        message,
        operation,
        class,
    } = refusal;
    let gone = *operation == Operation::Destroy && *class == ErrorClass::NotFound;
    let error = match answer {
        Ok(()) if gone => return None,
        Ok(()) => return Some(format!("{code}: {operation} was refused, and it says done")),
        Err(error) if gone => {
            return Some(format!(
                "{code}: destroying what is gone must be success: {error}"
            ));
        }
        Err(error) => error,
    };
    let words = error.to_string();
    let seen = ErrorClass::of(&error);
    if seen != *class {
        return Some(format!("{code}: must be {class}, it is {seen}: {words}"));
    }
    if !words.contains(code.as_str()) || !words.contains(message.as_str()) {
        return Some(format!(
            "{code}: the cloud's own words are missing: {words}"
        ));
    }
    None
}
