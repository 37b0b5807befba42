//! Lists, holds, drains and kills of instances.

use longshore_core::config::Config;
use longshore_core::input::IdleBehavior;
use longshore_core::view::InstanceView;
use longshore_core::{Phase, ShutdownReason};
use serde_json::json;

use crate::support::Api;
use crate::world::World;

const LIST: &str = "/arvados/v1/dispatch/instances";

fn view(api: &Api, name: &str) -> InstanceView {
    let world = api.world.lock().expect("no panic");
    let view = world.core.view().instance(&name.into());
    view.expect("it is known")
}

#[tokio::test]
async fn list_is_sorted_with_create_requests_first() {
    let api = Api::new(World::busy()).await;
    insta::assert_snapshot!(api.get(LIST).await.pretty());
}

#[tokio::test]
async fn list_without_instances_is_null() {
    let api = Api::new(World::new(Config::default())).await;
    let empty = json!({ "items": null, "boot_backoffs": [] });
    assert_eq!(api.get(LIST).await.json(), empty);
}

#[tokio::test]
async fn operator_changes_idle_behavior() {
    let api = Api::new(World::busy()).await;
    for (word, behavior) in [
        ("hold", IdleBehavior::Hold),
        ("drain", IdleBehavior::Drain),
        ("run", IdleBehavior::Run),
    ] {
        let path = format!("{LIST}/{word}");
        let answer = api.post(&path, &[("instance_id", "i-0001")]).await;
        assert_eq!((answer.status, answer.text.as_str()), (200, ""), "{word}");
        assert_eq!(view(&api, "i-0001").idle_behavior, behavior);
        let shown = api.get(LIST).await.json();
        assert_eq!(shown["items"][1]["instance"], "i-0001");
        assert_eq!(shown["items"][1]["idle_behavior"], word);
    }
}

#[tokio::test]
async fn killed_instance_shows_operator_reason() {
    let api = Api::new(World::busy()).await;
    let path = format!("{LIST}/kill?instance_id=i-0001");
    let answer = api.post(&path, &[("reason", "smells\nburnt")]).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, ""));
    let killed = view(&api, "i-0001");
    assert_eq!(killed.phase, Phase::Shutdown);
    let reason = ShutdownReason::Operator("smells burnt".into());
    assert_eq!(killed.terminating, Some(reason));
    let shown = &api.get(LIST).await.json()["items"][1];
    assert_eq!(shown["worker_state"], "shutdown");
    assert_eq!(shown["terminating"], "killed by the operator: smells burnt");
}

#[tokio::test]
async fn request_requires_a_known_instance() {
    let api = Api::new(World::busy()).await;
    for (word, not_found) in [
        ("hold", "requested instance does not exist"),
        ("drain", "requested instance does not exist"),
        ("run", "requested instance does not exist"),
        ("kill", "instance not found"),
    ] {
        let path = format!("{LIST}/{word}");
        let missing = "instance_id is missing: give it in the query or in a form";
        assert_eq!(
            api.post(&path, &[]).await.error(),
            (400, missing.to_owned())
        );
        let endless = "i".repeat(1001);
        let error = api.post(&path, &[("instance_id", &endless)]).await.error();
        let too_long = "instance_id: expected at most 1000 characters";
        assert_eq!(error, (400, too_long.to_owned()));
        let error = api.post(&path, &[("instance_id", "i-9999")]).await.error();
        assert_eq!(error, (404, not_found.to_owned()));
    }
}

#[tokio::test]
async fn instance_id_with_slashes_is_accepted() {
    let mut world = World::new(crate::world::config());
    let name = "/subscriptions/1/vm 2";
    let mut record = crate::world::instance("i-0001", "small", IdleBehavior::Run);
    record.id = name.into();
    world.cloud.push(record);
    world.lead();
    let api = Api::new(world).await;
    let path = format!("{LIST}/hold?instance_id=%2Fsubscriptions/1/vm+2");
    assert_eq!(api.post(&path, &[]).await.status, 200);
    assert_eq!(view(&api, name).idle_behavior, IdleBehavior::Hold);
}

#[tokio::test]
async fn instance_lookup_before_sync_is_not_404() {
    let api = Api::new(World::new(Config::default())).await;
    let path = format!("{LIST}/kill?instance_id=i-0001");
    let (status, error) = api.post(&path, &[]).await.error();
    assert_eq!(status, 503);
    assert!(error.contains("does not know all instances yet"), "{error}");
}
