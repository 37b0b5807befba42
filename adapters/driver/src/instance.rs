//! What is asked for, and what a cloud shows.

use std::collections::BTreeMap;

use longshore_core::config::InstanceType;
use longshore_core::ids::{ImageId, InstanceId, IntentId, TypeName};
use longshore_core::resources::MicroDollars;
use longshore_core::time::Timestamp;
use longshore_secret::Secret;

/// The wish for an instance.
#[derive(Clone, Debug)]
pub struct CreateSpec {
    /// Idempotency token; also among the tags of the instance.
    pub intent: IntentId,
    /// The configured name, for messages.
    pub type_name: TypeName,
    /// What to rent.
    pub instance_type: InstanceType,
    /// To boot from.
    pub image: ImageId,
    /// All of our tags, names without the prefix, [`tag::SECRET`](crate::tag::SECRET) excepted.
    pub tags: BTreeMap<String, String>,
    /// Value of [`tag::SECRET`](crate::tag::SECRET), which the instance must be able to show after
    /// boot.
    pub secret: Secret,
    /// Shell script that the instance runs as root at boot; it writes the secret, so it is secret.
    pub init_script: Secret,
    /// OpenSSH format, for [`Cloud::remote_user`](crate::Cloud::remote_user); none where images
    /// bring their own.
    pub public_key: Option<String>,
}

impl CreateSpec {
    /// The most to pay per hour for a spot instance: the configured price. None for an instance
    /// whose price is fixed.
    #[must_use]
    pub fn spot_price_max(&self) -> Option<MicroDollars> {
        let offer = &self.instance_type;
        offer.preemptible.then_some(offer.price)
    }

    /// Bytes of disk to attach beside what the type has; 0 for none.
    #[must_use]
    pub fn added_scratch(&self) -> u64 {
        self.instance_type.added_scratch
    }
}

/// An instance as the cloud shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// The cloud's name for it.
    pub id: InstanceId,
    /// Host and port of its SSH server, `host:port`, or `host` where the configured port counts;
    /// once it has one.
    pub address: Option<String>,
    /// Gone for good, and only still shown.
    pub terminated: bool,
    /// The cloud takes it back, or has done so: announced, or the reason that it gives for the end
    /// (on EC2 the state reason `Server.SpotInstanceTermination`).
    pub preempted: bool,
    /// Our tags, names without the prefix, [`tag::SECRET`](crate::tag::SECRET) excepted.
    pub tags: BTreeMap<String, String>,
    /// Value of [`tag::SECRET`](crate::tag::SECRET).
    pub secret: Secret,
}

/// A price per hour, from a time on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PricePoint {
    /// When it began to hold.
    pub since: Timestamp,
    /// Per hour.
    pub price: MicroDollars,
}

/// What a cloud itself knows about an instance's host key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostKeyCheck {
    /// Nothing: the instance's secret has to do.
    Unknown,
    /// It is that instance's key.
    Own,
    /// It is not: whoever showed it is somebody else.
    Other,
}
