//! Creates an instance, trying one subnet after another.

use std::time::Instant;

use aws_sdk_ec2::operation::RequestId as _;
use aws_sdk_ec2::types::{Filter, Instance as Ec2Instance};
use longshore_driver::{CloudError, CreateSpec, Instance, tag};

use super::Inner;
use super::key::Key;
use crate::error_codes::{CallFailure, CallKind, Delivery, classify, is_about_subnet};
use crate::sdk_error::call_failure;
use crate::subnet_choice::{Offering, Shortage};
use crate::{from_ec2, request};

/// Name of the call, for the log.
const RUN_INSTANCES: &str = "RunInstances";

/// Failed create in a subnet.
struct Rejection {
    subnet: Option<String>,
    error: CloudError,
    /// True if another subnet may succeed.
    try_next_subnet: bool,
}

impl Inner {
    /// Creates an instance; `fixed` is the index of the only allowed subnet, if any.
    pub(super) async fn create(
        &self,
        spec: &CreateSpec,
        fixed: Option<usize>,
    ) -> Result<Instance, CloudError> {
        if spec.tags.contains_key(tag::SECRET) {
            let message = format!("{} cannot be set as an ordinary tag", tag::SECRET);
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
            let choice = &mut memory.subnet_choice;
            choice.candidates(spec.intent, &offering, fixed, Instant::now())
        };
        let mut rejections = Vec::new();
        for index in order {
            // The zone of a rejected subnet may be the zone of this subnet too.
            if !rejections.is_empty() && self.memory().subnet_choice.has_shortage(index, &offering)
            {
                continue;
            }
            match self.create_in(spec, &offering, key.as_ref(), index).await {
                Ok(instance) => {
                    self.key_accepted(key.as_ref()).await;
                    log_rejections(&rejections);
                    return Ok(instance);
                }
                Err(rejection) => {
                    let go_on = rejection.try_next_subnet;
                    rejections.push(rejection);
                    if !go_on {
                        break;
                    }
                }
            }
        }
        Err(combined_error(rejections))
    }

    async fn create_in(
        &self,
        spec: &CreateSpec,
        offering: &Offering,
        key: Option<&Key>,
        index: usize,
    ) -> Result<Instance, Rejection> {
        let subnet = self.memory().subnet_choice.subnet(index).map(str::to_owned);
        let rejection = |error, try_next_subnet| Rejection {
            subnet: subnet.clone(),
            error,
            try_next_subnet,
        };
        let name = key.map(|key| key.name.as_str());
        let request =
            request::run_instances(&self.settings, &self.params, spec, name, subnet.as_deref());
        let request = request.map_err(|error| rejection(error, false))?;
        let answer = request.send_with(self.client().await).await;
        let answer = answer.map_err(|error| call_failure(&error));
        let failure = match answer {
            Ok(created) => match self.record_created(spec, offering, index, created.instances()) {
                Some(instance) => return Ok(instance),
                None => no_instance(created.request_id()),
            },
            Err(failure) if failure.code == "IdempotentParameterMismatch" => {
                return match self.find_by_token(spec, subnet.as_deref()).await {
                    Ok(Some(ec2_instance)) => self
                        .record_created(spec, offering, index, &[ec2_instance])
                        .ok_or_else(|| {
                            rejection(
                                classify(CallKind::RunInstances, RUN_INSTANCES, &failure),
                                false,
                            )
                        }),
                    Ok(None) => Err(rejection(
                        classify(CallKind::RunInstances, RUN_INSTANCES, &failure),
                        false,
                    )),
                    Err(error) => Err(rejection(error, false)),
                };
            }
            Err(failure) => failure,
        };
        let try_next_subnet = is_about_subnet(&failure);
        let error = match key {
            Some(key) if failure.code.starts_with("InvalidKeyPair") => {
                self.key_rejected(
                    key,
                    classify(CallKind::RunInstances, RUN_INSTANCES, &failure),
                )
                .await
            }
            _ => self.record_failure(spec, offering, index, &failure),
        };
        Err(rejection(error, try_next_subnet))
    }

    /// Records a created instance.
    fn record_created(
        &self,
        spec: &CreateSpec,
        offering: &Offering,
        index: usize,
        ec2_instance: &[Ec2Instance],
    ) -> Option<Instance> {
        let [ec2_instance, ..] = ec2_instance else {
            return None;
        };
        let requested = self.settings.tags_for(spec);
        let instance =
            from_ec2::created_instance(&self.settings, ec2_instance, &requested, &spec.secret)?;
        let mut memory = self.memory();
        let now = Instant::now();
        memory.forget_expired(now);
        memory.recent.insert(instance.id.clone(), now);
        if let Some(spot) = from_ec2::spot(&self.settings, ec2_instance) {
            memory.spots.insert(instance.id.clone(), spot);
        }
        let zone = from_ec2::zone(ec2_instance);
        memory
            .subnet_choice
            .record_success(spec.intent, offering, index, zone);
        Some(instance)
    }

    /// Records a failed create, or a create with unknown outcome, and returns the error.
    fn record_failure(
        &self,
        spec: &CreateSpec,
        offering: &Offering,
        index: usize,
        failure: &CallFailure,
    ) -> CloudError {
        let error = classify(CallKind::RunInstances, RUN_INSTANCES, failure);
        let now = Instant::now();
        let mut memory = self.memory();
        let choice = &mut memory.subnet_choice;
        match &error {
            CloudError::Ambiguous { .. } => choice.record_intent(spec.intent, index),
            CloudError::Capacity { .. } => {
                choice.record_shortage(offering, index, Shortage::Offering, now);
            }
            _ if is_about_subnet(failure) => {
                choice.record_shortage(offering, index, Shortage::Subnet, now)
            }
            CloudError::Permanent { .. } => choice.prefer_next(index),
            _ => {}
        }
        error
    }

    /// Instance created by the first request with this token.
    async fn find_by_token(
        &self,
        spec: &CreateSpec,
        subnet: Option<&str>,
    ) -> Result<Option<Ec2Instance>, CloudError> {
        let token = request::client_token(spec.intent, subnet);
        let with_token = Filter::builder().name("client-token").values(token).build();
        let call = self.client().await.describe_instances();
        let answer = call.filters(with_token).send().await;
        // The earlier response means that an instance may exist, so a failure here is ambiguous.
        let answer = answer.map_err(|error| {
            classify(
                CallKind::RunInstances,
                "DescribeInstances",
                &with_lost_response(call_failure(&error)),
            )
        })?;
        let all = answer.reservations().iter().flat_map(|r| r.instances());
        let mut own =
            all.filter(|ec2_instance| from_ec2::instance(&self.settings, ec2_instance).is_some());
        Ok(own.next().cloned())
    }
}

fn with_lost_response(failure: CallFailure) -> CallFailure {
    CallFailure {
        delivery: Delivery::ResponseLost,
        ..failure
    }
}

fn no_instance(request_id: Option<&str>) -> CallFailure {
    CallFailure {
        delivery: Delivery::ResponseLost,
        code: String::new(),
        message: "the response of EC2 contains no instance".to_owned(),
        request_id: request_id.map(str::to_owned),
        retry_at: None,
    }
}

/// Logs the subnets with a failed create before the success in another subnet.
fn log_rejections(rejections: &[Rejection]) {
    for Rejection { subnet, error, .. } in rejections {
        let subnet = subnet.as_deref().unwrap_or_default();
        tracing::warn!(subnet, %error, "create rejected in a subnet, succeeded in another subnet");
    }
}

/// Combined error of all subnets. The class is that of the last error if unrelated to the subnet,
/// otherwise the most promising class. The text contains all errors.
fn combined_error(rejections: Vec<Rejection>) -> CloudError {
    let decisive = rejections
        .iter()
        .position(|rejection| !rejection.try_next_subnet);
    let most_promising =
        || (0..rejections.len()).max_by_key(|&n| retry_priority(&rejections[n].error));
    let Some(chosen) = decisive.or_else(most_promising) else {
        let message = "no subnet available".to_owned();
        return CloudError::Transient { message };
    };
    let texts = rejections.iter().map(|rejection| match &rejection.subnet {
        Some(subnet) => format!("{subnet}: {}", message_of(&rejection.error)),
        None => message_of(&rejection.error).to_owned(),
    });
    let message = texts.collect::<Vec<_>>().join("; ");
    let mut error = rejections[chosen].error.clone();
    *message_mut(&mut error) = message;
    error
}

/// Rank of an error by the chance of a later success.
fn retry_priority(error: &CloudError) -> u8 {
    match error {
        CloudError::Capacity { .. } => 3,
        CloudError::Quota { .. } => 2,
        CloudError::Permanent { .. } => 0,
        _ => 1,
    }
}

fn message_of(error: &CloudError) -> &str {
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

fn message_mut(error: &mut CloudError) -> &mut String {
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

    fn rejection(subnet: &str, error: CloudError, try_next_subnet: bool) -> Rejection {
        Rejection {
            subnet: Some(subnet.to_owned()),
            error,
            try_next_subnet,
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
    fn combined_error_has_most_promising_class() {
        let all = vec![
            rejection("s0", permanent(), true),
            rejection("s1", capacity(), true),
            rejection("s2", quota(), true),
        ];
        let error = combined_error(all);
        assert!(matches!(error, CloudError::Capacity { .. }));
        assert_eq!(message_of(&error), "s0: wrong; s1: none; s2: full");
        let two = vec![
            rejection("s0", permanent(), true),
            rejection("s2", quota(), true),
        ];
        assert!(matches!(combined_error(two), CloudError::Quota { .. }));
    }

    #[test]
    fn combined_error_non_subnet_error_wins() {
        let all = vec![
            rejection("s0", capacity(), true),
            rejection("s1", quota(), false),
        ];
        let error = combined_error(all);
        assert!(matches!(error, CloudError::Quota { .. }));
        assert_eq!(message_of(&error), "s0: none; s1: full");
    }
}
