//! Prices of spot instances.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_ec2::primitives::{DateTime, DateTimeFormat};
use longshore_core::time::Timestamp;
use longshore_driver::Cloud as _;
use serde_json::json;

use crate::support::Ec2;
use crate::support::proxy::Effect;

#[tokio::test(flavor = "multi_thread")]
async fn spot_price_includes_volume() {
    let ec2 = Ec2::start().await;
    let cloud = ec2.cloud_with(json!({"EBSPrice": 0.72}));
    let mut spot = ec2.spec();
    spot.instance_type.preemptible = true;
    spot.instance_type.added_scratch = 10 << 30;
    let spot = cloud.create(spot).await.unwrap().id;
    let fixed = cloud.create(ec2.spec()).await.unwrap().id;
    let both = [spot.clone(), fixed];
    let costs = cloud.prices(&both, Timestamp::EPOCH).await.unwrap();
    assert_eq!(
        costs.len(),
        1,
        "prices of instances other than the spot instance: {costs:?}"
    );
    let points = &costs[&spot];
    assert!(!points.is_empty());
    // 10 GiB at 0.72 $ per month cost 0.01 $ per hour; the market price is above zero.
    assert!(points.iter().all(|p| p.price.0 > 10_000), "{points:?}");
    assert!(points.is_sorted_by_key(|point| point.since));

    let calls = ec2.proxy.calls("DescribeSpotPriceHistory");
    assert_eq!(calls[0]["ProductDescription.1"], "Linux/UNIX");
    assert_eq!(calls[0]["InstanceType.1"], "m5.large");
    assert_eq!(calls[0]["Filter.1.Name"], "availability-zone");
    // Prices are cached across lists until the end of the interval.
    cloud.list().await.unwrap();
    let again = cloud.prices(&both, Timestamp::EPOCH).await.unwrap();
    assert_eq!(again, costs);
    let asked = ec2.proxy.calls("DescribeSpotPriceHistory").len();
    assert_eq!(asked, calls.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn prices_can_be_disabled() {
    let ec2 = Ec2::start().await;
    let cloud = ec2.cloud_with(json!({"SpotPriceUpdateInterval": 0}));
    let mut spot = ec2.spec();
    spot.instance_type.preemptible = true;
    let spot = cloud.create(spot).await.unwrap().id;
    let costs = cloud.prices(&[spot], Timestamp::EPOCH).await.unwrap();
    assert!(costs.is_empty());
    assert!(ec2.proxy.calls("DescribeSpotPriceHistory").is_empty());
}

/// Page of the price history with one entry and a token for the next page.
fn page(zone: &str, price: &str, at: &str, next: &str) -> Effect {
    let name = "DescribeSpotPriceHistoryResponse";
    let text = format!(
        "<{name}><spotPriceHistorySet><item><instanceType>m5.large</instanceType>\
         <spotPrice>{price}</spotPrice><timestamp>{at}</timestamp>\
         <availabilityZone>{zone}</availabilityZone></item></spotPriceHistorySet>\
         <nextToken>{next}</nextToken></{name}>"
    );
    Effect::Text(200, text)
}

#[tokio::test(flavor = "multi_thread")]
async fn price_history_reads_all_pages() {
    let ec2 = Ec2::start().await;
    let cloud = ec2.cloud_with(json!({"SpotPriceUpdateInterval": "1h"}));
    let mut spot = ec2.spec();
    spot.instance_type.preemptible = true;
    let spot = cloud.create(spot).await.unwrap().id;
    let zone = {
        let client = crate::support::direct(&ec2.proxy.url);
        let seen = client.describe_instances().instance_ids(spot.as_str());
        let seen = seen.send().await.unwrap();
        let place = seen.reservations()[0].instances()[0]
            .placement()
            .unwrap()
            .clone();
        place.availability_zone.unwrap()
    };
    for (price, at, next) in [
        ("0.0310000", "2020-01-01T00:00:00.000Z", "more"),
        ("0.0320000", "2100-01-01T00:00:00.000Z", ""),
    ] {
        let page = page(&zone, price, at, next);
        ec2.proxy.fault("DescribeSpotPriceHistory", None, 1, page);
    }
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = Timestamp::EPOCH + since_epoch;
    let costs = cloud
        .prices(std::slice::from_ref(&spot), now)
        .await
        .unwrap();
    let prices: Vec<u64> = costs[&spot].iter().map(|point| point.price.0).collect();
    assert_eq!(prices, [31_000, 32_000], "prices of both pages");
    let calls = ec2.proxy.calls("DescribeSpotPriceHistory");
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[1]["NextToken"], "more");
    let start = DateTime::from_str(&calls[0]["StartTime"], DateTimeFormat::DateTime).unwrap();
    let back = since_epoch - Duration::from_secs(u64::try_from(start.secs()).unwrap());
    let three_hours = Duration::from_secs(3 * 3600);
    assert!(
        (three_hours..three_hours + Duration::from_secs(60)).contains(&back),
        "{back:?}"
    );
}
