//! Lists and kills of containers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use longshore_core::config::Config;
use longshore_core::input::ContainerState;
use longshore_management::ServeLimits;
use serde_json::json;

use crate::support::{Api, DEADLINE, settings};
use crate::world::{AT_QUOTA, BOOTING, RUNNING, World, demand, record};

const LIST: &str = "/arvados/v1/dispatch/containers";
const ONE: &str = "/arvados/v1/dispatch/container";
const KILL: &str = "/arvados/v1/dispatch/containers/kill";

#[tokio::test]
async fn list_has_running_container_first() {
    let api = Api::new(World::busy()).await;
    insta::assert_snapshot!(api.get(LIST).await.pretty());
}

#[tokio::test]
async fn single_container_equals_its_list_entry() {
    let api = Api::new(World::busy()).await;
    let list = api.get(LIST).await.json();
    for item in list["items"].as_array().expect("a list") {
        let uuid = item["container"]["uuid"].as_str().expect("a uuid");
        let one = api.get(&format!("{ONE}?container_uuid={uuid}")).await;
        assert_eq!(one.status, 200);
        assert_eq!(one.json(), *item);
    }
}

#[tokio::test]
async fn list_before_first_pass_is_null() {
    let api = Api::new(World::new(Config::default())).await;
    assert_eq!(api.get(LIST).await.json(), json!({ "items": null }));
    let mut empty = World::new(crate::world::config());
    empty.lead();
    let api = Api::new(empty).await;
    assert_eq!(api.get(LIST).await.json(), json!({ "items": [] }));
}

fn submit_one_more(world: &mut World) {
    let uuid = "zzzzz-dz642-00000000000000a";
    world.submit(record(uuid, ContainerState::Queued, 1, demand(1, 1024)));
}

#[tokio::test]
async fn recent_list_is_reused() {
    let limits = ServeLimits {
        containers_age_max: Duration::from_secs(3600),
        ..ServeLimits::default()
    };
    let api = Api::with_limits(World::busy(), limits).await;
    let before = api.get(LIST).await.json();
    submit_one_more(&mut api.world.lock().expect("no panic"));
    assert_eq!(api.get(LIST).await.json(), before);
}

#[tokio::test]
async fn old_list_is_refreshed() {
    let api = Api::new(World::busy()).await;
    let before = api.get(LIST).await.json();
    submit_one_more(&mut api.world.lock().expect("no panic"));
    let started = Instant::now();
    while api.get(LIST).await.json() == before {
        assert!(started.elapsed() < DEADLINE, "still the old list");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn removed_type_is_left_out() {
    let api = Api::new(World::busy()).await;
    let mut without_types = settings(crate::support::TOKEN);
    without_types.config = Arc::new(Config::default());
    api.settings.send_replace(Arc::new(without_types));
    let one = api
        .get(&format!("{ONE}?container_uuid={BOOTING}"))
        .await
        .json();
    assert_eq!(one["instance_types"], json!([]));
    assert_eq!(one["instance_type"], json!(null));
}

#[tokio::test]
async fn kill_requires_a_known_container() {
    let api = Api::new(World::busy()).await;
    let missing = "container_uuid is missing: give it in the query or in a form";
    let unknown = "zzzzz-dz642-zzzzzzzzzzzzzzz";
    for query in ["", "?container_uuid=", "?uuid=x"] {
        let error = api.get(&format!("{ONE}{query}")).await.error();
        assert_eq!(error, (400, missing.to_owned()), "{query}");
    }
    let (status, error) = api.get(&format!("{ONE}?container_uuid=x")).await.error();
    assert_eq!(status, 400);
    assert!(
        error.starts_with("container_uuid: \"x\" is not a"),
        "{error}"
    );
    let error = api.get(&format!("{ONE}?container_uuid={unknown}")).await;
    assert_eq!(error.error(), (404, "container not found".to_owned()));

    assert_eq!(api.post(KILL, &[]).await.error(), (400, missing.to_owned()));
    let (status, error) = api.post(KILL, &[("container_uuid", "x")]).await.error();
    assert_eq!(status, 400);
    assert!(
        error.starts_with("container_uuid: \"x\" is not a"),
        "{error}"
    );
    for nowhere in [unknown, AT_QUOTA] {
        let error = api.post(KILL, &[("container_uuid", nowhere)]).await.error();
        assert_eq!(error, (404, "container is not on any worker".to_owned()));
    }
}

#[tokio::test]
async fn kill_container_accepts_form_and_query() {
    for by_query in [false, true] {
        let api = Api::new(World::busy()).await;
        let answer = if by_query {
            let path = format!("{KILL}?container_uuid={RUNNING}&reason=too+slow");
            api.post(&path, &[]).await
        } else {
            let form = [("container_uuid", RUNNING), ("reason", "too slow")];
            api.post(KILL, &form).await
        };
        assert_eq!((answer.status, answer.text.as_str()), (200, ""));
        let world = api.world.lock().expect("no panic");
        let sent = world.signals.clone();
        assert_eq!(sent, [(RUNNING.parse().expect("a uuid"), 15)]);
    }
}
