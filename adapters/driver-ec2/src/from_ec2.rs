//! Instances as EC2 shows them.

use std::collections::BTreeMap;

use aws_sdk_ec2::primitives::DateTime;
use aws_sdk_ec2::types::{Instance as Shown, InstanceLifecycleType, InstanceStateName, Tag};
use longshore_core::ids::InstanceId;
use longshore_core::time::Timestamp;
use longshore_driver::{CloudSettings, Instance, tag};

use crate::request::VOLUME_TAG;

/// Reasons of an end that are the spot market's.
const TAKEN_BACK: [&str; 2] = [
    "Server.SpotInstanceTermination",
    "Server.SpotInstanceShutdown",
];

/// What the price of a spot instance depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) market: Market,
    pub(crate) launched: Timestamp,
    /// Of the attached volume; 0 for none.
    pub(crate) volume_gib: u64,
}

/// Spot instances of one market cost the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Market {
    pub(crate) provider_type: String,
    pub(crate) zone: String,
}

/// An instance, if it is of our set and has a name.
pub(crate) fn instance(settings: &CloudSettings, shown: &Shown) -> Option<Instance> {
    let tags = tags(shown);
    if !settings.is_own(&tags) {
        return None;
    }
    let state = shown.state().and_then(|state| state.name());
    let terminated = state == Some(&InstanceStateName::Terminated);
    let ours = settings.ours(tags);
    Some(Instance {
        id: InstanceId::from(shown.instance_id().filter(|id| !id.is_empty())?),
        address: shown
            .private_ip_address()
            .filter(|address| !terminated && !address.is_empty())
            .map(str::to_owned),
        terminated,
        preempted: preempted(shown),
        tags: ours.tags,
        secret: ours.secret,
    })
}

/// Whether EC2 gives as the reason of its end that the spot market wanted it back.
fn preempted(shown: &Shown) -> bool {
    let reason = shown.state_reason().and_then(|reason| reason.code());
    reason.is_some_and(|code| TAKEN_BACK.contains(&code))
}

/// What its price depends on, if it is a spot instance.
pub(crate) fn spot(settings: &CloudSettings, shown: &Shown) -> Option<Spot> {
    if shown.instance_lifecycle() != Some(&InstanceLifecycleType::Spot) {
        return None;
    }
    let gib = tags(shown).remove(&settings.key(VOLUME_TAG));
    Some(Spot {
        market: Market {
            provider_type: shown.instance_type()?.as_str().to_owned(),
            zone: zone(shown)?.to_owned(),
        },
        launched: shown.launch_time().and_then(timestamp)?,
        volume_gib: gib.and_then(|gib| gib.parse().ok()).unwrap_or_default(),
    })
}

/// Where it is.
pub(crate) fn zone(shown: &Shown) -> Option<&str> {
    shown.placement()?.availability_zone()
}

/// An instance that was just made, for whose tags the answer need not have had the time.
pub(crate) fn made(
    settings: &CloudSettings,
    shown: &Shown,
    asked: &BTreeMap<String, String>,
    secret: &longshore_secret::Secret,
) -> Option<Instance> {
    if let Some(instance) = instance(settings, shown) {
        return Some(instance);
    }
    let mut tags = asked.clone();
    tags.insert(settings.key(tag::SECRET), secret.expose().to_owned());
    let tags = tags.iter();
    let tags = tags.map(|(key, value)| Tag::builder().key(key).value(value).build());
    let mut shown = shown.clone();
    shown.tags = Some(tags.collect());
    instance(settings, &shown)
}

fn tags(shown: &Shown) -> BTreeMap<String, String> {
    let pair = |tag: &Tag| Some((tag.key()?.to_owned(), tag.value().unwrap_or("").to_owned()));
    shown.tags().iter().filter_map(pair).collect()
}

/// The SDK's time in ours; none before 1970.
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

    fn shown(set: &str, state: InstanceStateName) -> Shown {
        let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build();
        Shown::builder()
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
    fn what_is_ours_is_shown_without_the_secret_among_the_tags() {
        let one = instance(&settings(), &shown("set", InstanceStateName::Running)).unwrap();
        assert_eq!(one.id.as_str(), "i-1");
        assert_eq!(one.address.as_deref(), Some("10.0.0.7"));
        assert_eq!(one.secret.expose(), "s3cret");
        let names: Vec<&String> = one.tags.keys().collect();
        assert_eq!(names, ["InstanceSetID", "InstanceType"]);
        let foreign = shown("other", InstanceStateName::Running);
        assert_eq!(instance(&settings(), &foreign), None);
    }

    #[test]
    fn only_terminated_is_gone() {
        for (state, gone) in [
            (InstanceStateName::Pending, false),
            (InstanceStateName::Running, false),
            (InstanceStateName::Stopping, false),
            (InstanceStateName::Stopped, false),
            (InstanceStateName::ShuttingDown, false),
            (InstanceStateName::Terminated, true),
            (InstanceStateName::from("of a later year"), false),
        ] {
            let one = instance(&settings(), &shown("set", state.clone())).unwrap();
            assert_eq!(one.terminated, gone, "{state:?}");
            assert_eq!(one.address.is_none(), gone, "{state:?}");
        }
    }

    #[test]
    fn an_end_by_the_spot_market_is_told_from_others() {
        let mut one = shown("set", InstanceStateName::ShuttingDown);
        for (code, expected) in [
            ("Server.SpotInstanceTermination", true),
            ("Client.UserInitiatedShutdown", false),
        ] {
            one.state_reason = Some(StateReason::builder().code(code).build());
            let seen = instance(&settings(), &one).unwrap();
            assert_eq!(seen.preempted, expected, "{code}");
        }
    }

    #[test]
    fn an_answer_without_tags_is_completed() {
        let bare = Shown::builder().instance_id("i-2").build();
        let key = "ArvadosInstanceSetID".to_owned();
        let asked = BTreeMap::from([(key, "set".to_owned())]);
        let secret = longshore_secret::Secret::new("s3cret");
        let one = made(&settings(), &bare, &asked, &secret).unwrap();
        assert_eq!(one.secret.expose(), "s3cret");
        assert_eq!((one.id.as_str(), one.address), ("i-2", None));
        let nameless = Shown::builder().build();
        assert_eq!(made(&settings(), &nameless, &asked, &secret), None);
    }

    #[test]
    fn a_spot_instance_tells_its_market() {
        let mut one = shown("set", InstanceStateName::Running);
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
