//! The key pair by which instances learn our public key.

use aws_sdk_ec2::primitives::Blob;
use aws_sdk_ec2::types::{Filter, ResourceType, TagSpecification};
use longshore_driver::CloudError;

use super::Inner;
use crate::errors::{Call, classify};
use crate::failure::failure;
use crate::keys::KeyPair;
use crate::request::sdk_tags;

/// A key pair as one create uses it.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) name: String,
    /// It was looked for, and imported where it was missing, after EC2 had refused it.
    anew: bool,
}

/// What is known of the key pair.
#[derive(Default)]
pub(super) struct Memory {
    /// The public key, and how EC2 has it.
    known: Option<(String, Key)>,
    /// EC2 has refused it, and has taken it never since.
    refused: bool,
}

impl Inner {
    /// EC2's key pair for a public key; it is imported where EC2 does not have it.
    ///
    /// # Errors
    /// Never `Ambiguous`: nothing here makes an instance.
    pub(super) async fn key_pair(&self, openssh: &str) -> Result<Key, CloudError> {
        // Held all the time, so that the first creates of many at once make one key pair.
        let mut memory = self.key.lock().await;
        if let Some((_, key)) = memory.known.as_ref().filter(|(of, _)| of == openssh) {
            return Ok(key.clone());
        }
        let pair = KeyPair::new(openssh).map_err(|error| CloudError::Permanent {
            message: error.to_string(),
        })?;
        let name = match self.find_key(&pair).await? {
            Some(name) => name,
            None => self.import_key(&pair).await?,
        };
        let anew = memory.refused;
        let key = Key { name, anew };
        memory.known = Some((openssh.to_owned(), key.clone()));
        Ok(key)
    }

    /// An instance was made with it.
    pub(super) async fn key_worked(&self, key: Option<&Key>) {
        if key.is_some_and(|key| key.anew) {
            let mut memory = self.key.lock().await;
            memory.refused = false;
            if let Some((_, known)) = &mut memory.known {
                known.anew = false;
            }
        }
    }

    /// EC2 does not take it. Somebody may have deleted it, so that passes if it helps to import it
    /// anew; where that was done already, it is for somebody to look at.
    pub(super) async fn key_refused(&self, key: &Key, error: CloudError) -> CloudError {
        let mut memory = self.key.lock().await;
        memory.refused = true;
        // Not the newer one that another create may have brought meanwhile.
        memory.known.take_if(|(_, known)| known.anew == key.anew);
        match (key.anew, error) {
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
