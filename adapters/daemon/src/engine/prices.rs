//! Prices of running instances, delivered to the runners for cost accounting.
//!
//! Prices are fetched in the background of lists and creates, never within a probe: a probe only
//! delivers prices fetched before, and only prices not yet delivered to the VM. At most one fetch
//! is in flight for each cloud; instances requested meanwhile are combined in the next fetch.

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use longshore_core::ids::{InstanceId, IntentId};
use longshore_core::time::Timestamp;
use longshore_driver::{Cloud, PricePoint, SharedCloud};
use longshore_management::rfc3339;
use serde_json::{Value, json};
use tokio::time::Instant;

/// Back-off after a failed fetch, since lists may come every second.
const BACKOFF: Duration = Duration::from_secs(60);

/// Start of the fetched period before now, for an instance without the time of a create request.
const DEFAULT_PERIOD: Duration = Duration::from_secs(24 * 3600);

/// Prices of the instances of one cloud.
#[derive(Default)]
pub(crate) struct Prices {
    state: Mutex<State>,
    /// Held during a fetch; contains the end of the back-off.
    fetching: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Default)]
struct State {
    /// Instances to fetch, with the start of the period of interest.
    wanted: BTreeMap<InstanceId, Timestamp>,
    known: BTreeMap<InstanceId, Known>,
}

struct Known {
    document: Bytes,
    /// True if the VM has the document.
    delivered: bool,
}

/// Instance with a variable price, and the start of the period of interest.
pub(crate) fn priced(
    instance: &longshore_driver::Instance,
    intent: Option<IntentId>,
    now: Timestamp,
) -> (InstanceId, Timestamp) {
    let since = intent.map_or(now - DEFAULT_PERIOD, |intent| intent.asked_at().min(now));
    (instance.id.clone(), since)
}

impl Prices {
    /// Replaces the set of instances. Prices of other instances are forgotten; prices of the given
    /// instances are fetched in the background.
    pub(crate) fn listed(
        self: &Arc<Self>,
        cloud: &SharedCloud,
        all: BTreeMap<InstanceId, Timestamp>,
    ) {
        let mut state = self.state();
        state.known.retain(|id, _| all.contains_key(id));
        state.wanted = all;
        self.start_fetch(state, cloud);
    }

    /// Adds a new instance.
    pub(crate) fn created(
        self: &Arc<Self>,
        cloud: &SharedCloud,
        instance: (InstanceId, Timestamp),
    ) {
        let mut state = self.state();
        state.wanted.extend([instance]);
        self.start_fetch(state, cloud);
    }

    fn start_fetch(self: &Arc<Self>, state: MutexGuard<'_, State>, cloud: &SharedCloud) {
        if state.wanted.is_empty() {
            return;
        }
        drop(state);
        let (prices, cloud) = (Arc::clone(self), Arc::clone(cloud));
        tokio::spawn(async move { prices.fetch(&*cloud).await });
    }

    async fn fetch(&self, cloud: &dyn Cloud) {
        // A fetch in flight continues with the instances wanted meanwhile.
        let Ok(mut not_before) = self.fetching.try_lock() else {
            return;
        };
        if not_before.is_some_and(|at| Instant::now() < at) {
            return;
        }
        loop {
            let wanted = mem::take(&mut self.state().wanted);
            let Some(since) = wanted.values().min().copied() else {
                return;
            };
            let ids: Vec<InstanceId> = wanted.into_keys().collect();
            match cloud.prices(&ids, since).await {
                Ok(prices) => self.store(&prices),
                Err(error) => {
                    *not_before = Some(Instant::now() + BACKOFF);
                    tracing::warn!(
                        %error,
                        "fetching prices from the cloud failed; until the next success, containers are \
                         accounted at the last known price, or at the configured price of the type"
                    );
                    return;
                }
            }
        }
    }

    fn store(&self, prices: &BTreeMap<InstanceId, Vec<PricePoint>>) {
        let mut state = self.state();
        for (id, points) in prices {
            let document = document(points);
            let same = state.known.get(id).is_some_and(|k| k.document == document);
            if !same {
                let delivered = false;
                state.known.insert(
                    id.clone(),
                    Known {
                        document,
                        delivered,
                    },
                );
            }
        }
    }

    /// Document to deliver to a VM; `None` if the VM has the latest prices.
    pub(crate) fn update_for(&self, instance: &InstanceId) -> Option<Bytes> {
        let state = self.state();
        let known = state.known.get(instance)?;
        (!known.delivered).then(|| known.document.clone())
    }

    /// Marks the document as delivered to the VM.
    pub(crate) fn delivered(&self, instance: &InstanceId, document: &Bytes) {
        if let Some(known) = self.state().known.get_mut(instance)
            && known.document == document
        {
            known.delivered = true;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Format of the runner and of the peer's runner.
fn document(points: &[PricePoint]) -> Bytes {
    let point = |point: &PricePoint| {
        let price = point.price.0 as f64 / 1e6;
        json!({ "StartTime": rfc3339(point.since), "Price": price })
    };
    let all: Vec<Value> = points.iter().map(point).collect();
    Bytes::from(Value::from(all).to_string())
}

#[cfg(test)]
mod tests;
