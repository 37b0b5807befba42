//! Requests on the wire, checked with AWS's own description of the API.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use longshore_core::time::Timestamp;
use longshore_driver::{Cloud as _, tag};
use serde_json::json;

use crate::support::moto::{python, script, url};
use crate::support::proxy::Params;
use crate::support::{Ec2, key};

/// Parameters of a `RunInstances` call with every option, without tags.
const RUN: &[&str] = &[
    "Action",
    "BlockDeviceMapping.1.DeviceName",
    "BlockDeviceMapping.1.Ebs.DeleteOnTermination",
    "BlockDeviceMapping.1.Ebs.VolumeSize",
    "BlockDeviceMapping.1.Ebs.VolumeType",
    "ClientToken",
    "IamInstanceProfile.Name",
    "ImageId",
    "InstanceInitiatedShutdownBehavior",
    "InstanceMarketOptions.MarketType",
    "InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior",
    "InstanceMarketOptions.SpotOptions.MaxPrice",
    "InstanceMarketOptions.SpotOptions.SpotInstanceType",
    "InstanceType",
    "KeyName",
    "MaxCount",
    "MetadataOptions.HttpEndpoint",
    "MetadataOptions.HttpTokens",
    "MinCount",
    "NetworkInterface.1.AssociatePublicIpAddress",
    "NetworkInterface.1.DeleteOnTermination",
    "NetworkInterface.1.DeviceIndex",
    "NetworkInterface.1.SecurityGroupId.1",
    "NetworkInterface.1.SubnetId",
    "TagSpecification.1.ResourceType",
    "TagSpecification.2.ResourceType",
    "UserData",
    "Version",
];

/// Makes every kind of call with every option and returns the recorded calls.
pub(crate) async fn every_call() -> Vec<Params> {
    let ec2 = Ec2::start().await;
    let profile = format!("profile-{}", ec2.set);
    make_profile(&profile).await;
    let cloud = ec2.cloud_with(json!({
        "SubnetID": ec2.account.subnets, "EBSVolumeType": "gp3", "AssociatePublicIP": true,
        "IAMInstanceProfile": profile,
    }));
    let mut spec = ec2.spec();
    spec.public_key = Some(key().public_key().to_openssh().unwrap());
    spec.instance_type.added_scratch = 1 << 40;
    spec.instance_type.preemptible = true;
    let created = cloud.create(spec.clone()).await.unwrap();
    // With other parameters, the instance with the token is looked up.
    spec.tags.insert("More".to_owned(), "1".to_owned());
    cloud.create(spec).await.unwrap();
    let tags = BTreeMap::from([(tag::IDLE_BEHAVIOR.to_owned(), "hold".to_owned())]);
    cloud.set_tags(&created.id, tags).await.unwrap();
    // Two pages of instances.
    cloud.create(ec2.spec()).await.unwrap();
    ec2.proxy.page_of(1);
    assert_eq!(cloud.list().await.unwrap().len(), 2);
    let ids = [created.id.clone()];
    cloud.prices(&ids, Timestamp::EPOCH).await.unwrap();
    cloud.destroy(&created.id).await.unwrap();
    ec2.proxy.all_calls()
}

/// Creates the instance profile required by EC2.
async fn make_profile(name: &str) {
    let scope = "AWS4-HMAC-SHA256 Credential=AKIATEST/20260101/us-east-1/iam/aws4_request, \
                 SignedHeaders=host, Signature=0";
    let form = [
        ("Action", "CreateInstanceProfile"),
        ("Version", "2010-05-08"),
        ("InstanceProfileName", name),
    ];
    let call = reqwest::Client::new().post(url()).form(&form);
    let answer = call.header("authorization", scope).send().await.unwrap();
    assert!(
        answer.status().is_success(),
        "{}",
        answer.text().await.unwrap()
    );
}

/// Differences between these calls and the API description; empty if none.
fn problems(calls: &[Params]) -> String {
    let mut check = Command::new(python())
        .arg(script("check_calls.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let text = serde_json::to_vec(calls).unwrap();
    let mut input = check.stdin.take().unwrap();
    input.write_all(&text).unwrap();
    drop(input);
    let output = check.wait_with_output().unwrap();
    assert!(output.status.success(), "check_calls.py failed");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn service_model_accepts_every_call() {
    let calls = every_call().await;
    let mut actions: Vec<&str> = calls.iter().map(|call| call["Action"].as_str()).collect();
    actions.sort_unstable();
    actions.dedup();
    let every = [
        "CreateTags",
        "DescribeInstances",
        "DescribeKeyPairs",
        "DescribeSpotPriceHistory",
        "ImportKeyPair",
        "RunInstances",
        "TerminateInstances",
    ];
    assert_eq!(actions, every);
    assert_eq!(problems(&calls), "");
    let has = |action: &str, name: &str| {
        let mut of_it = calls.iter().filter(|call| call["Action"] == action);
        of_it.any(|call| call.contains_key(name))
    };
    assert!(has("DescribeInstances", "NextToken"));
}

#[tokio::test(flavor = "multi_thread")]
async fn run_instances_sends_exactly_these_parameters() {
    let calls = every_call().await;
    let call = calls.iter().find(|call| call["Action"] == "RunInstances");
    let names: Vec<&str> = call.unwrap().keys().map(String::as_str).collect();
    let tags = |resource: usize, count: usize| {
        let of_one = (1..=count).flat_map(move |n| ["Key", "Value"].map(|part| (n, part)));
        let name = move |(n, part)| format!("TagSpecification.{resource}.Tag.{n}.{part}");
        of_one.map(name)
    };
    let mut expected: Vec<String> = RUN.iter().map(|name| (*name).to_owned()).collect();
    // The volume has the same tags, except the secret and the volume size.
    expected.extend(tags(1, 7).chain(tags(2, 5)));
    expected.sort();
    assert_eq!(names, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn model_check_detects_invalid_calls() {
    let call = |pairs: &[(&str, &str)]| -> Params {
        let all = [("Version", "2016-11-15")].iter().chain(pairs);
        all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    };
    for (bad, words) in [
        (call(&[("Action", "RunInstance")]), "no operation"),
        (
            call(&[("Action", "RunInstances"), ("MaxCount", "1")]),
            "MinCount is required",
        ),
        (
            call(&[("Action", "TerminateInstances"), ("InstanceIds.1", "i-1")]),
            "InstanceIds is not known",
        ),
        (
            call(&[("Action", "DescribeInstances"), ("MaxResults", "many")]),
            "not a number",
        ),
        (
            call(&[
                ("Action", "CreateTags"),
                ("ResourceId.1", "i-1"),
                ("Tag.1.Name", "x"),
            ]),
            "Tag.1.Name is not known",
        ),
        (
            call(&[
                ("Action", "RunInstances"),
                ("MinCount", "1"),
                ("MaxCount", "1"),
                ("InstanceInitiatedShutdownBehavior", "explode"),
            ]),
            "explode",
        ),
    ] {
        let said = problems(&[bad]);
        assert!(said.contains(words), "{words}: {said}");
    }
}
