//! The key pair by which instances learn our public key.

use aws_sdk_ec2::primitives::Blob;
use aws_sdk_ec2::types::{Filter, ResourceType, TagSpecification};
use longshore_cloud::CloudError;

use super::Inner;
use crate::errors::{Call, classify};
use crate::failure::failure;
use crate::keys::KeyPair;
use crate::request::sdk_tags;

/// A key pair that EC2 has.
pub(super) struct Known {
    openssh: String,
    name: String,
}

impl Inner {
    /// EC2's name for a public key; it is imported where EC2 does not have it.
    ///
    /// # Errors
    /// Never `Ambiguous`: nothing here makes an instance.
    pub(super) async fn key_name(&self, openssh: &str) -> Result<String, CloudError> {
        // Held all the time, so that the first creates of many at once make one key pair.
        let mut known = self.key.lock().await;
        if let Some(known) = known.as_ref().filter(|known| known.openssh == openssh) {
            return Ok(known.name.clone());
        }
        let pair = KeyPair::new(openssh).map_err(|error| CloudError::Permanent {
            message: error.to_string(),
        })?;
        let name = match self.find_key(&pair).await? {
            Some(name) => name,
            None => self.import_key(&pair).await?,
        };
        *known = Some(Known {
            openssh: openssh.to_owned(),
            name: name.clone(),
        });
        Ok(name)
    }

    /// Makes the next create look for it again.
    pub(super) async fn forget_key(&self) {
        *self.key.lock().await = None;
    }

    async fn find_key(&self, pair: &KeyPair) -> Result<Option<String>, CloudError> {
        let this_key = Filter::builder()
            .name("fingerprint")
            .set_values(Some(pair.fingerprints.clone()))
            .build();
        let call = self.client().await.describe_key_pairs().filters(this_key);
        let answer = call.send().await;
        let answer =
            answer.map_err(|error| classify(Call::Look, "DescribeKeyPairs", &failure(&error)))?;
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
            tracing::info!(key_pair = pair.name, "the public key was imported");
            return Ok(pair.name.clone());
        };
        let why = failure(&error);
        if why.code == "InvalidKeyPair.Duplicate" {
            // Another dispatcher with the same key was faster.
            return Ok(pair.name.clone());
        }
        Err(classify(Call::Look, "ImportKeyPair", &why))
    }
}
