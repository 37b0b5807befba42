//! Several subnets, of which some do not do.

use longshore_cloud::Cloud as _;
use serde_json::json;

use crate::support::proxy::{Effect, Params};
use crate::support::{Ec2, kind, offer};

fn subnets(calls: &[Params]) -> Vec<&str> {
    let subnet = |call: &'_ Params| call.contains_key("NetworkInterface.1.SubnetId");
    assert!(calls.iter().all(subnet));
    calls
        .iter()
        .map(|call| call["NetworkInterface.1.SubnetId"].as_str())
        .collect()
}

fn refusal(code: &str) -> Effect {
    Effect::Refuse(400, code.to_owned(), format!("The cloud says {code}."))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_and_a_wrong_subnet_are_passed_over() {
    let ec2 = Ec2::start().await;
    let all = &ec2.account.subnets;
    let (full, wrong, good) = (&all[0], "subnet-00000000", &all[2]);
    let cloud = ec2.cloud_with(json!({"SubnetID": [full, wrong, good]}));
    let effect = refusal("InsufficientFreeAddressesInSubnet");
    ec2.proxy.fault("RunInstances", Some(full), 100, effect);
    for _ in 0..3 {
        cloud.create(ec2.spec()).await.unwrap();
    }
    let calls = ec2.proxy.calls("RunInstances");
    // Each bad one once, then the one that worked.
    assert_eq!(subnets(&calls), [full, wrong, good, good, good]);
    assert_eq!(cloud.list().await.unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_subnet_does_all_are_named() {
    let ec2 = Ec2::start().await;
    let full = &ec2.account.subnets[0];
    let cloud = ec2.cloud_with(json!({"SubnetID": [full, "subnet-00000000"]}));
    let effect = refusal("InsufficientFreeAddressesInSubnet");
    ec2.proxy.fault("RunInstances", Some(full), 100, effect);
    let answer = cloud.create(ec2.spec()).await;
    assert_eq!(kind(&answer), "quota", "{answer:?}");
    let words = answer.unwrap_err().to_string();
    for part in [
        full.as_str(),
        "InsufficientFreeAddressesInSubnet",
        "subnet-00000000",
        "InvalidSubnetID.NotFound",
    ] {
        assert!(words.contains(part), "{part}: {words}");
    }
    assert_eq!(ec2.proxy.calls("RunInstances").len(), 2);
    // Asked again, it does not knock at every door.
    assert_eq!(kind(&cloud.create(ec2.spec()).await), "quota");
    assert_eq!(ec2.proxy.calls("RunInstances").len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shortage_of_one_type_leaves_the_subnet_to_others() {
    let ec2 = Ec2::start().await;
    let (first, second) = (&ec2.account.subnets[0], &ec2.account.subnets[1]);
    let cloud = ec2.cloud_with(json!({"SubnetID": [first, second]}));
    let effect = refusal("InsufficientInstanceCapacity");
    ec2.proxy.fault("RunInstances", Some(first), 1, effect);
    cloud.create(ec2.spec()).await.unwrap();
    assert_eq!(subnets(&ec2.proxy.calls("RunInstances")), [first, second]);

    let only_first = cloud.for_subnet(0).unwrap();
    let mut other = ec2.spec();
    other.instance_type = offer("c5.large");
    only_first.create(other).await.unwrap();
    assert_eq!(subnets(&ec2.proxy.calls("RunInstances"))[2], first);
    assert!(cloud.for_subnet(2).is_none());
    assert_eq!(cloud.subnets(), [first.clone(), second.clone()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_ends_the_search() {
    let ec2 = Ec2::start().await;
    let cloud = ec2.cloud_with(json!({"SubnetID": ec2.account.subnets}));
    let first = &ec2.account.subnets[0];
    let effect = refusal("InsufficientInstanceCapacity");
    ec2.proxy.fault("RunInstances", Some(first), 1, effect);
    ec2.proxy
        .fault("RunInstances", None, 100, refusal("RequestLimitExceeded"));
    let answer = cloud.create(ec2.spec()).await;
    assert_eq!(kind(&answer), "rate", "{answer:?}");
    assert_eq!(ec2.proxy.calls("RunInstances").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_error_that_stays_the_next_subnet_has_its_turn() {
    let ec2 = Ec2::start().await;
    let all = &ec2.account.subnets;
    let cloud = ec2.cloud_with(json!({"SubnetID": all}));
    ec2.proxy.refuse("RunInstances", "UnauthorizedOperation");
    assert_eq!(kind(&cloud.create(ec2.spec()).await), "permanent");
    cloud.create(ec2.spec()).await.unwrap();
    assert_eq!(
        subnets(&ec2.proxy.calls("RunInstances")),
        [&all[0], &all[1]]
    );
}
