//! The secrets of instances, which the core never sees.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use longshore_core::ids::{CloudId, InstanceId};
use longshore_secret::Secret;

/// Each instance's secret, as the cloud's tags last said. O(log instances).
#[derive(Debug, Default)]
pub(crate) struct Vault(Mutex<BTreeMap<(CloudId, InstanceId), Secret>>);

impl Vault {
    /// Keeps the secret of one instance; an empty one does not replace one that is known, since tags
    /// may come late.
    pub(crate) fn keep(&self, cloud: CloudId, instance: &InstanceId, secret: Secret) {
        if !secret.is_empty() {
            self.lock().insert((cloud, instance.clone()), secret);
        }
    }

    /// The secret of one instance; an empty one, which proves nothing, where none is known.
    pub(crate) fn get(&self, cloud: CloudId, instance: &InstanceId) -> Secret {
        let known = self.lock().get(&(cloud, instance.clone())).cloned();
        known.unwrap_or_default()
    }

    /// Forgets an instance that is gone.
    pub(crate) fn forget(&self, cloud: CloudId, instance: &InstanceId) {
        self.lock().remove(&(cloud, instance.clone()));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(CloudId, InstanceId), Secret>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
