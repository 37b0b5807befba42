//! Fields of a request.

use longshore_core::config::InstanceType;
use longshore_core::ids::{CloudId, ImageId, QuotaGroup, TypeName};
use longshore_core::resources::Resources;
use longshore_secret::Secret;

use super::*;

const GIB: u64 = 1 << 30;

fn settings() -> CloudSettings {
    CloudSettings {
        instance_set_id: "set".to_owned(),
        tag_key_prefix: "Arvados".to_owned(),
        resource_tags: BTreeMap::from([("Owner".to_owned(), "lab".to_owned())]),
    }
}

fn spec() -> CreateSpec {
    CreateSpec {
        intent: IntentId::new(0xabc),
        type_name: TypeName::from("small"),
        instance_type: InstanceType {
            cloud: CloudId(0),
            provider_type: "m5.large".to_owned(),
            resources: Resources::default(),
            added_scratch: 0,
            gpus: None,
            price: MicroDollars(96_000),
            preemptible: false,
            quota_group: QuotaGroup::from("standard"),
        },
        image: ImageId::from("ami-1"),
        tags: BTreeMap::from([("InstanceType".to_owned(), "small".to_owned())]),
        secret: Secret::new("s3cret"),
        init_script: Secret::new("#!/bin/sh\necho s3cret\n"),
        public_key: None,
    }
}

fn built(spec: &CreateSpec, params: &Ec2Params, subnet: Option<&str>) -> RunInstancesInputBuilder {
    run_instances(&settings(), params, spec, Some("key"), subnet).unwrap()
}

fn tags_of(built: &RunInstancesInputBuilder, resource: &ResourceType) -> BTreeMap<String, String> {
    let all = built.get_tag_specifications().as_ref().unwrap();
    let mut of_it = all.iter().filter(|s| s.resource_type() == Some(resource));
    let tags = of_it.next().unwrap().tags().iter();
    let pair = |tag: &Tag| Some((tag.key()?.to_owned(), tag.value()?.to_owned()));
    tags.filter_map(pair).collect()
}

#[test]
fn on_demand_request_has_common_fields() {
    let params = Ec2Params {
        security_groups: vec!["sg-1".to_owned()],
        instance_profile: "vm".to_owned(),
        ..Ec2Params::default()
    };
    let built = built(&spec(), &params, Some("subnet-1"));
    let input = built.clone().build().unwrap();
    assert_eq!((input.min_count(), input.max_count()), (Some(1), Some(1)));
    assert_eq!(input.image_id(), Some("ami-1"));
    assert_eq!(input.instance_type().unwrap().as_str(), "m5.large");
    assert_eq!(input.key_name(), Some("key"));
    assert_eq!(
        input.subnet_id(),
        None,
        "the subnet must be set on the interface"
    );
    let [interface] = input.network_interfaces() else {
        panic!("one interface");
    };
    assert_eq!(interface.device_index(), Some(0));
    assert_eq!(interface.subnet_id(), Some("subnet-1"));
    assert_eq!(interface.groups(), ["sg-1"]);
    assert_eq!(interface.associate_public_ip_address(), Some(false));
    assert_eq!(interface.delete_on_termination(), Some(true));
    assert_eq!(
        input.instance_initiated_shutdown_behavior(),
        Some(&ShutdownBehavior::Terminate)
    );
    let metadata = input.metadata_options().unwrap();
    assert_eq!(metadata.http_tokens(), Some(&HttpTokensState::Required));
    assert_eq!(input.iam_instance_profile().unwrap().name(), Some("vm"));
    assert!(input.block_device_mappings().is_empty());
    assert_eq!(input.instance_market_options(), None);
}

#[test]
fn user_data_is_base64_script() {
    let built = built(&spec(), &Ec2Params::default(), None);
    // printf '#!/bin/sh\necho s3cret\n' | base64
    let expected = "IyEvYmluL3NoCmVjaG8gczNjcmV0Cg==";
    assert_eq!(built.get_user_data().as_deref(), Some(expected));
    let mut long = spec();
    long.init_script = Secret::new("x".repeat(USER_DATA_BYTES_MAX));
    assert!(run_instances(&settings(), &Ec2Params::default(), &long, None, None).is_ok());
    long.init_script = Secret::new("x".repeat(USER_DATA_BYTES_MAX + 1));
    let error = run_instances(&settings(), &Ec2Params::default(), &long, None, None).unwrap_err();
    assert!(matches!(&error, CloudError::Permanent { message } if message.contains("16384")));
}

#[test]
fn volume_tags_exclude_secret() {
    let built = built(&spec(), &Ec2Params::default(), None);
    let on_instance = tags_of(&built, &ResourceType::Instance);
    let expected = [
        ("ArvadosInstanceIntent", "00000000000000000000000000000abc"),
        ("ArvadosInstanceSecret", "s3cret"),
        ("ArvadosInstanceSetID", "set"),
        ("ArvadosInstanceType", "small"),
        ("Owner", "lab"),
    ];
    let mut expected =
        BTreeMap::from(expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    assert_eq!(on_instance, expected);
    expected.remove("ArvadosInstanceSecret");
    assert_eq!(tags_of(&built, &ResourceType::Volume), expected);
}

#[test]
fn added_scratch_is_rounded_to_gib() {
    let params = Ec2Params {
        volume_type: "gp3".to_owned(),
        ..Ec2Params::default()
    };
    for (bytes, gib) in [(1, 1), (GIB, 1), (GIB + 1, 2), (200 * GIB, 200)] {
        let mut spec = spec();
        spec.instance_type.added_scratch = bytes;
        let built = built(&spec, &params, None);
        let mappings = built.get_block_device_mappings().as_ref().unwrap();
        assert_eq!(mappings.len(), 1);
        assert_eq!(mappings[0].device_name(), Some("/dev/xvdt"));
        let volume = mappings[0].ebs().unwrap();
        assert_eq!(volume.volume_size(), Some(gib));
        assert_eq!(volume.volume_type().unwrap().as_str(), "gp3");
        assert_eq!(volume.delete_on_termination(), Some(true));
        let tags = tags_of(&built, &ResourceType::Instance);
        assert_eq!(tags["ArvadosAddedScratchGiB"], gib.to_string());
    }
    let mut endless = spec();
    endless.instance_type.added_scratch = u64::MAX;
    assert!(run_instances(&settings(), &params, &endless, None, None).is_err());
}

#[test]
fn spot_request_is_one_time_and_capped() {
    let mut spec = spec();
    spec.instance_type.preemptible = true;
    let built = built(&spec, &Ec2Params::default(), None);
    let market = built.get_instance_market_options().as_ref().unwrap();
    assert_eq!(market.market_type(), Some(&MarketType::Spot));
    let options = market.spot_options().unwrap();
    assert_eq!(options.max_price(), Some("0.096000"));
    assert_eq!(
        options.spot_instance_type(),
        Some(&SpotInstanceType::OneTime)
    );
    assert_eq!(
        options.instance_interruption_behavior(),
        Some(&InstanceInterruptionBehavior::Terminate)
    );
    assert_eq!(dollars(MicroDollars(12_000_001)), "12.000001");
}

#[test]
fn public_address_is_optional() {
    let params = Ec2Params {
        public_address: true,
        ..Ec2Params::default()
    };
    let built = built(&spec(), &params, None);
    let interfaces = built.get_network_interfaces().as_ref().unwrap();
    assert_eq!(interfaces[0].associate_public_ip_address(), Some(true));
    assert_eq!(interfaces[0].groups(), [] as [String; 0]);
}

#[test]
fn client_token_depends_on_intent_and_subnet() {
    let intent = IntentId::new(u128::MAX);
    let (one, other) = ("subnet-0123456789abcdef0", "subnet-0123456789abcdef1");
    assert_eq!(
        client_token(intent, Some(one)),
        client_token(intent, Some(one))
    );
    assert_ne!(
        client_token(intent, Some(one)),
        client_token(intent, Some(other))
    );
    assert_ne!(client_token(intent, Some(one)), client_token(intent, None));
    let long = "x".repeat(100);
    for subnet in [None, Some(one), Some(long.as_str()), Some("\u{e9}")] {
        let token = client_token(intent, subnet);
        assert!(
            token.len() <= TOKEN_CHARS_MAX && token.is_ascii(),
            "{token}"
        );
    }
}
