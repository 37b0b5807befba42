//! What goes over the wire, checked by AWS's own description of the API.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use longshore_cloud::{Cloud as _, tag};
use longshore_core::time::Timestamp;
use serde_json::json;

use crate::support::moto::{python, script};
use crate::support::proxy::Params;
use crate::support::{Ec2, key};

/// Makes every kind of call with every parameter that there is, and gives them back.
pub(crate) async fn every_call() -> Vec<Params> {
    let ec2 = Ec2::start().await;
    let cloud = ec2.cloud_with(json!({
        "SubnetID": ec2.account.subnets, "EBSVolumeType": "gp3", "AssociatePublicIP": true,
    }));
    let mut spec = ec2.spec();
    spec.public_key = Some(key().public_key().to_openssh().unwrap());
    spec.instance_type.added_scratch = 1 << 40;
    spec.instance_type.preemptible = true;
    let made = cloud.create(spec.clone()).await.unwrap();
    // Whoever has the token is looked for where the rest differs.
    spec.tags.insert("More".to_owned(), "1".to_owned());
    cloud.create(spec).await.unwrap();
    let tags = BTreeMap::from([(tag::IDLE_BEHAVIOR.to_owned(), "hold".to_owned())]);
    cloud.set_tags(&made.id, tags).await.unwrap();
    cloud.list().await.unwrap();
    let ids = [made.id.clone()];
    cloud.prices(&ids, Timestamp::EPOCH).await.unwrap();
    cloud.destroy(&made.id).await.unwrap();
    ec2.proxy.all_calls()
}

/// What the model says against these calls; nothing, if all is well.
fn complaints(calls: &[Params]) -> String {
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
    assert!(output.status.success(), "the check itself failed");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_model_knows_every_parameter() {
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
    assert_eq!(complaints(&calls), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_of_the_wire_finds_what_is_wrong() {
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
        let said = complaints(&[bad]);
        assert!(said.contains(words), "{words}: {said}");
    }
}
