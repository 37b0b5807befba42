//! Key pair with the public key for instances.

use aws_sdk_ec2::primitives::Blob;
use aws_sdk_ec2::types::{Filter, ResourceType, TagSpecification};
use longshore_driver::CloudError;

use super::Inner;
use crate::error_codes::{CallKind, classify};
use crate::keys::KeyPair;
use crate::request::sdk_tags;
use crate::sdk_error::call_failure;

/// Key pair used by a create.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) name: String,
    /// True if the key pair was looked up, and imported if absent, after a rejection by EC2.
    reimported: bool,
}

/// Cached state of the key pair.
#[derive(Default)]
pub(super) struct KeyCache {
    /// Public key with its key pair.
    cached: Option<(String, Key)>,
    /// True if EC2 has rejected the key pair, and has not accepted a key pair since.
    rejected: bool,
}

impl Inner {
    /// Key pair of a public key; imported if absent.
    ///
    /// # Errors
    /// Never `Ambiguous`: these calls create no instance.
    pub(super) async fn key_pair(&self, openssh: &str) -> Result<Key, CloudError> {
        // Locked during the calls, so that concurrent first creates import only one key pair.
        let mut memory = self.key.lock().await;
        if let Some((_, key)) = memory
            .cached
            .as_ref()
            .filter(|(public_key, _)| public_key == openssh)
        {
            return Ok(key.clone());
        }
        let pair = KeyPair::new(openssh).map_err(|error| CloudError::Permanent {
            message: error.to_string(),
        })?;
        let name = match self.find_key(&pair).await? {
            Some(name) => name,
            None => self.import_key(&pair).await?,
        };
        let reimported = memory.rejected;
        let key = Key { name, reimported };
        memory.cached = Some((openssh.to_owned(), key.clone()));
        Ok(key)
    }

    /// Records that an instance was created with the key pair.
    pub(super) async fn key_accepted(&self, key: Option<&Key>) {
        if key.is_some_and(|key| key.reimported) {
            let mut memory = self.key.lock().await;
            memory.rejected = false;
            if let Some((_, cached)) = &mut memory.cached {
                cached.reimported = false;
            }
        }
    }

    /// Records that EC2 rejected the key pair. The key pair may have been deleted, so the error is
    /// transient until a new import was tried; after a new import the error is permanent and needs
    /// an operator.
    pub(super) async fn key_rejected(&self, key: &Key, error: CloudError) -> CloudError {
        let mut memory = self.key.lock().await;
        memory.rejected = true;
        // Keeps a newer key pair, possibly imported by a concurrent create.
        memory
            .cached
            .take_if(|(_, cached)| cached.reimported == key.reimported);
        match (key.reimported, error) {
            (false, CloudError::Permanent { message }) => CloudError::Transient { message },
            (_, error) => error,
        }
    }

    async fn find_key(&self, pair: &KeyPair) -> Result<Option<String>, CloudError> {
        let this_key = Filter::builder()
            .name("fingerprint")
            .set_values(Some(pair.fingerprints.clone()))
            .build();
        let call = self.client().await.describe_key_pairs().filters(this_key);
        let answer = call.send().await;
        let answer = answer
            .map_err(|error| classify(CallKind::Read, "DescribeKeyPairs", &call_failure(&error)))?;
        let names = answer.key_pairs().iter().filter_map(|pair| pair.key_name());
        Ok(names.min().map(str::to_owned))
    }

    async fn import_key(&self, pair: &KeyPair) -> Result<String, CloudError> {
        let tags = sdk_tags(&self.settings.resource_tags);
        let tags = TagSpecification::builder()
            .resource_type(ResourceType::KeyPair)
            .set_tags(Some(tags))
            .build();
        let tags = (!self.settings.resource_tags.is_empty()).then(|| vec![tags]);
        let call = self.client().await.import_key_pair();
        let call = call
            .key_name(&pair.name)
            .public_key_material(Blob::new(pair.openssh.as_bytes()))
            .set_tag_specifications(tags);
        let Err(error) = call.send().await else {
            tracing::info!(key_pair = pair.name, "imported the public key");
            return Ok(pair.name.clone());
        };
        let failure = call_failure(&error);
        if failure.code == "InvalidKeyPair.Duplicate" {
            // A dispatcher with the same key has imported the key pair concurrently.
            return Ok(pair.name.clone());
        }
        Err(classify(CallKind::Read, "ImportKeyPair", &failure))
    }
}
