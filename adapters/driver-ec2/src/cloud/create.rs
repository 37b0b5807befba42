//! Renting an instance: one subnet after the other, until one has room.

use std::time::Instant;

use aws_sdk_ec2::operation::RequestId as _;
use aws_sdk_ec2::types::{Filter, Instance as Shown};
use longshore_driver::{CloudError, CreateSpec, Instance, tag};

use super::Inner;
use super::key::Key;
use crate::errors::{Call, Failure, Reach, classify, is_about_subnet};
use crate::failure::failure;
use crate::places::{Lack, Offering};
use crate::{request, seen};

/// EC2's name for the call, in the log.
const RUN: &str = "RunInstances";

/// Why no instance was made in one place.
struct Refused {
    subnet: Option<String>,
    error: CloudError,
    /// Whether another place may do.
    of_subnet: bool,
}

impl Inner {
    /// Rents one instance; `only` is the one place for it, where that is fixed.
    pub(super) async fn create(
        &self,
        spec: &CreateSpec,
        only: Option<usize>,
    ) -> Result<Instance, CloudError> {
        if spec.tags.contains_key(tag::SECRET) {
            let message = format!("{} cannot be set like another tag", tag::SECRET);
            return Err(CloudError::Permanent { message });
        }
        let key = match &spec.public_key {
            Some(openssh) => Some(self.key_pair(openssh).await?),
            None => None,
        };
        let offering = Offering {
            provider_type: spec.instance_type.provider_type.clone(),
            spot: spec.instance_type.preemptible,
        };
        let order = {
            let mut memory = self.memory();
            let places = &mut memory.places;
            places.order(spec.intent, &offering, only, Instant::now())
        };
        let mut refused = Vec::new();
        for place in order {
            // The zone of one that was just refused may be this one's too.
            if !refused.is_empty() && self.memory().places.is_full(place, &offering) {
                continue;
            }
            match self.create_in(spec, &offering, key.as_ref(), place).await {
                Ok(instance) => {
                    self.key_worked(key.as_ref()).await;
                    report(&refused);
                    return Ok(instance);
                }
                Err(why) => {
                    let go_on = why.of_subnet;
                    refused.push(why);
                    if !go_on {
                        break;
                    }
                }
            }
        }
        Err(combined(refused))
    }

    async fn create_in(
        &self,
        spec: &CreateSpec,
        offering: &Offering,
        key: Option<&Key>,
        place: usize,
    ) -> Result<Instance, Refused> {
        let subnet = self.memory().places.subnet(place).map(str::to_owned);
        let refused = |error, of_subnet| Refused {
            subnet: subnet.clone(),
            error,
            of_subnet,
        };
        let name = key.map(|key| key.name.as_str());
        let request =
            request::run_instances(&self.settings, &self.params, spec, name, subnet.as_deref());
        let request = request.map_err(|error| refused(error, false))?;
        let answer = request.send_with(self.client().await).await;
        let answer = answer.map_err(|error| failure(&error));
        let why = match answer {
            Ok(made) => match self.took(spec, offering, place, made.instances()) {
                Some(instance) => return Ok(instance),
                None => no_instance(made.request_id()),
            },
            Err(why) if why.code == "IdempotentParameterMismatch" => {
                return match self.made_before(spec, subnet.as_deref()).await {
                    Ok(Some(shown)) => self
                        .took(spec, offering, place, &[shown])
                        .ok_or_else(|| refused(classify(Call::Run, RUN, &why), false)),
                    Ok(None) => Err(refused(classify(Call::Run, RUN, &why), false)),
                    Err(error) => Err(refused(error, false)),
                };
            }
            Err(why) => why,
        };
        let of_subnet = is_about_subnet(&why);
        let error = match key {
            Some(key) if why.code.starts_with("InvalidKeyPair") => {
                self.key_refused(key, classify(Call::Run, RUN, &why)).await
            }
            _ => self.noted(spec, offering, place, &why),
        };
        Err(refused(error, of_subnet))
    }

    /// Remembers what was made.
    fn took(
        &self,
        spec: &CreateSpec,
        offering: &Offering,
        place: usize,
        shown: &[Shown],
    ) -> Option<Instance> {
        let [shown, ..] = shown else {
            return None;
        };
        let asked = self.settings.tags_for(spec);
        let instance = seen::made(&self.settings, shown, &asked, &spec.secret)?;
        let mut memory = self.memory();
        let now = Instant::now();
        memory.forget_old(now);
        memory.young.insert(instance.id.clone(), now);
        if let Some(spot) = seen::spot(&self.settings, shown) {
            memory.spots.insert(instance.id.clone(), spot);
        }
        let zone = seen::zone(shown);
        memory.places.worked(spec.intent, offering, place, zone);
        Some(instance)
    }

    /// Remembers why nothing, or nothing for sure, was made, and says what it means.
    fn noted(
        &self,
        spec: &CreateSpec,
        offering: &Offering,
        place: usize,
        why: &Failure,
    ) -> CloudError {
        let error = classify(Call::Run, RUN, why);
        let now = Instant::now();
        let mut memory = self.memory();
        let places = &mut memory.places;
        match &error {
            CloudError::Ambiguous { .. } => places.remember(spec.intent, place),
            CloudError::Capacity { .. } => {
                places.refused(offering, place, Lack::OfOffering, now);
            }
            _ if is_about_subnet(why) => places.refused(offering, place, Lack::OfSubnet, now),
            CloudError::Permanent { .. } => places.move_on(place),
            _ => {}
        }
        error
    }

    /// The instance that was made when EC2 heard this token first.
    async fn made_before(
        &self,
        spec: &CreateSpec,
        subnet: Option<&str>,
    ) -> Result<Option<Shown>, CloudError> {
        let token = request::client_token(spec.intent, subnet);
        let with_token = Filter::builder().name("client-token").values(token).build();
        let call = self.client().await.describe_instances();
        let answer = call.filters(with_token).send().await;
        // What EC2 has said already is that there may be one.
        let answer = answer
            .map_err(|error| classify(Call::Run, "DescribeInstances", &lost(failure(&error))))?;
        let all = answer.reservations().iter().flat_map(|r| r.instances());
        let mut own = all.filter(|shown| seen::instance(&self.settings, shown).is_some());
        Ok(own.next().cloned())
    }
}

fn lost(failure: Failure) -> Failure {
    Failure {
        reach: Reach::Lost,
        ..failure
    }
}

fn no_instance(request_id: Option<&str>) -> Failure {
    Failure {
        reach: Reach::Lost,
        code: String::new(),
        message: "EC2's answer has no instance in it".to_owned(),
        request_id: request_id.map(str::to_owned),
        retry_at: None,
    }
}

/// Tells of subnets that did not take an instance which another one took.
fn report(refused: &[Refused]) {
    for Refused { subnet, error, .. } in refused {
        let subnet = subnet.as_deref().unwrap_or_default();
        tracing::warn!(subnet, %error, "a subnet takes no instance; another one did");
    }
}

/// The one error for all places: that of the last, where it is not about its subnet; otherwise the
/// one that gives the most hope. Its message has them all.
fn combined(refused: Vec<Refused>) -> CloudError {
    let decisive = refused.iter().position(|why| !why.of_subnet);
    let hopeful = || (0..refused.len()).max_by_key(|&n| hope(&refused[n].error));
    let Some(chosen) = decisive.or_else(hopeful) else {
        let message = "there is no subnet to try".to_owned();
        return CloudError::Transient { message };
    };
    let texts = refused.iter().map(|why| match &why.subnet {
        Some(subnet) => format!("{subnet}: {}", words(&why.error)),
        None => words(&why.error).to_owned(),
    });
    let message = texts.collect::<Vec<_>>().join("; ");
    let mut error = refused[chosen].error.clone();
    *words_of(&mut error) = message;
    error
}

/// How likely it is that it works later.
fn hope(error: &CloudError) -> u8 {
    match error {
        CloudError::Capacity { .. } => 3,
        CloudError::Quota { .. } => 2,
        CloudError::Permanent { .. } => 0,
        _ => 1,
    }
}

fn words(error: &CloudError) -> &str {
    match error {
        CloudError::RateLimited { message, .. }
        | CloudError::Quota { message }
        | CloudError::Capacity { message, .. }
        | CloudError::NotFound { message }
        | CloudError::Ambiguous { message }
        | CloudError::Permanent { message }
        | CloudError::Transient { message } => message,
    }
}

fn words_of(error: &mut CloudError) -> &mut String {
    match error {
        CloudError::RateLimited { message, .. }
        | CloudError::Quota { message }
        | CloudError::Capacity { message, .. }
        | CloudError::NotFound { message }
        | CloudError::Ambiguous { message }
        | CloudError::Permanent { message }
        | CloudError::Transient { message } => message,
    }
}

#[cfg(test)]
mod tests {
    use longshore_driver::CapacityScope;

    use super::*;

    fn refused(subnet: &str, error: CloudError, of_subnet: bool) -> Refused {
        Refused {
            subnet: Some(subnet.to_owned()),
            error,
            of_subnet,
        }
    }

    fn permanent() -> CloudError {
        let message = "wrong".to_owned();
        CloudError::Permanent { message }
    }

    fn quota() -> CloudError {
        let message = "full".to_owned();
        CloudError::Quota { message }
    }

    fn capacity() -> CloudError {
        CloudError::Capacity {
            scope: CapacityScope::Type,
            message: "none".to_owned(),
        }
    }

    #[test]
    fn the_most_hopeful_error_counts_and_all_are_told() {
        let all = vec![
            refused("s0", permanent(), true),
            refused("s1", capacity(), true),
            refused("s2", quota(), true),
        ];
        let error = combined(all);
        assert!(matches!(error, CloudError::Capacity { .. }));
        assert_eq!(words(&error), "s0: wrong; s1: none; s2: full");
        let two = vec![
            refused("s0", permanent(), true),
            refused("s2", quota(), true),
        ];
        assert!(matches!(combined(two), CloudError::Quota { .. }));
    }

    #[test]
    fn an_error_that_is_not_about_the_subnet_decides() {
        let all = vec![
            refused("s0", capacity(), true),
            refused("s1", quota(), false),
        ];
        let error = combined(all);
        assert!(matches!(error, CloudError::Quota { .. }));
        assert_eq!(words(&error), "s0: none; s1: full");
    }
}
