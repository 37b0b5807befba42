//! Several subnets, some unusable.

use longshore_driver::Cloud as _;
use serde_json::json;

use crate::support::proxy::{Effect, Params};
use crate::support::{Ec2, direct, kind, offer};

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
async fn unusable_subnets_are_skipped() {
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
    // Each unusable subnet once, then always the usable subnet.
    assert_eq!(subnets(&calls), [full, wrong, good, good, good]);
    assert_eq!(cloud.list().await.unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn error_names_all_failed_subnets() {
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
    // A further create does not try every subnet again.
    assert_eq!(kind(&cloud.create(ec2.spec()).await), "quota");
    assert_eq!(ec2.proxy.calls("RunInstances").len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn shortage_applies_to_one_offering() {
    let ec2 = Ec2::start().await;
    let [first, second] = [0, 1].map(|n| ec2.account.subnets[n].as_str());
    let cloud = ec2.cloud_with(json!({"SubnetID": [first, second]}));
    let full = |subnet: &str| {
        let effect = refusal("InsufficientInstanceCapacity");
        ec2.proxy.fault("RunInstances", Some(subnet), 1, effect);
    };
    let tried = async |provider_type: &str, spot: bool| {
        let before = ec2.proxy.calls("RunInstances").len();
        let mut spec = ec2.spec();
        spec.instance_type = offer(provider_type);
        spec.instance_type.preemptible = spot;
        cloud.create(spec).await.unwrap();
        let calls = ec2.proxy.calls("RunInstances").split_off(before);
        let tried = subnets(&calls).into_iter().map(str::to_owned);
        tried.collect::<Vec<_>>()
    };
    full(first);
    assert_eq!(tried("m5.large", false).await, [first, second]);
    // Another type, and the same type on the spot market: the second subnet has shortages of both,
    // the first subnet has none.
    for (provider_type, spot) in [("c5.large", false), ("m5.large", true)] {
        full(second);
        assert_eq!(tried(provider_type, spot).await, [second, first]);
        // The subnet of the last success is first, except for the offering with a shortage there.
        assert_eq!(
            tried("m5.large", false).await,
            [second],
            "{provider_type} {spot}"
        );
    }
    assert_eq!(tried("m5.large", true).await, [first]);
}

#[tokio::test(flavor = "multi_thread")]
async fn zone_shortage_skips_other_subnets() {
    let ec2 = Ec2::start().await;
    let (one, other) = (&ec2.account.subnets[0], &ec2.account.subnets[1]);
    let same_zone = subnet_in_same_zone(&ec2, one).await;
    let all = json!({"SubnetID": [one, same_zone, other]});
    let before = ec2.cloud_with(all.clone());
    for place in 0..3 {
        let there = before.for_subnet(place).unwrap();
        there.create(ec2.spec()).await.unwrap();
    }
    // A new driver learns the zones from the listed instances.
    let cloud = ec2.cloud_with(all);
    assert_eq!(cloud.list().await.unwrap().len(), 3);
    let effect = refusal("InsufficientInstanceCapacity");
    ec2.proxy.fault("RunInstances", Some(one), 1, effect);
    cloud.create(ec2.spec()).await.unwrap();
    let calls = ec2.proxy.calls("RunInstances").split_off(3);
    assert_eq!(
        subnets(&calls),
        [one, other],
        "the other subnet of the zone must be skipped"
    );
    assert!(cloud.for_subnet(3).is_none());
    assert_eq!(cloud.subnets(), [one.clone(), same_zone, other.clone()]);
}

/// Creates another subnet in the same zone.
async fn subnet_in_same_zone(ec2: &Ec2, subnet: &str) -> String {
    let client = direct(&ec2.proxy.url);
    let shown = client.describe_subnets().subnet_ids(subnet).send().await;
    let shown = shown.unwrap().subnets()[0].clone();
    let created = client
        .create_subnet()
        .vpc_id(shown.vpc_id().unwrap())
        .availability_zone(shown.availability_zone().unwrap())
        .cidr_block("172.31.240.0/24")
        .send()
        .await;
    let created = created.unwrap().subnet.unwrap();
    created.subnet_id().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn subnet_error_tries_next_subnet() {
    let ec2 = Ec2::start().await;
    let (first, second) = (&ec2.account.subnets[0], &ec2.account.subnets[1]);
    let of_type = "Your requested instance type (m5.large) is not supported in your requested \
                   Availability Zone (us-east-1e).";
    for (code, words, alone) in [
        ("Unsupported", of_type, "capacity"),
        (
            "Unsupported",
            "The requested configuration is not",
            "permanent",
        ),
        (
            "InvalidParameterValue",
            "The subnet is of another network",
            "permanent",
        ),
        (
            "InvalidParameter",
            "There are not enough free IPv4 addresses",
            "permanent",
        ),
        (
            "InvalidParameterCombination",
            "No free IPv6 address is left",
            "permanent",
        ),
    ] {
        let cloud = ec2.cloud_with(json!({"SubnetID": [first, second]}));
        let before = ec2.proxy.calls("RunInstances").len();
        let refused = || {
            let effect = Effect::Refuse(400, code.to_owned(), words.to_owned());
            ec2.proxy.fault("RunInstances", Some(first), 1, effect);
        };
        refused();
        cloud.create(ec2.spec()).await.unwrap();
        let calls = ec2.proxy.calls("RunInstances").split_off(before);
        assert_eq!(subnets(&calls), [first, second], "{code}: {words}");
        // Without another subnet the error is returned as it is.
        refused();
        let answer = cloud.for_subnet(0).unwrap().create(ec2.spec()).await;
        assert_eq!(kind(&answer), alone, "{answer:?}");
        assert!(answer.unwrap_err().to_string().contains(words));
    }
    let cloud = ec2.cloud_with(json!({"SubnetID": [first, second]}));
    let before = ec2.proxy.calls("RunInstances").len();
    ec2.proxy.refuse("RunInstances", "InvalidParameterValue");
    assert_eq!(kind(&cloud.create(ec2.spec()).await), "permanent");
    assert_eq!(ec2.proxy.calls("RunInstances").len(), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rate_limit_stops_subnet_search() {
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
async fn permanent_error_prefers_next_subnet() {
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
