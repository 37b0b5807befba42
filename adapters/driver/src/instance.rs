//! Create requests and listed instances.

use std::collections::BTreeMap;

use longshore_core::config::InstanceType;
use longshore_core::ids::{ImageId, InstanceId, IntentId, TypeName};
use longshore_core::resources::MicroDollars;
use longshore_core::time::Timestamp;
use longshore_secret::Secret;

/// Create request for an instance.
#[derive(Clone, Debug)]
pub struct CreateSpec {
    /// Idempotency token; also a tag of the instance.
    pub intent: IntentId,
    /// Configured name of the type, for messages.
    pub type_name: TypeName,
    /// Instance type to rent.
    pub instance_type: InstanceType,
    /// Boot image.
    pub image: ImageId,
    /// All tags of the dispatcher except [`tag::SECRET`](crate::tag::SECRET), names without the
    /// prefix.
    pub tags: BTreeMap<String, String>,
    /// Value of [`tag::SECRET`](crate::tag::SECRET), readable on the instance after boot.
    pub secret: Secret,
    /// Shell script run by the instance as root at boot. The script contains the secret, so the
    /// script is secret too.
    pub init_script: Secret,
    /// Public key in OpenSSH format for [`Cloud::remote_user`](crate::Cloud::remote_user); `None`
    /// if the image contains the key.
    pub public_key: Option<String>,
}

impl CreateSpec {
    /// Maximum price per hour of a spot instance: the configured price. `None` for an on-demand
    /// instance.
    #[must_use]
    pub fn spot_price_max(&self) -> Option<MicroDollars> {
        let offer = &self.instance_type;
        offer.preemptible.then_some(offer.price)
    }

    /// Bytes of disk to attach in addition to the disk of the type; 0 for none.
    #[must_use]
    pub fn added_scratch(&self) -> u64 {
        self.instance_type.added_scratch
    }
}

/// Instance as listed by the cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Provider's id of the instance.
    pub id: InstanceId,
    /// Address of the SSH server, `host:port`, or `host` for the configured port; `None` until the
    /// instance has an address.
    pub address: Option<String>,
    /// True if the instance is terminated but still listed.
    pub terminated: bool,
    /// True if the cloud preempts or has preempted the instance, according to a preemption notice
    /// or to the reason of the termination (on EC2 the state reason
    /// `Server.SpotInstanceTermination`).
    pub preempted: bool,
    /// The dispatcher's tags except [`tag::SECRET`](crate::tag::SECRET), names without the prefix.
    pub tags: BTreeMap<String, String>,
    /// Value of [`tag::SECRET`](crate::tag::SECRET).
    pub secret: Secret,
}

/// Price per hour, valid from a point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PricePoint {
    /// Start of validity.
    pub since: Timestamp,
    /// Price per hour.
    pub price: MicroDollars,
}

/// Result of a comparison of a host key with the cloud's information.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostKeyCheck {
    /// No information: identity depends on the instance's secret.
    Unknown,
    /// The host key belongs to the instance.
    Own,
    /// The host key belongs to another host.
    Other,
}
