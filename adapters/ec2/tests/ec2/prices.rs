//! What spot instances cost.

use longshore_cloud::Cloud as _;
use longshore_core::time::Timestamp;
use serde_json::json;

use crate::support::Ec2;

#[tokio::test(flavor = "multi_thread")]
async fn spot_instances_cost_what_the_market_says_and_their_volume() {
    let ec2 = Ec2::start().await;
    let cloud = ec2.cloud_with(json!({"EBSPrice": 0.72}));
    let mut spot = ec2.spec();
    spot.instance_type.preemptible = true;
    spot.instance_type.added_scratch = 10 << 30;
    let spot = cloud.create(spot).await.unwrap().id;
    let fixed = cloud.create(ec2.spec()).await.unwrap().id;
    let both = [spot.clone(), fixed];
    let costs = cloud.prices(&both, Timestamp::EPOCH).await.unwrap();
    assert_eq!(costs.len(), 1, "only the spot instance: {costs:?}");
    let points = &costs[&spot];
    assert!(!points.is_empty());
    // 10 GiB at 0.72 $ a month are 0.01 $ an hour; the market is never free.
    assert!(points.iter().all(|p| p.price.0 > 10_000), "{points:?}");
    assert!(points.is_sorted_by_key(|point| point.since));

    let calls = ec2.proxy.calls("DescribeSpotPriceHistory");
    assert_eq!(calls[0]["ProductDescription.1"], "Linux/UNIX");
    assert_eq!(calls[0]["InstanceType.1"], "m5.large");
    assert_eq!(calls[0]["Filter.1.Name"], "availability-zone");
    // What was asked is remembered, over lists and until the interval is over.
    cloud.list().await.unwrap();
    let again = cloud.prices(&both, Timestamp::EPOCH).await.unwrap();
    assert_eq!(again, costs);
    let asked = ec2.proxy.calls("DescribeSpotPriceHistory").len();
    assert_eq!(asked, calls.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn prices_can_be_switched_off() {
    let ec2 = Ec2::start().await;
    let cloud = ec2.cloud_with(json!({"SpotPriceUpdateInterval": 0}));
    let mut spot = ec2.spec();
    spot.instance_type.preemptible = true;
    let spot = cloud.create(spot).await.unwrap().id;
    let costs = cloud.prices(&[spot], Timestamp::EPOCH).await.unwrap();
    assert!(costs.is_empty());
    assert!(ec2.proxy.calls("DescribeSpotPriceHistory").is_empty());
}
