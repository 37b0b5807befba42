//! Interoperation of the client with the built-in queue.

use std::time::Duration;

use crate::support::{LONG, TOKEN, client, client_with};
use longshore_core::ids::ContainerId;
use longshore_core::input::{ContainerState, QueueError};
use longshore_queue::{Database, QueueConfig, QueueServer};
use longshore_queue_client::ApiClient;
use longshore_secret::Secret;
use serde_json::{Value, json};

async fn start(shorten_pages: bool) -> (QueueServer, String) {
    let mut config = QueueConfig::new("zzzzz", Database::Memory);
    config.max_dispatch_attempts = 2;
    if shorten_pages {
        config.max_items_per_response = 2;
    }
    let address = ([127, 0, 0, 1], 0).into();
    let server = QueueServer::bind(address, config).await;
    let server = server.unwrap_or_else(|e| panic!("{e}"));
    let root = server.tokens().set_root(&Secret::new(TOKEN)).await;
    root.unwrap_or_else(|e| panic!("{e}"));
    let url = format!("http://{}/", server.local_addr());
    (server, url)
}

async fn submit(url: &str, priority: u64) -> ContainerId {
    let container = json!({
        "command": ["true"], "container_image": "busybox", "cwd": "/", "output_path": "/tmp",
        "priority": priority,
        "runtime_constraints": {"vcpus": 2, "ram": 1_000_000},
        "mounts": {"/tmp": {"kind": "tmp", "capacity": 5000}},
    });
    let url = reqwest::Url::parse(&format!("{url}arvados/v1/containers"));
    let mut form = url.clone().unwrap_or_else(|e| panic!("{e}"));
    form.query_pairs_mut()
        .append_pair("container", &container.to_string());
    let response = reqwest::Client::new()
        .post(url.unwrap_or_else(|e| panic!("{e}")))
        .bearer_auth(TOKEN)
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(form.query().unwrap_or_default().to_owned())
        .send()
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    let text = response.text().await.unwrap_or_else(|e| panic!("{e}"));
    let body: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let uuid = body["uuid"].as_str().unwrap_or_else(|| panic!("{text}"));
    uuid.parse().unwrap_or_else(|e| panic!("{e}"))
}

/// Reports a container as running, like a runner.
async fn start_running(url: &str, id: ContainerId) {
    let mut form = reqwest::Url::parse("http://x/").unwrap_or_else(|e| panic!("{e}"));
    form.query_pairs_mut()
        .append_pair("container", r#"{"state":"Running"}"#);
    let response = reqwest::Client::new()
        .put(format!("{url}arvados/v1/containers/{id}"))
        .bearer_auth(TOKEN)
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(form.query().unwrap_or_default().to_owned())
        .send()
        .await;
    let status = response.map(|response| response.status().as_u16());
    assert_eq!(status.ok(), Some(200));
}

async fn state_of(api: &ApiClient, id: ContainerId) -> ContainerState {
    let found = api.lookup(&[id], LONG).await;
    found.unwrap_or_else(|e| panic!("{e}"))[0].state
}

#[tokio::test]
async fn container_is_polled_locked_unlocked_and_cancelled() {
    const BIG: u64 = 562_949_953_421_312_001;
    let (server, url) = start(false).await;
    let api = client(&url, 16);
    let id = submit(&url, BIG).await;
    let found = api.poll(10, LONG).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((found.len(), found[0].id, found[0].priority), (1, id, BIG));
    assert!(found[0].created_at.as_nanos() > 1_700_000_000_000_000_000);
    let demand = found[0].demand.clone().unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((demand.vcpus, demand.ram, demand.tmp), (2, 1_000_000, 5000));

    let update = api.lock(id, LONG).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(update.state, ContainerState::Locked);
    assert_eq!((update.priority, update.locked_by_us), (BIG, true));
    let again = api.lock(id, LONG).await;
    assert!(matches!(again, Err(QueueError::Refused(why)) if why.contains("422")));
    let found = api.poll(10, LONG).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((found.len(), found[0].lock_count), (1, 1));
    assert!(found[0].locked_by_us);

    let update = api.unlock(id, LONG).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(update.state, ContainerState::Queued);
    assert!(!update.locked_by_us);
    assert!(api.lock(id, LONG).await.is_ok());
    // One lock more than allowed.
    let update = api.unlock(id, LONG).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(update.state, ContainerState::Cancelled);

    let id = submit(&url, 1).await;
    assert!(api.lock(id, LONG).await.is_ok());
    let early = api.requeue(id, "the VM is gone", LONG).await;
    assert!(matches!(early, Err(QueueError::Refused(why)) if why.contains("when Locked")));
    assert_eq!(state_of(&api, id).await, ContainerState::Locked);
    start_running(&url, id).await;
    let back = api.requeue(id, "the VM is gone", LONG).await;
    assert_eq!(back.map(|u| u.state), Ok(ContainerState::Queued));

    let id = submit(&url, 1).await;
    assert!(api.lock(id, LONG).await.is_ok());
    let update = api.cancel(id, Some("too large"), LONG).await;
    assert_eq!(update.map(|u| u.state), Ok(ContainerState::Cancelled));
    assert_eq!(state_of(&api, id).await, ContainerState::Cancelled);
    assert!(server.shutdown().await.is_ok());
}

#[tokio::test]
async fn pages_of_two_return_all_rows() {
    let (server, url) = start(true).await;
    let api = client(&url, 16);
    let mut ids = Vec::new();
    for n in 1..=25 {
        ids.push(submit(&url, n).await);
    }
    for id in &ids[..7] {
        assert!(api.lock(*id, LONG).await.is_ok());
    }
    let found = api.poll(1000, LONG).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(found.len(), 25);
    assert_eq!(found.iter().filter(|r| r.locked_by_us).count(), 7);
    assert!(
        found
            .iter()
            .all(|r| r.demand.clone().is_ok_and(|d| d.tmp == 5000))
    );
    let gone = "zzzzz-dz642-000000000000000".parse();
    ids.push(gone.unwrap_or_else(|e| panic!("{e}")));
    let found = api
        .lookup(&ids, LONG)
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(found.len(), 25);
    assert!(server.shutdown().await.is_ok());
}

#[tokio::test]
async fn wrong_token_is_refused() {
    let (_server, url) = start(false).await;
    let api = client_with(&url, 16, "wrongwrongwrong");
    let error = api.poll(1, LONG).await;
    assert!(matches!(error, Err(QueueError::Refused(why)) if why.contains("token is wrong")));
}

#[tokio::test]
async fn new_container_sends_hint() {
    let (_server, url) = start(false).await;
    let (hints, mut hinted) = tokio::sync::watch::channel(0);
    let api = client(&url, 16);
    let task = tokio::spawn(async move {
        api.changes(|| hints.send_modify(|n| *n += 1)).await;
    });
    let first = tokio::time::timeout(LONG, hinted.wait_for(|n| *n > 0)).await;
    let before = first.map(|n| n.map(|n| *n).unwrap_or(0)).unwrap_or(0);
    assert_eq!(before, 1, "the stream says that it is there");
    submit(&url, 1).await;
    let hint = tokio::time::timeout(Duration::from_secs(5), hinted.wait_for(|n| *n > 1)).await;
    assert!(hint.is_ok());
    task.abort();
}
