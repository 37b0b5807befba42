//! The documented permissions match the driver's calls.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::wire::every_call;

fn docs(name: &str) -> String {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    std::fs::read_to_string(docs.join(name)).unwrap()
}

fn allowed(policy: &Value) -> BTreeSet<String> {
    let statements = policy["Statement"].as_array().unwrap().iter();
    let actions = statements.flat_map(|statement| match &statement["Action"] {
        Value::Array(actions) => actions.clone(),
        one => vec![one.clone()],
    });
    actions
        .map(|action| action.as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_matches_calls_exactly() {
    let policy: Value = serde_json::from_str(&docs("ec2-policy.json")).unwrap();
    let calls = every_call().await;
    let needed = calls.iter().map(|call| format!("ec2:{}", call["Action"]));
    let needed: BTreeSet<String> = needed.collect();
    assert_eq!(allowed(&policy), needed);
}

#[test]
fn docs_explain_every_call() {
    let policy: Value = serde_json::from_str(&docs("ec2-policy.json")).unwrap();
    let page = docs("ec2.md");
    let (_, table) = page.split_once("| call | purpose |").unwrap();
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let calls = rows.flat_map(|row| {
        let cell = row.split('|').nth(1).unwrap();
        let names = cell.split('`').skip(1).step_by(2);
        names.map(|name| format!("ec2:{name}")).collect::<Vec<_>>()
    });
    assert_eq!(calls.collect::<BTreeSet<_>>(), allowed(&policy));
}

#[test]
fn docs_list_policy_and_every_key() {
    let page = docs("ec2.md");
    assert!(page.contains("ec2-policy.json"));
    for key in [
        "AccessKeyID",
        "SecretAccessKey",
        "Region",
        "SecurityGroupIDs",
        "SubnetID",
        "AdminUsername",
        "EBSVolumeType",
        "EBSPrice",
        "IAMInstanceProfile",
        "SpotPriceUpdateInterval",
        "InstanceTypeQuotaGroups",
        "AssociatePublicIP",
        "Endpoint",
    ] {
        assert!(page.contains(&format!("`{key}`")), "{key}");
    }
}
