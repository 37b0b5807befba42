//! Parsing of every key, with valid and invalid values.

use serde_json::json;

use super::*;

fn read(mut value: Value) -> Result<Ec2Params, ParamError> {
    let entries = value.as_object_mut().unwrap();
    entries.entry("Region").or_insert(json!("eu-west-1"));
    Ec2Params::from_json(&value)
}

#[test]
fn params_every_key_is_parsed() {
    let params = read(json!({
        "AccessKeyID": "AKIA", "SecretAccessKey": "s3cret", "Region": "us-west-2",
        "SecurityGroupIDs": ["sg-1", "sg-2"], "SubnetID": ["subnet-1", "subnet-2", "subnet-1"],
        "AdminUsername": "admin", "EBSVolumeType": "gp3", "EBSPrice": 0.08,
        "IAMInstanceProfile": "vm", "SpotPriceUpdateInterval": "1h",
        "InstanceTypeQuotaGroups": {"inf": "ai", "g": "gpu"}, "AssociatePublicIP": true,
        "Endpoint": "http://127.0.0.1:5000", "SubscriptionID": "of another driver",
    }))
    .unwrap();
    let key = params.access_key.as_ref().unwrap();
    assert_eq!((key.id.as_str(), key.secret.expose()), ("AKIA", "s3cret"));
    assert_eq!(params.region, "us-west-2");
    assert_eq!(params.security_groups, ["sg-1", "sg-2"]);
    assert_eq!(params.subnets, ["subnet-1", "subnet-2"]);
    assert_eq!(params.admin_user, "admin");
    assert_eq!(params.volume_type, "gp3");
    assert_eq!(params.volume_price, MicroDollars(80_000));
    assert_eq!(params.instance_profile, "vm");
    assert_eq!(params.spot_price_interval, Some(Duration::from_secs(3600)));
    assert!(params.public_address);
    assert_eq!(params.endpoint.as_deref(), Some("http://127.0.0.1:5000"));
    assert_eq!(params.quota_group("inf2.xlarge"), "ai");
    assert_eq!(params.quota_group("g5.xlarge"), "gpu");
    assert_eq!(params.quota_group("m5.large"), "standard");
    assert!(!format!("{params:?}").contains("s3cret"));
}

#[test]
fn params_blank_value_means_default() {
    let blank = read(json!({
        "AccessKeyID": "", "SecretAccessKey": "", "SubnetID": "", "SecurityGroupIDs": {},
        "IAMInstanceProfile": "", "SpotPriceUpdateInterval": 0, "Endpoint": "",
    }))
    .unwrap();
    let expected = Ec2Params {
        region: "eu-west-1".to_owned(),
        spot_price_interval: None,
        ..Ec2Params::default()
    };
    assert_eq!(blank, expected);
}

#[test]
fn params_groups_and_subnets_list_or_map() {
    let params = read(json!({
        "SecurityGroupIDs": {"sg-b": {}, "sg-a": {}}, "SubnetID": " subnet-1 ",
    }))
    .unwrap();
    assert_eq!(params.security_groups, ["sg-a", "sg-b"]);
    assert_eq!(params.subnets, ["subnet-1"]);
}

#[test]
fn params_invalid_value_names_key() {
    for (value, key, found) in [
        (
            json!({"SubnetID": {"subnet-1": {}}}),
            "SubnetID",
            "{\"subnet-1\":{}}",
        ),
        (
            json!({"SubnetID": ["subnet-1", 5]}),
            "SubnetID",
            "[\"subnet-1\",5]",
        ),
        (
            json!({"SecurityGroupIDs": "sg-1"}),
            "SecurityGroupIDs",
            "\"sg-1\"",
        ),
        (
            json!({"SecurityGroupIDs": [""]}),
            "SecurityGroupIDs",
            "[\"\"]",
        ),
        (json!({"EBSVolumeType": "io2"}), "EBSVolumeType", "\"io2\""),
        (json!({"EBSPrice": -1}), "EBSPrice", "-1"),
        (json!({"EBSPrice": "cheap"}), "EBSPrice", "\"cheap\""),
        (json!({"AdminUsername": " "}), "AdminUsername", "\" \""),
        (
            json!({"SpotPriceUpdateInterval": 5}),
            "SpotPriceUpdateInterval",
            "5",
        ),
        (
            json!({"InstanceTypeQuotaGroups": ["a"]}),
            "InstanceTypeQuotaGroups",
            "[\"a\"]",
        ),
        (
            json!({"InstanceTypeQuotaGroups": {"a": 1}}),
            "InstanceTypeQuotaGroups",
            "{\"a\":1}",
        ),
        (
            json!({"AssociatePublicIP": "yes"}),
            "AssociatePublicIP",
            "\"yes\"",
        ),
        (
            json!({"Endpoint": "localhost"}),
            "Endpoint",
            "\"localhost\"",
        ),
        (json!({"AccessKeyID": "AKIA"}), "SecretAccessKey", "nothing"),
        (json!({"SecretAccessKey": "x"}), "AccessKeyID", "nothing"),
        (json!({"Region": ""}), "Region", "nothing"),
        (json!({"SubnetId": "x"}), "SubnetId", "an unknown key"),
    ] {
        let error = read(value).unwrap_err();
        assert_eq!(error.path, format!("DriverParameters.{key}"));
        assert_eq!(error.found, found);
        assert!(error.to_string().contains("expected"), "{error}");
    }
    let error = read(json!({"SecretAccessKey": ["s3cret"]})).unwrap_err();
    assert!(!error.to_string().contains("s3cret"), "{error}");
    let error = Ec2Params::from_json(&Value::Null).unwrap_err();
    assert_eq!(error.path, "DriverParameters.Region");
    assert!(Ec2Params::from_json(&json!([])).is_err());
}

#[test]
fn default_quota_groups_match_ec2() {
    let params = Ec2Params::default();
    for (provider_type, group) in [
        ("a1.large", "standard"),
        ("c7gd.16xlarge", "standard"),
        ("d3en.xlarge", "standard"),
        ("h1.2xlarge", "standard"),
        ("i4i.large", "standard"),
        ("m5.large", "standard"),
        ("r6a.metal", "standard"),
        ("t3.micro", "standard"),
        ("z1d.large", "standard"),
        ("g4dn.xlarge", "g"),
        ("vt1.3xlarge", "g"),
        ("p5.48xlarge", "p5"),
        ("p5en.48xlarge", "p5"),
        ("p4d.24xlarge", "p"),
        ("trn1.2xlarge", "trn"),
        ("inf2.xlarge", "inf"),
        ("hpc6a.48xlarge", "hpc"),
        ("mac1.metal", "mac"),
        ("x1e.xlarge", "x"),
        ("u-6tb1.metal", "u"),
        ("", ""),
    ] {
        assert_eq!(params.quota_group(provider_type), group, "{provider_type}");
    }
}
