//! Cost of containers on spot instances.

use longshore_tests::Container;

use super::Whole;
use super::support::proxy::Effect;

/// Market price in every zone of the region: a dollar a second, from 2020 on.
fn expensive_market() -> Effect {
    let quote = |zone: char| {
        format!(
            "<item><instanceType>m5.large</instanceType><productDescription>Linux/UNIX\
             </productDescription><spotPrice>3600.0000000</spotPrice>\
             <timestamp>2020-01-01T00:00:00.000Z</timestamp>\
             <availabilityZone>us-east-1{zone}</availabilityZone></item>"
        )
    };
    let quotes: String = ('a'..='f').map(quote).collect();
    let name = "DescribeSpotPriceHistoryResponse";
    Effect::Text(
        200,
        format!(
            "<{name} xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r</requestId>\
             <spotPriceHistorySet>{quotes}</spotPriceHistorySet><nextToken/></{name}>"
        ),
    )
}

#[test]
fn spot_container_cost_uses_market_price() {
    let whole = Whole::prepare(|setup| {
        setup
            .replace(
                "AdminUsername: root\n",
                "AdminUsername: root\n          EBSPrice: 0.72\n",
            )
            .replace(
                "ProviderType: m5.large\n",
                "ProviderType: m5.large\n        Preemptible: true\n        AddedScratch: 10GiB\n",
            )
    });
    let (proxy, mut cluster) = (&whole.proxy, whole.cluster);
    proxy.fault("DescribeSpotPriceHistory", None, 1000, expensive_market());
    cluster.start_queue();
    cluster.start_dispatcher();
    let api = cluster.api();
    let prices = "/var/lock/crunch-run-prices.json";
    let script = format!("until [ -s {prices} ]; do sleep 0.05; done; sleep 1; cat {prices}");
    let spot = Container::sh(script).with(
        "scheduling_parameters",
        serde_json::json!({"preemptible": true}),
    );
    let uuid = api.submit(&spot);
    let done = api.until_state(&uuid, "Complete");
    // 10 GiB at 0.72 $ a month are 0.01 $ an hour.
    let history = r#"[{"Price":3600.01,"StartTime":"2020-01-01T00:00:00Z"}]"#;
    assert!(api.log(&uuid).contains(history), "{}", api.log(&uuid));
    // At 0.05 $ an hour, its type's price, a minute costs less than a tenth of a cent.
    let cost = done["cost"].as_f64().expect("a cost");
    assert!((1.0..120.0).contains(&cost), "{done}");
    let asked = proxy.calls("DescribeSpotPriceHistory").len();
    assert_eq!(asked, 1, "one request per interval, independent of probes");
    drop(cluster);
    drop(whole.runtime);
}

#[test]
fn on_demand_prices_are_never_fetched() {
    let whole = Whole::start(|setup| setup);
    let api = whole.cluster.api();
    let uuid = api.submit(&Container::sh("sleep 2"));
    let done = api.until_state(&uuid, "Complete");
    assert!(
        done["cost"].as_f64().is_some_and(|cost| cost > 0.0),
        "{done}"
    );
    assert!(whole.proxy.calls("DescribeSpotPriceHistory").is_empty());
    drop(whole.cluster);
    drop(whole.runtime);
}
