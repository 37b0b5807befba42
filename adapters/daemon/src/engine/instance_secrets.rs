//! Secrets of instances, which are never passed to the core.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use longshore_core::ids::{CloudId, InstanceId};
use longshore_secret::Secret;

/// Secret of each instance, from the latest tags of the cloud. O(log instances).
#[derive(Debug, Default)]
pub(crate) struct InstanceSecrets(Mutex<BTreeMap<(CloudId, InstanceId), Secret>>);

impl InstanceSecrets {
    /// Keeps the secret of an instance; an empty secret does not replace a known secret, since the
    /// cloud may show tags late.
    pub(crate) fn keep(&self, cloud: CloudId, instance: &InstanceId, secret: Secret) {
        if !secret.is_empty() {
            self.lock().insert((cloud, instance.clone()), secret);
        }
    }

    /// Secret of an instance; empty, and so never accepted, if unknown.
    pub(crate) fn get(&self, cloud: CloudId, instance: &InstanceId) -> Secret {
        let known = self.lock().get(&(cloud, instance.clone())).cloned();
        known.unwrap_or_default()
    }

    /// Forgets a vanished instance.
    pub(crate) fn forget(&self, cloud: CloudId, instance: &InstanceId) {
        self.lock().remove(&(cloud, instance.clone()));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(CloudId, InstanceId), Secret>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
