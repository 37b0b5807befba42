//! What instances cost while they live, on its way to the runners, which count with it.
//!
//! Prices are asked for beside lists and creates, never within a probe: a probe only carries along
//! what is here, and only what its VM has not been told yet. At most one question is under way for
//! each cloud, and what comes meanwhile goes together into the next one.

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

/// After a cloud refused to tell, it is not asked again for so long: lists may come every second.
const PAUSE: Duration = Duration::from_secs(60);

/// How far back is asked for an instance that does not say when it was wished for.
const PAST: Duration = Duration::from_secs(24 * 3600);

/// The prices of one cloud's instances.
#[derive(Default)]
pub(crate) struct Prices {
    state: Mutex<State>,
    /// Whoever holds it asks; nobody does before the time in it.
    turn: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Default)]
struct State {
    /// Those to ask for, with the time from which on it matters.
    wanted: BTreeMap<InstanceId, Timestamp>,
    known: BTreeMap<InstanceId, Known>,
}

struct Known {
    document: Bytes,
    /// Whether the VM has it.
    told: bool,
}

/// An instance whose price may change, and when it began to matter.
pub(crate) fn priced(
    instance: &longshore_driver::Instance,
    intent: Option<IntentId>,
    now: Timestamp,
) -> (InstanceId, Timestamp) {
    let since = intent.map_or(now - PAST, |intent| intent.asked_at().min(now));
    (instance.id.clone(), since)
}

impl Prices {
    /// These are all that there are now. The others are forgotten, and the cloud is asked for these
    /// beside what else happens.
    pub(crate) fn listed(
        self: &Arc<Self>,
        cloud: &SharedCloud,
        all: BTreeMap<InstanceId, Timestamp>,
    ) {
        let mut state = self.state();
        state.known.retain(|id, _| all.contains_key(id));
        state.wanted = all;
        self.begin(state, cloud);
    }

    /// This one has come.
    pub(crate) fn made(self: &Arc<Self>, cloud: &SharedCloud, one: (InstanceId, Timestamp)) {
        let mut state = self.state();
        state.wanted.extend([one]);
        self.begin(state, cloud);
    }

    fn begin(self: &Arc<Self>, state: MutexGuard<'_, State>, cloud: &SharedCloud) {
        if state.wanted.is_empty() {
            return;
        }
        drop(state);
        let (prices, cloud) = (Arc::clone(self), Arc::clone(cloud));
        tokio::spawn(async move { prices.ask(&*cloud).await });
    }

    async fn ask(&self, cloud: &dyn Cloud) {
        // Whoever asks already takes along what is wanted.
        let Ok(mut not_before) = self.turn.try_lock() else {
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
                Ok(told) => self.took(&told),
                Err(error) => {
                    *not_before = Some(Instant::now() + PAUSE);
                    tracing::warn!(
                        %error,
                        "the cloud does not tell its prices; until it does, containers are \
                         accounted at what was known before, or at the price of their type"
                    );
                    return;
                }
            }
        }
    }

    fn took(&self, told: &BTreeMap<InstanceId, Vec<PricePoint>>) {
        let mut state = self.state();
        for (id, points) in told {
            let document = document(points);
            let same = state.known.get(id).is_some_and(|k| k.document == document);
            if !same {
                let told = false;
                state.known.insert(id.clone(), Known { document, told });
            }
        }
    }

    /// What a VM is to be told, if there is anything that it does not have.
    pub(crate) fn news(&self, instance: &InstanceId) -> Option<Bytes> {
        let state = self.state();
        let known = state.known.get(instance)?;
        (!known.told).then(|| known.document.clone())
    }

    /// The VM has got this.
    pub(crate) fn told(&self, instance: &InstanceId, document: &Bytes) {
        if let Some(known) = self.state().known.get_mut(instance)
            && known.document == document
        {
            known.told = true;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As the runner and the peer's read it.
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
