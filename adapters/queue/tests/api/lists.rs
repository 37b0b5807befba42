//! Lists and pages in the form of the dispatcher's requests.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, World, plain};

const POLL_SELECT: &str = r#"["uuid","state","priority","runtime_constraints","container_image","scheduling_parameters","created_at"]"#;

fn uuids(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["uuid"].as_str().unwrap().to_owned())
        .collect()
}

/// All containers locked by the token, page by page, until an empty page.
async fn held(world: &World, auth: &str, limit: &str) -> (Vec<String>, usize) {
    let (mut all, mut pages) = (Vec::<String>::new(), 0);
    loop {
        let mut filters = json!([["locked_by_uuid", "=", auth]]);
        if let Some(last) = all.last() {
            filters
                .as_array_mut()
                .unwrap()
                .push(json!(["uuid", ">", last]));
        }
        let query = [
            ("count", "none"),
            ("filters", &filters.to_string()),
            ("limit", limit),
            ("order", "uuid"),
            ("select", POLL_SELECT),
        ];
        let page = world
            .get(&world.dispatcher, "containers", &query)
            .await
            .ok();
        assert!(page.get("items_available").is_none(), "count=none");
        if uuids(&page).is_empty() {
            return (all, pages);
        }
        pages += 1;
        all.extend(uuids(&page));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dispatcher_finds_what_it_holds() {
    let world = World::with(|config| config.max_items_per_response = 3).await;
    // 1: own token.
    let auth = world.token_uuid(&world.dispatcher).await;
    let mut locked = Vec::new();
    for priority in 1..=8 {
        let uuid = world.create(priority).await;
        // 6: lock, with an empty form.
        assert_eq!(
            world.lock(&world.dispatcher, &uuid).await.ok()["locked_by_uuid"],
            auth
        );
        locked.push(uuid);
    }
    let queued = world.create(1).await;
    // 2: own locks.
    locked.sort();
    let (all, pages) = held(&world, &auth, "1000").await;
    assert_eq!(all, locked);
    assert_eq!(pages, 3, "pages of at most three");
    // 4: state of given containers.
    let wanted = [&locked[0], &locked[1], &queued];
    let filters = json!([["uuid", "in", wanted]]).to_string();
    let query = [
        ("count", "none"),
        ("filters", filters.as_str()),
        ("order", "uuid"),
        ("select", POLL_SELECT),
    ];
    let page = world
        .get(&world.dispatcher, "containers", &query)
        .await
        .ok();
    let mut expected = wanted.map(String::clone);
    expected.sort();
    assert_eq!(uuids(&page), expected);
}

#[tokio::test]
async fn poll_lists_queued_containers_by_priority() {
    let world = World::with(|config| config.max_items_per_response = 3).await;
    for priority in [0, 5, 7, 5, 9] {
        world.create(priority).await;
    }
    // 3: queued containers; the operand of priority is text.
    let mut waiting = Vec::new();
    loop {
        let offset = waiting.len().to_string();
        let query = [
            ("count", "none"),
            (
                "filters",
                r#"[["state","=","Queued"],["priority",">","0"]]"#,
            ),
            ("limit", "1000"),
            ("offset", &offset),
            ("order", "priority desc"),
            ("select", POLL_SELECT),
        ];
        let page = world
            .get(&world.dispatcher, "containers", &query)
            .await
            .ok();
        assert_eq!(page["offset"].to_string(), offset);
        let items = page["items"].as_array().unwrap().clone();
        if items.is_empty() {
            break;
        }
        assert_eq!(
            items[0].as_object().unwrap().len(),
            7,
            "only what was selected"
        );
        waiting.extend(items);
    }
    let priorities: Vec<i64> = waiting
        .iter()
        .map(|item| item["priority"].as_i64().unwrap())
        .collect();
    assert_eq!(priorities, [9, 7, 5, 5]);
}

#[tokio::test]
async fn dispatcher_requests_on_one_container_succeed() {
    let world = World::new().await;
    let uuid = &world.create(5).await;
    // 5 to 10 on one container.
    let mounts = world
        .get(
            &world.dispatcher,
            &format!("containers/{uuid}"),
            &[("select", r#"["mounts"]"#)],
        )
        .await;
    assert_eq!(mounts.ok(), json!({ "mounts": {} }));
    world.lock(&world.dispatcher, uuid).await.ok();
    assert_eq!(
        world.unlock(&world.dispatcher, uuid).await.ok()["state"],
        "Queued"
    );
    world.lock(&world.dispatcher, uuid).await.ok();
    let form = [
        ("container", r#"{"runtime_status":{"error":"too big"}}"#),
        ("select", r#"["uuid"]"#),
    ];
    let put = || {
        world.request(
            &world.dispatcher,
            Method::PUT,
            &format!("containers/{uuid}"),
        )
    };
    assert_eq!(
        Answer::of(put().form(&form)).await.ok(),
        json!({ "uuid": uuid })
    );
    assert_eq!(
        Answer::of(put().form(&[("container", r#"{"state":"Cancelled"}"#)]))
            .await
            .ok()["state"],
        "Cancelled"
    );
    let state = world
        .get(
            &world.dispatcher,
            &format!("containers/{uuid}"),
            &[("select", r#"["state"]"#)],
        )
        .await;
    assert_eq!(state.ok(), json!({ "state": "Cancelled" }));
}

#[tokio::test]
async fn get_as_post_with_override_is_accepted() {
    let world = World::new().await;
    let uuid = world.create(3).await;
    let mut wanted = vec![uuid.clone()];
    wanted.extend((0..40).map(|n| format!("zzzzz-dz642-{n:015}")));
    let filters = json!([["uuid", "in", wanted]]).to_string();
    assert!(filters.len() > 1000);
    let form = [
        ("count", "none"),
        ("filters", filters.as_str()),
        ("order", "uuid"),
        ("select", POLL_SELECT),
    ];
    let request = world
        .request(&world.dispatcher, Method::POST, "containers")
        .header("X-Http-Method-Override", "GET");
    let page = Answer::of(request.form(&form)).await.ok();
    assert_eq!(uuids(&page), [uuid.as_str()]);
    let request = world
        .request(
            &world.dispatcher,
            Method::POST,
            &format!("containers/{uuid}"),
        )
        .header("X-Http-Method-Override", "GET");
    assert_eq!(
        Answer::of(request.form(&[("select", r#"["priority"]"#)]))
            .await
            .ok(),
        json!({ "priority": 3 })
    );
    let request = world
        .request(&world.dispatcher, Method::POST, "containers")
        .header("X-Http-Method-Override", "BREW");
    Answer::of(request)
        .await
        .fails(400, "X-Http-Method-Override: expected");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_cut_by_size_are_complete() {
    let world = World::with(|config| config.max_response_bytes = 1000).await;
    let mut made = Vec::new();
    for _ in 0..20 {
        let uuid = world.create(1).await;
        world.lock(&world.dispatcher, &uuid).await.ok();
        made.push(uuid);
    }
    made.sort();
    let auth = world.token_uuid(&world.dispatcher).await;
    let (all, pages) = held(&world, &auth, "1000").await;
    assert_eq!(all, made);
    assert!(pages > 3, "{pages} pages");
    let whole = world
        .get(&world.dispatcher, "containers", &[("limit", "1000")])
        .await
        .ok();
    assert_eq!(whole["items_available"], 20, "the count is of all");
    assert!(uuids(&whole).len() < 20);
}

#[tokio::test]
async fn filter_operators_select_matching_records() {
    let world = World::new().await;
    for (name, priority) in [("apple", 1), ("Apple pie", 2), ("pear", 3), ("100%", 4)] {
        let mut attributes = plain();
        attributes["name"] = json!(name);
        attributes["priority"] = json!(priority);
        world.create_as(&world.alice, &attributes).await.ok();
    }
    let all = world
        .get(&world.admin, "containers", &[("order", "priority")])
        .await
        .ok();
    let made = all["items"][1]["created_at"].clone();
    let pear = world
        .get(
            &world.admin,
            "containers",
            &[("filters", r#"[["name","=","pear"]]"#)],
        )
        .await
        .ok();
    let pear = pear["items"][0]["uuid"].as_str().unwrap().to_owned();
    world.lock(&world.dispatcher, &pear).await.ok();
    let cases = [
        (json!([["name", "=", "pear"]]), vec![3]),
        (json!([["name", "!=", "pear"]]), vec![1, 2, 4]),
        (json!([["priority", "<", 3]]), vec![1, 2]),
        (json!([["priority", "<=", "3"]]), vec![1, 2, 3]),
        (json!([["priority", ">", 2], ["priority", "<", 4]]), vec![3]),
        (json!([["priority", ">=", 3]]), vec![3, 4]),
        (json!([["priority", "in", [1, "4", 9]]]), vec![1, 4]),
        (json!([["priority", "in", []]]), vec![]),
        (json!([["priority", "not in", [1, 4]]]), vec![2, 3]),
        (
            json!([["locked_by_uuid", "not in", ["x"]]]),
            vec![1, 2, 3, 4],
        ),
        (json!([["locked_by_uuid", "=", null]]), vec![1, 2, 4]),
        (json!([["locked_by_uuid", "!=", null]]), vec![3]),
        (json!([["locked_by_uuid", "!=", "x"]]), vec![1, 2, 3, 4]),
        (json!([["name", "like", "apple%"]]), vec![1]),
        (json!([["name", "ilike", "apple%"]]), vec![1, 2]),
        (json!([["name", "like", "p__r"]]), vec![3]),
        (json!([["name", "like", "100\\%"]]), vec![4]),
        (json!([["created_at", "=", made]]), vec![2]),
        (
            json!([["created_at", ">", "2020-01-01T00:00:00+05:00"]]),
            vec![1, 2, 3, 4],
        ),
        (
            json!([["owner", "=", "alice"], ["state", "=", "Locked"]]),
            vec![3],
        ),
        (
            json!([["exit_code", "=", null], ["cost", "<", 0.5]]),
            vec![1, 2, 3, 4],
        ),
    ];
    for (filters, expected) in cases {
        let query = [
            ("filters", filters.to_string()),
            ("order", r#"["priority asc"]"#.to_owned()),
        ];
        let query: Vec<(&str, &str)> = query.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let list = world.get(&world.admin, "containers", &query).await.ok();
        let found: Vec<i64> = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| i["priority"].as_i64().unwrap())
            .collect();
        assert_eq!(found, expected, "{filters}");
        assert_eq!(list["items_available"], expected.len(), "{filters}");
    }
}

#[tokio::test]
async fn record_has_every_field_with_its_type() {
    let world = World::new().await;
    let mut attributes = plain();
    attributes["mounts"] = json!({ "/tmp": { "kind": "tmp", "capacity": 1_000_000_000 } });
    attributes["environment"] = json!({ "PATH": "/bin" });
    attributes["cwd"] = json!("/work");
    attributes["scheduling_parameters"] = json!({ "preemptible": true, "max_run_time": 60 });
    let mut record = world.create_as(&world.alice, &attributes).await.ok();
    let uuid = record["uuid"].as_str().unwrap().to_owned();
    assert_eq!(
        record,
        world
            .get(&world.alice, &format!("containers/{uuid}"), &[])
            .await
            .ok()
    );
    for volatile in ["uuid", "created_at", "modified_at"] {
        assert!(
            record
                .as_object_mut()
                .unwrap()
                .remove(volatile)
                .unwrap()
                .is_string()
        );
    }
    let expected = json!({
        "owner": "alice", "name": "", "state": "Queued", "priority": 500, "locked_by_uuid": null,
        "auth_uuid": null, "lock_count": 0, "started_at": null, "finished_at": null,
        "command": ["echo", "hello"], "environment": { "PATH": "/bin" }, "cwd": "/work", "output_path": "",
        "mounts": { "/tmp": { "kind": "tmp", "capacity": 1_000_000_000 } }, "container_image": "",
        "runtime_constraints": { "vcpus": 1, "ram": 1_000_000 },
        "scheduling_parameters": { "preemptible": true, "max_run_time": 60 },
        "runtime_status": {}, "exit_code": null, "output": null, "log": null, "gateway_address": "", "cost": 0.0,
    });
    assert_eq!(record, expected);
}
