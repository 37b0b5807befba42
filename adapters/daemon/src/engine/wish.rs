//! What is asked of a cloud for one instance.

use std::collections::BTreeMap;

use longshore_core::config::InstanceType;
use longshore_core::ids::{ImageId, IntentId, TypeName};
use longshore_core::input::{CloudError, IdleBehavior};
use longshore_driver::{CreateSpec, tag};
use longshore_secret::Secret;
use longshore_ssh::init_script;

/// What a wish is made from.
pub(crate) struct Wish<'a> {
    pub(crate) intent: IntentId,
    pub(crate) type_name: &'a TypeName,
    pub(crate) offer: &'a InstanceType,
    pub(crate) image: ImageId,
    pub(crate) secret_path: &'a str,
    pub(crate) init_command: &'a str,
    pub(crate) public_key: Option<String>,
}

impl Wish<'_> {
    /// The whole wish, with a secret that only the cloud and the instance learn.
    pub(crate) fn spec(self) -> Result<CreateSpec, CloudError> {
        let secret = new_secret()?;
        let tags = BTreeMap::from([
            (tag::TYPE.to_owned(), self.type_name.to_string()),
            (
                tag::IDLE_BEHAVIOR.to_owned(),
                IdleBehavior::default().name().to_owned(),
            ),
            (tag::INTENT.to_owned(), self.intent.to_string()),
            // Even the configured one: it may be another after the next restart.
            (tag::IMAGE.to_owned(), self.image.to_string()),
        ]);
        Ok(CreateSpec {
            intent: self.intent,
            type_name: self.type_name.clone(),
            instance_type: self.offer.clone(),
            image: self.image,
            tags,
            init_script: init_script(&secret, self.secret_path, self.init_command),
            secret,
            public_key: self.public_key,
        })
    }
}

/// 40 hexadecimal digits.
fn new_secret() -> Result<Secret, CloudError> {
    let mut bytes = [0; 20];
    getrandom::fill(&mut bytes).map_err(|error| CloudError::Transient {
        message: format!("no random numbers from this host: {error}"),
    })?;
    Ok(Secret::new(hex::encode(bytes)))
}
