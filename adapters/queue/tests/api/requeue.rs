//! Requeue after a preemption: a call beyond the peer's API.

use serde_json::json;

use crate::support::{Answer, World};

const WHY: &str = "interrupted: the cloud took back i-1 while the container ran";

async fn requeue(world: &World, token: &str, uuid: &str) -> Answer {
    let path = format!("containers/{uuid}/requeue");
    world.post(token, &path, &[("reason", WHY)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn requeue_returns_container_with_reason_for_owner() {
    let world = World::new().await;
    let holder = world.dispatcher.clone();
    let (uuid, own) = world.create_in("Running", &holder).await;
    let change =
        json!({"runtime_status": {"warning": "preemption notice"}, "gateway_address": "1.2.3.4:5"});
    world.put(&holder, &uuid, &change).await.ok();
    let answer = requeue(&world, &holder, &uuid).await.ok();
    assert_eq!(answer["state"], "Queued");
    let record = world.record(&uuid).await;
    let status = json!({"warning": "interrupted", "warningDetail": WHY});
    assert_eq!(record["runtime_status"], status);
    assert_eq!(record["lock_count"], 1);
    for gone in ["locked_by_uuid", "auth_uuid", "started_at", "finished_at"] {
        assert!(record[gone].is_null(), "{gone}: {record}");
    }
    assert_eq!(record["gateway_address"], "");
    // The token of the ended attempt is void.
    let own = own.unwrap_or_default();
    let path = format!("containers/{uuid}");
    world.get(&own, &path, &[]).await.fails(401, "");
    world.lock(&holder, &uuid).await.ok();
    let start = json!({"state": "Running", "gateway_address": "1.2.3.4:6"});
    world.put(&holder, &uuid, &start).await.ok();
    assert_eq!(world.record(&uuid).await["lock_count"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn requeue_requires_holder_of_running_container() {
    let world = World::new().await;
    let (_, holder) = world
        .server
        .tokens()
        .create(longshore_queue::Role::Dispatcher, "one")
        .await
        .unwrap();
    let holder = holder.expose();
    for state in ["Queued", "Locked", "Complete", "Cancelled"] {
        let (uuid, _) = world.create_in(state, holder).await;
        let answer = requeue(&world, holder, &uuid).await;
        answer.fails(422, &format!("cannot requeue when {state}"));
    }
    let (uuid, own) = world.create_in("Running", holder).await;
    let own = own.unwrap_or_default();
    for (token, status, text) in [
        (&world.dispatcher, 403, "locked by a different token"),
        (&world.alice, 403, "only a dispatcher or an admin"),
        (&world.bob, 404, "not found"),
        (&own, 403, "only a dispatcher or an admin"),
    ] {
        requeue(&world, token, &uuid).await.fails(status, text);
    }
    let path = format!("containers/{uuid}/requeue");
    let silent = world.post(holder, &path, &[]).await;
    silent.fails(422, "reason: is required");
    assert_eq!(world.record(&uuid).await["state"], "Running");
}

#[tokio::test(flavor = "multi_thread")]
async fn requeue_after_last_attempt_cancels_with_both_reasons() {
    let world = World::with(|config| config.max_dispatch_attempts = 1).await;
    let holder = world.dispatcher.clone();
    let (uuid, _) = world.create_in("Running", &holder).await;
    let answer = requeue(&world, &holder, &uuid).await.ok();
    assert_eq!(answer["state"], "Cancelled");
    let status = world.record(&uuid).await["runtime_status"].clone();
    assert_eq!(status["warningDetail"], WHY);
    let error = status["error"].as_str().unwrap_or_default();
    assert!(error.contains("MaxDispatchAttempts"), "{error}");
}
