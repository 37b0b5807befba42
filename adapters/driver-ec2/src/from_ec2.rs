//! Conversion of EC2's instance descriptions.

use std::collections::BTreeMap;

use aws_sdk_ec2::primitives::DateTime;
use aws_sdk_ec2::types::{Instance as Ec2Instance, InstanceLifecycleType, InstanceStateName, Tag};
use longshore_core::ids::InstanceId;
use longshore_core::time::Timestamp;
use longshore_driver::{CloudSettings, Instance, tag};

use crate::request::VOLUME_TAG;

/// State reasons of terminations by the spot market.
const PREEMPTION_REASONS: [&str; 2] = [
    "Server.SpotInstanceTermination",
    "Server.SpotInstanceShutdown",
];

/// Properties of a spot instance relevant for its price.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SpotInstance {
    pub(crate) market: Market,
    pub(crate) launched: Timestamp,
    /// Size of the attached volume; 0 for none.
    pub(crate) volume_gib: u64,
}

/// Spot market: all spot instances of a market have the same price.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Market {
    pub(crate) provider_type: String,
    pub(crate) zone: String,
}

/// Converts an instance of this instance set; `None` for other instances and for descriptions
/// without an id.
pub(crate) fn instance(settings: &CloudSettings, ec2_instance: &Ec2Instance) -> Option<Instance> {
    let tags = tags(ec2_instance);
    if !settings.is_own(&tags) {
        return None;
    }
    let state = ec2_instance.state().and_then(|state| state.name());
    let terminated = state == Some(&InstanceStateName::Terminated);
    let own = settings.own_tags(tags);
    Some(Instance {
        id: InstanceId::from(ec2_instance.instance_id().filter(|id| !id.is_empty())?),
        address: ec2_instance
            .private_ip_address()
            .filter(|address| !terminated && !address.is_empty())
            .map(str::to_owned),
        terminated,
        preempted: preempted(ec2_instance),
        tags: own.tags,
        secret: own.secret,
    })
}

/// True if the state reason is a termination by the spot market.
fn preempted(ec2_instance: &Ec2Instance) -> bool {
    let reason = ec2_instance.state_reason().and_then(|reason| reason.code());
    reason.is_some_and(|code| PREEMPTION_REASONS.contains(&code))
}

/// Converts the price properties of a spot instance; `None` for an on-demand instance.
pub(crate) fn spot(settings: &CloudSettings, ec2_instance: &Ec2Instance) -> Option<SpotInstance> {
    if ec2_instance.instance_lifecycle() != Some(&InstanceLifecycleType::Spot) {
        return None;
    }
    let gib = tags(ec2_instance).remove(&settings.key(VOLUME_TAG));
    Some(SpotInstance {
        market: Market {
            provider_type: ec2_instance.instance_type()?.as_str().to_owned(),
            zone: zone(ec2_instance)?.to_owned(),
        },
        launched: ec2_instance.launch_time().and_then(timestamp)?,
        volume_gib: gib.and_then(|gib| gib.parse().ok()).unwrap_or_default(),
    })
}

/// Availability zone.
pub(crate) fn zone(ec2_instance: &Ec2Instance) -> Option<&str> {
    ec2_instance.placement()?.availability_zone()
}

/// Converts a created instance. Tags absent from the response are taken from the request.
pub(crate) fn created_instance(
    settings: &CloudSettings,
    ec2_instance: &Ec2Instance,
    requested: &BTreeMap<String, String>,
    secret: &longshore_secret::Secret,
) -> Option<Instance> {
    if let Some(instance) = instance(settings, ec2_instance) {
        return Some(instance);
    }
    let mut tags = requested.clone();
    tags.insert(settings.key(tag::SECRET), secret.expose().to_owned());
    let tags = tags.iter();
    let tags = tags.map(|(key, value)| Tag::builder().key(key).value(value).build());
    let mut ec2_instance = ec2_instance.clone();
    ec2_instance.tags = Some(tags.collect());
    instance(settings, &ec2_instance)
}

fn tags(ec2_instance: &Ec2Instance) -> BTreeMap<String, String> {
    let pair = |tag: &Tag| Some((tag.key()?.to_owned(), tag.value().unwrap_or("").to_owned()));
    ec2_instance.tags().iter().filter_map(pair).collect()
}

/// Converts a time of the SDK; `None` before 1970.
pub(crate) fn timestamp(at: &DateTime) -> Option<Timestamp> {
    let seconds = u64::try_from(at.secs()).ok()?;
    let since_epoch = std::time::Duration::new(seconds, at.subsec_nanos());
    Some(Timestamp::EPOCH + since_epoch)
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::types::{InstanceState, Placement, StateReason};

    use super::*;

    fn settings() -> CloudSettings {
        CloudSettings {
            instance_set_id: "set".to_owned(),
            tag_key_prefix: "Arvados".to_owned(),
            resource_tags: BTreeMap::new(),
        }
    }

    fn ec2_instance(set: &str, state: InstanceStateName) -> Ec2Instance {
        let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build();
        Ec2Instance::builder()
            .instance_id("i-1")
            .private_ip_address("10.0.0.7")
            .state(InstanceState::builder().name(state).build())
            .tags(tag("ArvadosInstanceSetID", set))
            .tags(tag("ArvadosInstanceSecret", "s3cret"))
            .tags(tag("ArvadosInstanceType", "small"))
            .tags(tag("Name", "foreign"))
            .build()
    }

    #[test]
    fn instance_tags_exclude_secret() {
        let one = instance(
            &settings(),
            &ec2_instance("set", InstanceStateName::Running),
        )
        .unwrap();
        assert_eq!(one.id.as_str(), "i-1");
        assert_eq!(one.address.as_deref(), Some("10.0.0.7"));
        assert_eq!(one.secret.expose(), "s3cret");
        let names: Vec<&String> = one.tags.keys().collect();
        assert_eq!(names, ["InstanceSetID", "InstanceType"]);
        let foreign = ec2_instance("other", InstanceStateName::Running);
        assert_eq!(instance(&settings(), &foreign), None);
    }

    #[test]
    fn only_terminated_state_is_terminated() {
        for (state, terminated) in [
            (InstanceStateName::Pending, false),
            (InstanceStateName::Running, false),
            (InstanceStateName::Stopping, false),
            (InstanceStateName::Stopped, false),
            (InstanceStateName::ShuttingDown, false),
            (InstanceStateName::Terminated, true),
            (InstanceStateName::from("of a later year"), false),
        ] {
            let one = instance(&settings(), &ec2_instance("set", state.clone())).unwrap();
            assert_eq!(one.terminated, terminated, "{state:?}");
            assert_eq!(one.address.is_none(), terminated, "{state:?}");
        }
    }

    #[test]
    fn spot_termination_reason_is_preemption() {
        let mut one = ec2_instance("set", InstanceStateName::ShuttingDown);
        for (code, expected) in [
            ("Server.SpotInstanceTermination", true),
            ("Client.UserInitiatedShutdown", false),
        ] {
            one.state_reason = Some(StateReason::builder().code(code).build());
            let converted = instance(&settings(), &one).unwrap();
            assert_eq!(converted.preempted, expected, "{code}");
        }
    }

    #[test]
    fn created_instance_without_tags_gets_requested_tags() {
        let bare = Ec2Instance::builder().instance_id("i-2").build();
        let key = "ArvadosInstanceSetID".to_owned();
        let requested = BTreeMap::from([(key, "set".to_owned())]);
        let secret = longshore_secret::Secret::new("s3cret");
        let one = created_instance(&settings(), &bare, &requested, &secret).unwrap();
        assert_eq!(one.secret.expose(), "s3cret");
        assert_eq!((one.id.as_str(), one.address), ("i-2", None));
        let nameless = Ec2Instance::builder().build();
        assert_eq!(
            created_instance(&settings(), &nameless, &requested, &secret),
            None
        );
    }

    #[test]
    fn spot_instance_has_market() {
        let mut one = ec2_instance("set", InstanceStateName::Running);
        assert_eq!(spot(&settings(), &one), None);
        one.instance_lifecycle = Some(InstanceLifecycleType::Spot);
        one.instance_type = Some("m5.large".into());
        one.placement = Some(Placement::builder().availability_zone("us-east-1a").build());
        one.launch_time = Some(DateTime::from_secs(1000));
        let gib = Tag::builder().key("ArvadosAddedScratchGiB").value("200");
        one.tags.as_mut().unwrap().push(gib.build());
        let spot = spot(&settings(), &one).unwrap();
        let at = Timestamp::EPOCH + std::time::Duration::from_secs(1000);
        assert_eq!((spot.volume_gib, spot.launched), (200, at));
        assert_eq!(spot.market.zone, "us-east-1a");
        assert_eq!(spot.market.provider_type, "m5.large");
    }
}
