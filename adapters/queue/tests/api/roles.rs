//! Visibility and permissions of each role.

use longshore_queue::Role;
use longshore_secret::Secret;
use reqwest::Method;
use serde_json::json;

use crate::support::{Answer, World, plain};

#[tokio::test]
async fn wrong_or_missing_token_gets_401_everywhere() {
    let world = World::new().await;
    let uuid = world.create(1).await;
    let good = world.alice.clone();
    let (uuid_part, secret) = good.strip_prefix("v2/").unwrap().split_once('/').unwrap();
    let other_uuid = world.token_uuid(&world.bob).await;
    let wrong = [
        "nonsense".to_owned(),
        format!("v2/{uuid_part}/{}", "0".repeat(50)),
        format!("v2/{other_uuid}/{secret}"),
        format!("v2/{uuid_part}"),
        "x".repeat(5000),
    ];
    for token in &wrong {
        for (method, path) in [
            (Method::GET, "containers".to_owned()),
            (Method::POST, "containers".to_owned()),
            (Method::GET, format!("containers/{uuid}")),
            (Method::POST, format!("containers/{uuid}/lock")),
            (Method::GET, "containers/events".to_owned()),
            (Method::GET, "nothing".to_owned()),
        ] {
            Answer::of(world.request(token, method, &path))
                .await
                .fails(401, "Not logged in");
        }
    }
    Answer::of(world.client.get(world.url("containers")))
        .await
        .fails(401, "Authorization: Bearer");
    let basic = world
        .client
        .get(world.url("containers"))
        .basic_auth("a", Some("b"));
    Answer::of(basic).await.fails(401, "Not logged in");
    // The bare secret and the other scheme name are accepted.
    assert_eq!(world.token_uuid(secret).await, uuid_part);
    let old = world
        .client
        .get(world.url("containers"))
        .header("Authorization", format!("OAuth2 {good}"));
    assert_eq!(Answer::of(old).await.status, 200);
}

#[tokio::test]
async fn containers_of_other_users_are_hidden() {
    let world = World::new().await;
    let uuid = world.create(1).await;
    let path = format!("containers/{uuid}");
    let missing = format!("container {uuid} not found");
    world.get(&world.bob, &path, &[]).await.fails(404, &missing);
    world
        .put(&world.bob, &uuid, &json!({ "priority": 0 }))
        .await
        .fails(404, &missing);
    world
        .post(&world.bob, &format!("{path}/cancel"), &[])
        .await
        .fails(404, &missing);
    world
        .get(&world.bob, &format!("{path}/log"), &[])
        .await
        .fails(404, &missing);
    world
        .get(&world.bob, &format!("{path}/log"), &[("follow", "true")])
        .await
        .fails(404, &missing);
    let deleted = Answer::of(world.request(&world.bob, Method::DELETE, &path)).await;
    deleted.fails(404, &missing);
    for (token, count) in [
        (&world.bob, 0),
        (&world.alice, 1),
        (&world.dispatcher, 1),
        (&world.admin, 1),
    ] {
        let list = world.get(token, "containers", &[]).await.ok();
        assert_eq!(list["items_available"], count);
        assert_eq!(list["items"].as_array().unwrap().len(), count);
        // A filter does not widen visibility.
        let filters = json!([["owner", "=", "alice"]]).to_string();
        let list = world
            .get(token, "containers", &[("filters", &filters)])
            .await
            .ok();
        assert_eq!(list["items_available"], count);
    }
}

#[tokio::test]
async fn user_may_change_priority_and_cancel() {
    let world = World::new().await;
    for (state, after, priority) in [
        ("Queued", "Cancelled", 1),
        ("Locked", "Locked", 0),
        ("Running", "Running", 0),
        ("Cancelled", "Cancelled", 1),
    ] {
        let (uuid, _) = world.create_in(state, &world.dispatcher).await;
        let record = world
            .post(&world.alice, &format!("containers/{uuid}/cancel"), &[])
            .await
            .ok();
        assert_eq!(
            (&record["state"], &record["priority"]),
            (&json!(after), &json!(priority)),
            "{state}"
        );
    }
    let (uuid, _) = world.create_in("Complete", &world.dispatcher).await;
    let answer = world
        .post(&world.alice, &format!("containers/{uuid}/cancel"), &[])
        .await;
    answer.fails(422, "cannot cancel when Complete");
    let uuid = world.create(1).await;
    for priority in [0, 1000, 5] {
        let record = world
            .put(&world.alice, &uuid, &json!({ "priority": priority }))
            .await
            .ok();
        assert_eq!(record["priority"], priority);
    }
    let answer = world
        .put(&world.alice, &uuid, &json!({ "priority": 1001 }))
        .await;
    answer.fails(
        422,
        "container.priority: expected an integer of 0 to 1000, got 1001",
    );
    let large = 562_949_953_421_311_999_i64;
    let record = world
        .put(&world.admin, &uuid, &json!({ "priority": large }))
        .await
        .ok();
    assert_eq!(
        record["priority"].as_i64(),
        Some(large),
        "no precision is lost"
    );
}

#[tokio::test]
async fn admin_calls_are_refused_to_others() {
    let world = World::new().await;
    let mut image = plain();
    image["runtime_constraints"]["instance_image_id"] = json!("ami-1");
    let mut other = plain();
    other["owner"] = json!("bob");
    for token in [&world.alice, &world.dispatcher] {
        world.create_as(token, &image).await.fails(
            403,
            "container.runtime_constraints.instance_image_id: only an admin",
        );
        world
            .create_as(token, &other)
            .await
            .fails(403, "container.owner: only an admin");
    }
    let record = world.create_as(&world.admin, &image).await.ok();
    assert_eq!(record["runtime_constraints"]["instance_image_id"], "ami-1");
    let record = world.create_as(&world.admin, &other).await.ok();
    assert_eq!(record["owner"], "bob");
    let path = format!("containers/{}", record["uuid"].as_str().unwrap());
    for token in [&world.dispatcher, &world.bob] {
        let answer = Answer::of(world.request(token, Method::DELETE, &path)).await;
        answer.fails(403, "only an admin may delete");
    }
    Answer::of(world.request(&world.admin, Method::DELETE, &path))
        .await
        .ok();
    world
        .get(&world.admin, &path, &[])
        .await
        .fails(404, "not found");
}

#[tokio::test]
async fn container_token_reaches_only_its_container() {
    let world = World::new().await;
    let (uuid, own) = world.create_in("Locked", &world.dispatcher).await;
    let own = own.unwrap();
    let other = world.create(1).await;
    assert_eq!(
        world
            .get(&own, &format!("containers/{uuid}"), &[])
            .await
            .ok()["uuid"],
        uuid
    );
    world
        .get(&own, &format!("containers/{other}"), &[])
        .await
        .fails(404, "not found");
    let list = world.get(&own, "containers", &[]).await.ok();
    assert_eq!(list["items_available"], 1);
    world
        .create_as(&own, &plain())
        .await
        .fails(403, "may not create");
    world
        .get(&own, "containers/events", &[])
        .await
        .fails(403, "may not subscribe");
    world
        .post(&own, &format!("containers/{uuid}/cancel"), &[])
        .await
        .fails(403, "may not cancel");
    world
        .get(&own, &format!("containers/{uuid}/auth"), &[])
        .await
        .fails(403, "only the token that locked");
    // A second secret does not revoke the first; an unlock revokes both.
    let second = world.own_token(&world.dispatcher, &uuid).await;
    assert_eq!(
        world.token_uuid(&own).await,
        world.token_uuid(&second).await
    );
    world.unlock(&world.dispatcher, &uuid).await.ok();
    for token in [own, second] {
        world
            .get(&token, &format!("containers/{uuid}"), &[])
            .await
            .fails(401, "Not logged in");
    }
}

#[tokio::test]
async fn container_token_is_given_to_holder_only() {
    let world = World::new().await;
    let (uuid, _) = world.create_in("Running", &world.dispatcher).await;
    let path = format!("containers/{uuid}/auth");
    let auth = world.get(&world.dispatcher, &path, &[]).await.ok();
    assert_eq!(auth["uuid"], world.record(&uuid).await["auth_uuid"]);
    for token in [&world.admin, &world.alice] {
        world
            .get(token, &path, &[])
            .await
            .fails(403, "only the token that locked");
    }
    world
        .get(&world.bob, &path, &[])
        .await
        .fails(404, "not found");
    let queued = world.create(1).await;
    let answer = world
        .get(&world.dispatcher, &format!("containers/{queued}/auth"), &[])
        .await;
    answer.fails(403, "only the token that locked");
}

#[tokio::test]
async fn container_token_ninth_secret_revokes_the_first() {
    let world = World::new().await;
    let (uuid, first) = world.create_in("Locked", &world.dispatcher).await;
    let first = first.unwrap();
    let mut last = String::new();
    for _ in 0..7 {
        last = world.own_token(&world.dispatcher, &uuid).await;
    }
    world.token_uuid(&first).await;
    world.own_token(&world.dispatcher, &uuid).await;
    let answer = world
        .get(&first, "api_client_authorizations/current", &[])
        .await;
    answer.fails(401, "Not logged in");
    world.token_uuid(&last).await;
}

#[tokio::test]
async fn root_token_can_be_changed() {
    let world = World::new().await;
    let tokens = world.server.tokens();
    let (old, new) = (
        Secret::new("first-root-token"),
        Secret::new("second-root-token"),
    );
    let root = tokens.set_root(&old).await.unwrap();
    assert_eq!(root.uuid, "zzzzz-gj3su-000000000000000");
    assert_eq!(
        tokens.set_root(&old).await.unwrap(),
        root,
        "setting it again changes nothing"
    );
    let uuid = world.create(1).await;
    world.lock(old.expose(), &uuid).await.ok();
    tokens.set_root(&new).await.unwrap();
    world
        .get(old.expose(), "containers", &[])
        .await
        .fails(401, "Not logged in");
    assert_eq!(
        world.unlock(new.expose(), &uuid).await.ok()["state"],
        "Queued"
    );

    let given = Secret::new("a-given-token");
    let added = tokens.add(Role::User, "carol", &given).await.unwrap();
    assert_eq!(
        tokens.add(Role::User, "carol", &given).await.unwrap(),
        added
    );
    let promoted = tokens.add(Role::Admin, "carol", &given).await.unwrap();
    assert_eq!(
        (promoted.uuid.as_str(), promoted.role),
        (added.uuid.as_str(), Role::Admin)
    );
    assert!(tokens.list().await.unwrap().contains(&promoted));
    assert!(tokens.revoke(&added.uuid).await.unwrap());
    assert!(!tokens.revoke(&added.uuid).await.unwrap());
    world
        .get(given.expose(), "containers", &[])
        .await
        .fails(401, "Not logged in");
    for bad in [
        "",
        "with blank",
        "v2/x/y",
        "v2/zzzzz-gj3su-000000000000001/",
    ] {
        assert!(
            tokens
                .add(Role::User, "carol", &Secret::new(bad))
                .await
                .is_err(),
            "{bad:?}"
        );
    }
    assert!(tokens.create(Role::User, "").await.is_err());
    let text = format!("{:?} {:?}", world.server, tokens.list().await.unwrap());
    assert!(!text.contains("second-root-token"));
}

#[tokio::test]
async fn database_contains_no_secrets() {
    let world = World::new().await;
    world
        .server
        .tokens()
        .set_root(&Secret::new("plain-to-see-root"))
        .await
        .unwrap();
    let (_, own) = world.create_in("Locked", &world.dispatcher).await;
    let own = own.unwrap();
    let secrets = [
        own.rsplit('/').next().unwrap(),
        world.alice.rsplit('/').next().unwrap(),
        "plain-to-see-root",
    ];
    let mut seen = 0;
    for entry in std::fs::read_dir(world.dir.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        seen += bytes.len();
        for secret in secrets {
            assert!(
                !bytes
                    .windows(secret.len())
                    .any(|part| part == secret.as_bytes())
            );
        }
    }
    assert!(seen > 0);
}
