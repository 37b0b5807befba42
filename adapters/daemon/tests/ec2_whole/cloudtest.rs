//! `longshore cloudtest` on EC2: one run per subnet.

use std::collections::BTreeMap;
use std::time::Duration;

use longshore_tests::run_within;
use serde_json::Value;

use super::{Whole, asked, elements};

/// Timeout of three runs of the suite, which includes waiting for unexpected instances.
const LONG: Duration = Duration::from_secs(240);

const WRONG: &str = "subnet-00000000";

#[test]
fn each_subnet_is_tested_and_wrong_subnet_fails() {
    let mut good = Vec::new();
    let whole = Whole::prepare(|setup| setup);
    let text = asked(&whole.runtime, "Action=DescribeSubnets");
    good.extend(elements(&text, "subnetId"));
    let (first, last) = (good[0], good[1]);
    let config = whole.cluster.read("config.yml").replace(
        "AdminUsername: root",
        &format!("AdminUsername: root\n          SubnetID: [{first}, {WRONG}, {last}]"),
    );
    std::fs::write(whole.cluster.config(), config).expect("the configuration is written");

    let done = run_within(&mut whole.cluster.command(&["cloudtest", "--json"]), LONG);
    assert_eq!(done.code(), Some(1), "{done:#?}");
    let report: Value = serde_json::from_str(&done.stdout).expect("one JSON document");
    let runs = report["runs"].as_array().expect("runs");
    let told = |run: &Value| {
        let subnet = run["subnet"].as_str().expect("a subnet").to_owned();
        (subnet, run["passed"].as_bool().expect("an outcome"))
    };
    let told: Vec<(String, bool)> = runs.iter().map(told).collect();
    let expected = [(first, true), (WRONG, false), (last, true)];
    assert_eq!(told, expected.map(|(s, ok)| (s.to_owned(), ok)), "{report}");

    let steps = runs[1]["steps"].as_array().expect("steps");
    let failed: Vec<&Value> = steps.iter().filter(|s| s["outcome"] == "failed").collect();
    let [create] = failed[..] else {
        panic!("{failed:#?}");
    };
    assert_eq!(create["check"], "create");
    let words = create["message"].as_str().expect("a message");
    assert!(
        words.contains("InvalidSubnetID.NotFound") && words.contains(WRONG),
        "{words}"
    );
    let checks = create["hints"].as_array().expect("hints");
    assert!(checks.iter().any(|check| check == "subnet"), "{create}");

    // On the wire: each run used its own subnet, one run after the other.
    let mut calls = BTreeMap::<String, usize>::new();
    let mut order = Vec::new();
    for call in whole.proxy.calls("RunInstances") {
        let subnet = call["NetworkInterface.1.SubnetId"].clone();
        if order.last() != Some(&subnet) {
            order.push(subnet.clone());
        }
        *calls.entry(subnet).or_default() += 1;
    }
    assert_eq!(order, [first, WRONG, last]);
    assert_eq!(calls[WRONG], 1, "a subnet that is wrong is not asked again");
    assert_eq!(whole.vms.running(), [] as [String; 0]);
    drop(whole.cluster);
    drop(whole.runtime);
}
