//! Specification of a new instance for the driver.

use std::collections::BTreeMap;

use longshore_core::config::InstanceType;
use longshore_core::ids::{ImageId, IntentId, TypeName};
use longshore_core::input::{CloudError, IdleBehavior};
use longshore_driver::{CreateSpec, tag};
use longshore_secret::Secret;
use longshore_ssh::init_script;

/// Create request of the core with the settings of the cloud.
pub(crate) struct CreateRequest<'a> {
    pub(crate) intent: IntentId,
    pub(crate) type_name: &'a TypeName,
    pub(crate) offer: &'a InstanceType,
    pub(crate) image: ImageId,
    pub(crate) secret_path: &'a str,
    pub(crate) init_command: &'a str,
    pub(crate) public_key: Option<String>,
}

impl CreateRequest<'_> {
    /// Returns the driver's specification, with a new secret known only to the cloud and the
    /// instance.
    pub(crate) fn spec(self) -> Result<CreateSpec, CloudError> {
        let secret = new_secret()?;
        let tags = BTreeMap::from([
            (tag::TYPE.to_owned(), self.type_name.to_string()),
            (
                tag::IDLE_BEHAVIOR.to_owned(),
                IdleBehavior::default().name().to_owned(),
            ),
            (tag::INTENT.to_owned(), self.intent.to_string()),
            // Tagged even if configured: the configuration may change at the next restart.
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

/// Random secret, 40 hexadecimal digits.
fn new_secret() -> Result<Secret, CloudError> {
    let mut bytes = [0; 20];
    getrandom::fill(&mut bytes).map_err(|error| CloudError::Transient {
        message: format!("no random numbers from this host: {error}"),
    })?;
    Ok(Secret::new(hex::encode(bytes)))
}
