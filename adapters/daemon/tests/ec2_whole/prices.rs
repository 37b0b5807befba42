//! What a container on a spot instance costs.

use longshore_tests::Container;

use super::Whole;
use super::support::proxy::Effect;

/// The market in every zone of the region: a dollar a second, for a thousand years.
fn dear_market() -> Effect {
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
fn a_container_on_a_spot_instance_costs_what_the_market_says() {
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
    let (proxy, mut site) = (&whole.proxy, whole.site);
    proxy.fault("DescribeSpotPriceHistory", None, 1000, dear_market());
    site.start_queue();
    site.start_dispatcher();
    let api = site.api();
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
    assert_eq!(asked, 1, "once an interval, however often it is probed");
    drop(site);
    drop(whole.runtime);
}

#[test]
fn on_demand_nobody_asks_for_prices() {
    let whole = Whole::start(|setup| setup);
    let api = whole.site.api();
    let uuid = api.submit(&Container::sh("sleep 2"));
    let done = api.until_state(&uuid, "Complete");
    assert!(
        done["cost"].as_f64().is_some_and(|cost| cost > 0.0),
        "{done}"
    );
    assert!(whole.proxy.calls("DescribeSpotPriceHistory").is_empty());
    drop(whole.site);
    drop(whole.runtime);
}
