//! Instances, as the peer writes them.

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

/// The peer's way to say "never".
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

#[derive(Debug, Serialize)]
pub(crate) struct InstanceJson<'a> {
    /// Empty while it is only asked for.
    instance: &'a str,
    address: &'a str,
    /// Dollars per hour.
    price: f64,
    arvados_instance_type: &'a str,
    /// Empty where the type is no longer configured.
    provider_instance_type: &'a str,
    last_container_uuid: &'a str,
    last_busy: String,
    /// `None` while it is only asked for.
    running_container_uuids: Option<&'a [ContainerId]>,
    worker_state: &'static str,
    idle_behavior: IdleBehavior,
    /// Ours: which of the configured clouds.
    cloud: CloudId,
    /// Ours: the wish that it was created for.
    intent: Option<IntentId>,
    /// Ours: when the cloud takes it back, if it has announced that.
    preempted_at: Option<String>,
    /// Ours: why it is being given back.
    leaving: Option<String>,
    /// Ours: why it cannot be trusted.
    broken: Option<&'a str>,
    /// Ours: what its last probe complained of.
    complaint: Option<&'a str>,
}

#[derive(Debug, Serialize)]
pub(crate) struct InstancesJson<'a> {
    /// `None` where there are none.
    items: Option<Vec<InstanceJson<'a>>>,
    /// Ours: what none is created of for a while, because its last boots all failed.
    boot_backoffs: Vec<BootBackoffJson<'a>>,
}

/// A type and image of which none is created for a while.
#[derive(Debug, Serialize)]
pub(crate) struct BootBackoffJson<'a> {
    instance_type: &'a str,
    image: &'a str,
    /// In a row.
    failures: u32,
    /// One is tried then.
    until: String,
    message: &'a str,
}

/// In the order given. `at` is when the views were true.
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

/// In the order given.
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
        leaving: view.terminating.as_ref().map(ToString::to_string),
        broken: view.broken.as_deref(),
        complaint: view.complaint.as_deref(),
    }
}

/// When a container was last on it: now, where one is.
fn last_busy(at: Timestamp, view: &InstanceView) -> String {
    match (view.last_container, view.idle_since) {
        (None, _) => ZERO_TIME.to_owned(),
        (Some(_), Some(since)) => rfc3339(since),
        (Some(_), None) => rfc3339(at),
    }
}
