//! Instances in the peer's format.

use longshore_core::Phase;
use longshore_core::config::Config;
use longshore_core::ids::{Address, CloudId, ContainerId, IntentId};
use longshore_core::input::IdleBehavior;
use longshore_core::time::Timestamp;
use longshore_core::view::{BootBackoff, InstanceView};
use serde::Serialize;

use super::{dollars, rfc3339};
use crate::loop_request::Instances;
use crate::worker_state::WorkerState;

/// Value for "never" in the peer's format.
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

#[derive(Debug, Serialize)]
pub(crate) struct InstanceJson<'a> {
    /// Empty for a create request.
    instance: &'a str,
    address: &'a str,
    /// Dollars per hour.
    price: f64,
    arvados_instance_type: &'a str,
    /// Empty for a type missing from the configuration.
    provider_instance_type: &'a str,
    last_container_uuid: &'a str,
    last_busy: String,
    /// `None` for a create request.
    running_container_uuids: Option<&'a [ContainerId]>,
    worker_state: &'static str,
    idle_behavior: IdleBehavior,
    /// Longshore's: number of the cloud.
    cloud: CloudId,
    /// Longshore's: intent of the create request.
    intent: Option<IntentId>,
    /// Longshore's: time of an announced preemption.
    preempted_at: Option<String>,
    /// Longshore's: reason of the termination.
    terminating: Option<String>,
    /// Longshore's: reason of the distrust.
    broken: Option<&'a str>,
    /// Longshore's: error of the last probe.
    complaint: Option<&'a str>,
}

#[derive(Debug, Serialize)]
pub(crate) struct InstancesJson<'a> {
    /// `None` without instances.
    items: Option<Vec<InstanceJson<'a>>>,
    /// Longshore's: types and images backed off after failed boots.
    boot_backoffs: Vec<BootBackoffJson<'a>>,
}

/// Type and image backed off after failed boots.
#[derive(Debug, Serialize)]
pub(crate) struct BootBackoffJson<'a> {
    instance_type: &'a str,
    image: &'a str,
    /// Consecutive failures.
    failures: u32,
    /// Time of the next trial.
    until: String,
    message: &'a str,
}

/// Instances in the given order. `at` is the time of the views.
pub(crate) fn instances<'a>(
    config: &'a Config,
    at: Timestamp,
    found: &'a Instances,
) -> InstancesJson<'a> {
    let items = found.all.iter().map(|view| instance(config, at, view));
    InstancesJson {
        items: (!found.all.is_empty()).then(|| items.collect()),
        boot_backoffs: boot_backoffs(&found.boot_backoffs),
    }
}

/// Back-offs in the given order.
pub(crate) fn boot_backoffs(pauses: &[BootBackoff]) -> Vec<BootBackoffJson<'_>> {
    let shaped = pauses.iter().map(|pause| BootBackoffJson {
        instance_type: pause.instance_type.as_str(),
        image: pause.image.as_str(),
        failures: pause.failures,
        until: rfc3339(pause.until),
        message: &pause.why,
    });
    shaped.collect()
}

pub(super) fn instance<'a>(
    config: &'a Config,
    at: Timestamp,
    view: &'a InstanceView,
) -> InstanceJson<'a> {
    let offer = config.types.get(&view.instance_type);
    let exists = view.phase != Phase::Creating;
    InstanceJson {
        instance: view.instance.as_ref().map_or("", |name| name.as_str()),
        address: view.address.as_ref().map_or("", Address::as_str),
        price: dollars(view.price),
        arvados_instance_type: view.instance_type.as_str(),
        provider_instance_type: offer.map_or("", |offer| &offer.provider_type),
        last_container_uuid: view.last_container.as_ref().map_or("", |id| id.as_str()),
        last_busy: last_busy(at, view),
        running_container_uuids: exists.then_some(&view.containers),
        worker_state: WorkerState::new(view.phase, view.busy).name(),
        idle_behavior: view.idle_behavior,
        cloud: view.cloud,
        intent: view.intent,
        preempted_at: view.preempted_at.map(rfc3339),
        terminating: view.terminating.as_ref().map(ToString::to_string),
        broken: view.broken.as_deref(),
        complaint: view.complaint.as_deref(),
    }
}

/// Time of the last container on the instance: now, with a container on it.
fn last_busy(at: Timestamp, view: &InstanceView) -> String {
    match (view.last_container, view.idle_since) {
        (None, _) => ZERO_TIME.to_owned(),
        (Some(_), Some(since)) => rfc3339(since),
        (Some(_), None) => rfc3339(at),
    }
}
