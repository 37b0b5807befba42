//! Explanations.

use serde_json::{Value, json};

use crate::support::Api;
use crate::world::{AT_QUOTA, BOOTING, HOPELESS, RUNNING, World};

const EXPLAIN: &str = "/arvados/v1/dispatch/explain";

async fn explain(api: &Api, id: &str) -> Value {
    let id: String = form_urlencoded::byte_serialize(id.as_bytes()).collect();
    let answer = api.get(&format!("{EXPLAIN}?id={id}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

#[tokio::test]
async fn explanation_at_quota_has_limit_of_each_type() {
    let api = Api::new(World::busy()).await;
    let told = explain(&api, AT_QUOTA).await;
    assert_eq!(told["kind"], "container");
    assert_eq!(told["container"]["uuid"], AT_QUOTA);
    assert_eq!(told["waiting_in_all"], 3, "{told:#}");
    let types = told["eligible"].as_array().expect("types");
    let names: Vec<_> = types.iter().map(|t| &t["instance_type"]).collect();
    assert_eq!(names, ["large", "larger"]);
    let large = &types[0];
    assert_eq!(large["blocked"]["limit"], "quota", "{told:#}");
    assert!(large["blocked"]["until"].is_string());
    assert!(
        large["unblocked_by"]
            .as_str()
            .expect("words")
            .contains("the next try")
    );
    let others = told["ineligible"].as_array().expect("the others");
    let tiny = others.iter().find(|o| o["instance_type"] == "tiny");
    let lacks = &tiny.expect("tiny")["shortfalls"];
    assert_eq!(lacks[0]["shortfall"], "resource", "{told:#}");
    assert_eq!(
        (&lacks[0]["of"], &lacks[0]["need"]),
        (&json!("vcpus"), &json!(6))
    );
    let gpu = others.iter().find(|o| o["instance_type"] == "gpu");
    assert_eq!(gpu.expect("gpu")["shortfalls"][0]["shortfall"], "price");
    let text = told["text"].as_str().expect("text");
    for part in [
        "position",
        "large ($0.500000 an hour): at the cloud account's limit",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}

#[tokio::test]
async fn explanation_unsatisfiable_has_nearest_type_first() {
    let api = Api::new(World::busy()).await;
    let told = explain(&api, HOPELESS).await;
    assert_eq!(told["waiting"]["reason"], "unsatisfiable");
    assert_eq!(told["eligible"], json!([]));
    let others = told["ineligible"].as_array().expect("types");
    assert_eq!(others.len(), 5);
    assert_eq!(others[0]["shortfalls"][0]["of"], "vcpus");
    assert_eq!(others[0]["shortfalls"][0]["need"], 1000);
}

#[tokio::test]
async fn explanations_of_container_and_instance_match() {
    let api = Api::new(World::busy()).await;
    let waits = explain(&api, BOOTING).await;
    let instance = waits["waiting"]["instance"].as_str().expect("a name");
    let arriving = &waits["eligible"][0]["pending"][0];
    assert_eq!(arriving["instance"], instance, "{waits:#}");
    assert_eq!(
        (&arriving["for_this"], &arriving["phase"]),
        (&json!(true), &json!("booting"))
    );
    let boots = explain(&api, instance).await;
    assert_eq!(boots["kind"], "instance");
    assert_eq!(boots["origin"]["origin"], "created_for", "{boots:#}");
    assert_eq!(boots["origin"]["container"], BOOTING);
    assert_eq!(boots["reserved"], json!([BOOTING]));
    assert_eq!(boots["termination"]["plan"], "booting");

    let runs = explain(&api, RUNNING).await;
    assert_eq!(runs["instance"], "i-0001");
    assert_eq!(runs["runner"]["phase"], "alive");
    assert_eq!(runs["eligible"], json!([]));
    let host = explain(&api, "i-0001").await;
    assert_eq!(host["origin"]["origin"], "found");
    assert_eq!(host["runners"][0]["container"], RUNNING);
    assert_eq!(host["termination"]["plan"], "busy");
}

#[tokio::test]
async fn explanation_of_held_instance_has_address() {
    let api = Api::new(World::busy()).await;
    let held = explain(&api, "i-0002").await;
    assert_eq!(
        (&held["instance"], &held["address"]),
        (&json!("i-0002"), &json!("10.0.0.2:22"))
    );
    assert_eq!(
        (&held["termination"]["plan"], &held["unschedulable"]),
        (&json!("held"), &json!("held"))
    );
    assert_eq!(held["behavior_cause"], "tag of the adopted instance");
    let form = [("instance_id", "i-0001")];
    let drained = api
        .post("/arvados/v1/dispatch/instances/drain", &form)
        .await;
    assert_eq!(drained.status, 200);
    let drains = explain(&api, "i-0001").await;
    assert_eq!(
        drains["termination"],
        json!({ "plan": "draining", "left": 1, "until": null })
    );
    assert_eq!(drains["behavior_cause"], "set by an operator");
    let form = [("instance_id", "i-0001"), ("reason", "disk errors")];
    let killed = api.post("/arvados/v1/dispatch/instances/kill", &form).await;
    assert_eq!(killed.status, 200);
    let gone = explain(&api, "i-0001").await;
    assert_eq!(gone["termination"]["plan"], "destroying");
    assert_eq!(
        gone["termination"]["reason"],
        "killed by the operator: disk errors"
    );
}

#[tokio::test]
async fn explanation_exists_for_create_request() {
    let api = Api::new(World::busy()).await;
    let list = api.get("/arvados/v1/dispatch/instances").await.json();
    let items = list["items"].as_array().expect("instances").clone();
    let wish = items.iter().find(|i| i["instance"] == "").expect("a wish");
    let intent = wish["intent"].as_str().expect("its name");
    for name in [intent.to_owned(), format!("intent {intent}")] {
        let told = explain(&api, &name).await;
        assert_eq!(told["termination"]["plan"], "asked", "{told:#}");
        assert_eq!(told["phase"], "creating");
    }
    let nobody = "zzzzz-dz642-zzzzzzzzzzzzzzz";
    let (status, error) = api.get(&format!("{EXPLAIN}?id={nobody}")).await.error();
    assert_eq!(status, 404);
    assert!(error.ends_with(nobody), "{error}");
    let (status, error) = api.get(EXPLAIN).await.error();
    assert_eq!(status, 400);
    assert!(error.starts_with("id is missing"), "{error}");
}
