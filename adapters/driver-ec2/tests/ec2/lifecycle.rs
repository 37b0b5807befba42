//! Lifecycle of instances, with faults.

use std::collections::BTreeMap;

use aws_sdk_ec2::types::{InstanceType, ResourceType, Tag, TagSpecification};
use longshore_core::ids::InstanceId;
use longshore_driver::{Cloud as _, CloudError, tag};
use serde_json::json;

use crate::support::proxy::Effect;
use crate::support::{Ec2, direct, kind};

#[tokio::test(flavor = "multi_thread")]
async fn instance_lifecycle() {
    let ec2 = Ec2::start().await;
    let cloud = ec2.cloud();
    assert_eq!(cloud.list().await.unwrap(), []);
    let spec = ec2.spec();
    let created = cloud.create(spec.clone()).await.unwrap();
    assert!(created.id.as_str().starts_with("i-"));
    let address = created.address.as_deref().unwrap();
    assert!(address.parse::<std::net::Ipv4Addr>().is_ok(), "{address}");
    assert_eq!(created.secret, spec.secret);
    assert_eq!(created.tags[tag::INTENT], spec.intent.to_string());
    assert_eq!(created.tags[tag::TYPE], "small");
    assert_eq!(created.tags[tag::SET], ec2.set);
    assert_eq!(cloud.list().await.unwrap(), std::slice::from_ref(&created));
    let elsewhere =
        longshore_driver_ec2::Ec2Cloud::new(ec2.settings("another"), ec2.params(json!({})));
    assert_eq!(elsewhere.list().await.unwrap(), []);

    let hold = BTreeMap::from([(tag::IDLE_BEHAVIOR.to_owned(), "hold".to_owned())]);
    cloud.set_tags(&created.id, hold).await.unwrap();
    let seen = cloud.list().await.unwrap().remove(0);
    assert_eq!(seen.tags[tag::IDLE_BEHAVIOR], "hold");
    assert_eq!(seen.tags[tag::TYPE], "small", "other tags stay unchanged");
    assert_eq!(seen.secret, spec.secret);

    assert_eq!(ec2.proxy.signers(), ["AKIATEST"]);
    cloud.destroy(&created.id).await.unwrap();
    let seen = cloud.list().await.unwrap().remove(0);
    assert!(seen.terminated && seen.address.is_none());
    cloud.destroy(&created.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_intent_creates_one_instance() {
    let ec2 = Ec2::start().await;
    let cloud = ec2.cloud_with(json!({"SubnetID": ec2.account.subnets}));
    let spec = ec2.spec();
    let created = cloud.create(spec.clone()).await.unwrap();
    assert_eq!(cloud.create(spec.clone()).await.unwrap().id, created.id);
    // EC2 rejects the token because the request differs; the driver looks up the instance with the
    // token.
    let mut other = spec.clone();
    other.tags.insert("More".to_owned(), "1".to_owned());
    assert_eq!(cloud.create(other).await.unwrap().id, created.id);
    assert_eq!(cloud.list().await.unwrap().len(), 1);
    assert_eq!(ec2.proxy.calls("RunInstances").len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_response_leaves_one_instance() {
    let ec2 = Ec2::start().await;
    let cloud = ec2.cloud_with(json!({"SubnetID": ec2.account.subnets}));
    ec2.proxy.fault("RunInstances", None, 1, Effect::LoseAnswer);
    let spec = ec2.spec();
    let lost = cloud.create(spec.clone()).await;
    assert_eq!(kind(&lost), "ambiguous", "{lost:?}");
    assert_eq!(
        ec2.proxy.calls("RunInstances").len(),
        1,
        "no other subnet must be tried"
    );
    let seen = cloud.list().await.unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].tags[tag::INTENT], spec.intent.to_string());
    // A repeated create returns the same instance, even if another subnet is preferred now.
    cloud.create(ec2.spec()).await.unwrap();
    let again = cloud.create(spec).await.unwrap();
    assert_eq!(again.id, seen[0].id);
    assert_eq!(cloud.list().await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_request_is_ambiguous_and_repeatable() {
    let ec2 = Ec2::start().await;
    let cloud = ec2.cloud();
    ec2.proxy.fault("RunInstances", None, 1, Effect::LoseCall);
    let spec = ec2.spec();
    assert_eq!(kind(&cloud.create(spec.clone()).await), "ambiguous");
    assert_eq!(cloud.list().await.unwrap(), []);
    cloud.create(spec).await.unwrap();
    assert_eq!(cloud.list().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn recent_instance_not_found_is_transient() {
    let ec2 = Ec2::start().await;
    let cloud = ec2.cloud();
    let created = cloud.create(ec2.spec()).await.unwrap();
    ec2.proxy
        .fault("DescribeInstances", None, 2, Effect::ShowNothing);
    assert_eq!(cloud.list().await.unwrap(), []);
    assert_eq!(cloud.list().await.unwrap(), []);
    assert_eq!(cloud.list().await.unwrap().len(), 1);

    for action in ["CreateTags", "TerminateInstances"] {
        ec2.proxy.refuse(action, "InvalidInstanceID.NotFound");
    }
    let tags = BTreeMap::from([(tag::IDLE_BEHAVIOR.to_owned(), "drain".to_owned())]);
    let tagged = cloud.set_tags(&created.id, tags.clone()).await;
    assert_eq!(kind(&tagged), "transient");
    assert_eq!(kind(&cloud.destroy(&created.id).await), "transient");
    // For an instance not recently created by this driver, EC2's answer is final.
    let unknown = InstanceId::from("i-0123456789abcdef0");
    assert_eq!(kind(&cloud.set_tags(&unknown, tags).await), "not found");
    assert_eq!(kind(&cloud.destroy(&unknown).await), "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn list_pages_and_destroy_batches() {
    let ec2 = Ec2::start().await;
    let cloud = ec2.cloud();
    let tag = Tag::builder()
        .key("ArvadosInstanceSetID")
        .value(&ec2.set)
        .build();
    let tags = TagSpecification::builder()
        .resource_type(ResourceType::Instance)
        .tags(tag)
        .build();
    // EC2 pages by reservation, so the instances need separate reservations.
    for _ in 0..15 {
        let call = direct(&ec2.proxy.url).run_instances();
        let call = call
            .image_id(&ec2.account.image)
            .instance_type(InstanceType::M5Large);
        let call = call.min_count(100).max_count(100);
        call.tag_specifications(tags.clone()).send().await.unwrap();
    }
    ec2.proxy.page_of(8);
    let seen = cloud.list().await.unwrap();
    assert_eq!(seen.len(), 1500);
    assert_eq!(ec2.proxy.calls("DescribeInstances").len(), 2, "two pages");

    let mut ids: Vec<InstanceId> = seen.into_iter().map(|i| i.id).collect();
    ids.insert(700, InstanceId::from("i-0123456789abcdef0"));
    let ended = cloud.destroy_many(&ids).await;
    assert!(ended.iter().all(Result::is_ok));
    assert_eq!((ended.len(), ec2.proxy.ended()), (1501, 1500));
    // Four batches of at most 500 instances, with a repeated call for the batch with the unknown
    // id.
    assert_eq!(ec2.proxy.calls("TerminateInstances").len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_page_fails_list() {
    let ec2 = Ec2::start().await;
    let cloud = ec2.cloud();
    for _ in 0..3 {
        cloud.create(ec2.spec()).await.unwrap();
    }
    ec2.proxy.page_of(1);
    // The first page succeeds with one reservation.
    ec2.proxy.fault("DescribeInstances", None, 1, Effect::Pass);
    ec2.proxy
        .refuse("DescribeInstances", "RequestLimitExceeded");
    let seen = cloud.list().await;
    assert!(matches!(seen, Err(CloudError::RateLimited { .. })));
    let calls = ec2.proxy.calls("DescribeInstances");
    assert_eq!(calls.len(), 2);
    assert!(calls[1].contains_key("NextToken"), "{calls:?}");
    assert_eq!(cloud.list().await.unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_destroys_are_batched() {
    let ec2 = Ec2::start().await;
    let cloud = ec2.cloud();
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(cloud.create(ec2.spec()).await.unwrap().id);
    }
    let slow = Effect::Delay(std::time::Duration::from_millis(300));
    ec2.proxy.fault("TerminateInstances", None, 1, slow);
    let tasks: Vec<_> = ids
        .into_iter()
        .map(|id| {
            let cloud = cloud.clone();
            tokio::spawn(async move { cloud.destroy(&id).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let calls = ec2.proxy.calls("TerminateInstances").len();
    assert_eq!(
        calls, 2,
        "one call for the first destroy, one call for all others"
    );
    let left = cloud.list().await.unwrap();
    assert!(left.iter().all(|instance| instance.terminated));
}
