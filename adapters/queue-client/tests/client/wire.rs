//! Requests on the wire, and interpretation of responses.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::*;
use longshore_core::input::{ContainerState, ContainerUpdate, QueueError};
use serde_json::json;

const SELECT: &str = r#"["uuid","state","priority","runtime_constraints","container_image","scheduling_parameters","created_at","lock_count","locked_by_uuid"]"#;
const BIG: u64 = 562_949_953_421_312_001;

fn id(n: usize) -> longshore_core::ids::ContainerId {
    uuid(n).parse().unwrap_or_else(|e| panic!("{e}"))
}

#[tokio::test]
async fn poll_fetches_locked_queued_then_mounts() {
    let api = FakeApi::start(|seen| match kind_of(seen) {
        List::Locked if !seen.query.contains("uuid%22%2C%22%3E") => page(&[row(1, "Running", 5)]),
        List::Queued if seen.param("offset").is_empty() => page(&[row(2, "Queued", BIG)]),
        List::Mounts => mounts_of(seen),
        _ => page(&[]),
    })
    .await;
    let found = api.client().poll(100, LONG).await;
    let found = found.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(found.len(), 2);
    assert!(found[0].locked_by_us && !found[1].locked_by_us);
    assert_eq!(found[1].priority, BIG);
    let tmp: Vec<_> = found
        .iter()
        .map(|r| r.demand.clone().map(|d| d.tmp))
        .collect();
    assert_eq!(tmp, [Ok(1), Ok(2)]);

    let seen = api.seen();
    let shape: Vec<_> = seen.iter().map(kind_of).collect();
    use List::{Locked, Mounts, Queued};
    assert_eq!(shape, [Locked, Locked, Queued, Queued, Mounts]);
    // Parameters are sorted by name, spaces are plus signs, brackets and quotes are escaped.
    let select = "select=%5B%22uuid%22%2C%22state%22%2C%22priority%22%2C%22runtime_constraints%22%2C%22container_image%22%2C%22scheduling_parameters%22%2C%22created_at%22%2C%22lock_count%22%2C%22locked_by_uuid%22%5D";
    let locked = format!(
        "count=none&filters=%5B%5B%22locked_by_uuid%22%2C%22%3D%22%2C%22{OWN_UUID}%22%5D%5D&limit=1000&order=uuid&{select}"
    );
    assert_eq!(seen[0].query, locked);
    let next = format!(
        r#"[["locked_by_uuid","=","{OWN_UUID}"],["uuid",">","{}"]]"#,
        uuid(1)
    );
    assert_eq!(seen[1].param("filters"), next);
    let queued = format!(
        "count=none&filters=%5B%5B%22state%22%2C%22%3D%22%2C%22Queued%22%5D%2C%5B%22priority%22%2C%22%3E%22%2C%220%22%5D%5D&limit=100&order=priority+desc&{select}"
    );
    assert_eq!(seen[2].query, queued);
    assert_eq!(
        (seen[3].param("offset"), seen[3].param("limit")),
        ("1".into(), "99".into())
    );
    let mounts = format!(r#"[["uuid","in",["{}","{}"]]]"#, uuid(1), uuid(2));
    assert_eq!(seen[4].param("filters"), mounts);
    assert_eq!(seen[4].param("select"), r#"["uuid","mounts"]"#);
    assert_eq!(seen[4].param("order"), "uuid");
    assert!(seen[4].param("limit").is_empty());
    for request in &seen {
        assert_eq!(request.method, "GET");
        assert_eq!(request.path, "/arvados/v1/containers");
        assert_eq!(request.header("authorization"), format!("Bearer {TOKEN}"));
        assert_eq!(
            request.header("content-type"),
            "application/x-www-form-urlencoded"
        );
        let id = request.header("x-request-id");
        assert!(id.starts_with("req-") && id.len() == 24, "{id}");
    }
}

#[tokio::test]
async fn paging_ends_on_empty_page() {
    let api = FakeApi::start(|seen| match kind_of(seen) {
        List::Locked => {
            // Two rows a page, for any limit.
            let after = (1..=5).filter(|n| {
                let last = seen.param("filters");
                let last = last
                    .rsplit_once("\">\",\"")
                    .map(|(_, rest)| rest[..27].to_owned());
                last.is_none_or(|last| uuid(*n) > last)
            });
            let rows: Vec<_> = after.take(2).map(|n| row(n, "Locked", 1)).collect();
            page(&rows)
        }
        List::Queued => {
            let offset: usize = seen.param("offset").parse().unwrap_or(0);
            let rows = (offset..7).take(3).map(|n| row(10 + n, "Queued", 9));
            page(&rows.collect::<Vec<_>>())
        }
        _ => mounts_of(seen),
    })
    .await;
    let client = api.client();
    let found = client
        .poll(100, LONG)
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(found.len(), 12);
    let lists = |kind| api.seen().iter().filter(|s| kind_of(s) == kind).count();
    assert_eq!((lists(List::Locked), lists(List::Queued)), (4, 4));
    api.forget();
    let found = client.poll(4, LONG).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(found.len(), 9, "five locked and four queued");
    assert_eq!((lists(List::Queued), lists(List::Mounts)), (2, 0));
    let found = client.poll(0, LONG).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(found.len(), 5);
}

#[tokio::test]
async fn repeated_page_is_an_error() {
    let api = FakeApi::start(|_| page(&[row(1, "Locked", 1)])).await;
    let error = api.client().poll(0, LONG).await;
    assert!(matches!(error, Err(QueueError::Unavailable(why)) if why.contains("follow")));
    let error = api.client().lookup(&[id(1), id(2)], LONG).await;
    assert!(matches!(error, Err(QueueError::Unavailable(why)) if why.contains("follow")));
}

#[tokio::test]
async fn sizes_are_batched_and_cached_until_container_ends() {
    let shown = Arc::new(AtomicUsize::new(45));
    let count = Arc::clone(&shown);
    let api = FakeApi::start(move |seen| match kind_of(seen) {
        List::Queued if seen.param("offset").is_empty() => {
            let rows = (0..count.load(Ordering::SeqCst)).map(|n| row(n, "Queued", 1));
            page(&rows.collect::<Vec<_>>())
        }
        List::Mounts => mounts_of(seen),
        _ => page(&[]),
    })
    .await;
    let client = api.client();
    let mut fetched = Vec::new();
    for (count, expected) in [(45, 45), (45, 0), (46, 1), (2, 0), (3, 1)] {
        shown.store(count, Ordering::SeqCst);
        api.forget();
        let found = client
            .poll(1000, LONG)
            .await
            .unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(found.len(), count);
        for (n, record) in found.iter().enumerate() {
            assert_eq!(record.demand.clone().map(|d| d.tmp), Ok(n as u64));
        }
        let seen = api.seen();
        let batches = seen.iter().filter(|s| kind_of(s) == List::Mounts);
        let sizes: Vec<usize> = batches.map(|s| s.asked_for().len()).collect();
        assert!(sizes.iter().all(|n| *n <= 20), "{sizes:?}");
        assert_eq!(sizes.iter().sum::<usize>(), expected);
        fetched.push(sizes.len());
    }
    assert_eq!(fetched, [3, 0, 1, 0, 1]);
}

#[tokio::test]
async fn malformed_record_affects_no_others() {
    let api = FakeApi::start(|seen| match kind_of(seen) {
        List::Queued if seen.param("offset").is_empty() => {
            let mut bad_size = row(1, "Queued", 1);
            bad_size["runtime_constraints"]["ram"] = json!("much");
            let mut no_state = row(2, "Queued", 1);
            no_state["state"] = json!(7);
            page(&[
                bad_size,
                no_state,
                json!("?"),
                row(3, "Queued", 1),
                row(4, "Queued", 1),
            ])
        }
        List::Mounts => {
            let bad = json!({"uuid": uuid(3), "mounts": {"/tmp": {"kind": 1}}});
            let good = json!({"uuid": uuid(4), "mounts": {}});
            let rows = [json!({"uuid": uuid(1)}), bad, good];
            let asked = seen.asked_for();
            let rows = rows
                .into_iter()
                .filter(|r| asked.contains(&r["uuid"].as_str().unwrap_or("").to_owned()));
            page(&rows.collect::<Vec<_>>())
        }
        _ => page(&[]),
    })
    .await;
    let found = api.client().poll(10, LONG).await;
    let found = found.unwrap_or_else(|e| panic!("{e}"));
    let shown: Vec<_> = found
        .iter()
        .map(|r| (r.id, r.demand.clone().map(|d| d.vcpus)))
        .collect();
    assert_eq!(shown.len(), 3);
    let sentence = |n: usize| shown[n].1.clone().err().unwrap_or_default();
    assert_eq!(shown[0].0, id(1));
    assert!(
        sentence(0).contains("runtime_constraints.ram is text"),
        "{}",
        sentence(0)
    );
    assert_eq!(shown[1].0, id(3));
    assert!(
        sentence(1).contains("mounts./tmp.kind is another whole"),
        "{}",
        sentence(1)
    );
    assert_eq!(shown[2], (id(4), Ok(1)));
}

#[tokio::test]
async fn long_lookup_is_sent_in_body() {
    let api = FakeApi::start(|seen| match kind_of(seen) {
        List::Mounts => mounts_of(seen),
        // One row a page: the second page's filters exceed a thousand bytes.
        _ => {
            let filters = seen.param("filters");
            let last = filters
                .rsplit_once("\">\",\"")
                .map(|(_, rest)| rest[..27].to_owned());
            let next = (0..20).find(|n| last.as_ref().is_none_or(|last| uuid(*n) > *last));
            page(
                &next
                    .map(|n| row(n, "Locked", 1))
                    .into_iter()
                    .collect::<Vec<_>>(),
            )
        }
    })
    .await;
    let ids: Vec<_> = (0..20).map(id).collect();
    let found = api.client().lookup(&ids, LONG).await;
    assert_eq!(found.map(|f| f.len()), Ok(20));
    for seen in api.seen() {
        let overridden = seen.header("x-http-method-override") == "GET";
        assert_eq!(seen.method, if overridden { "POST" } else { "GET" });
        assert_eq!(overridden, seen.body.len() >= 1000, "{seen:?}");
        assert_eq!(overridden, seen.query.is_empty());
        assert!(seen.query.len() < 1000);
    }
    assert!(api.seen().iter().any(|s| s.method == "POST"));
}

#[tokio::test]
async fn short_lookup_is_get_of_existing_containers() {
    let api = FakeApi::start(|seen| match kind_of(seen) {
        List::Mounts => mounts_of(seen),
        _ if seen.param("filters").contains("\">\"") => page(&[]),
        _ => page(&[row(1, "Running", 0), row(3, "Complete", 0)]),
    })
    .await;
    let found = api.client().lookup(&[id(3), id(1), id(2)], LONG).await;
    let found = found.unwrap_or_else(|e| panic!("{e}"));
    let shown: Vec<_> = found.iter().map(|r| (r.id, r.state)).collect();
    assert_eq!(
        shown,
        [
            (id(1), ContainerState::Running),
            (id(3), ContainerState::Complete)
        ]
    );
    assert_eq!(found[0].demand.clone().map(|d| d.tmp), Ok(1));
    let seen = api.seen();
    assert_eq!(seen[0].method, "GET");
    let filters = format!(
        r#"[["uuid","in",["{}","{}","{}"]]]"#,
        uuid(1),
        uuid(2),
        uuid(3)
    );
    assert_eq!(seen[0].param("filters"), filters);
    assert_eq!(seen[0].param("select"), SELECT);
    assert_eq!(
        (seen[0].param("order"), seen[0].param("count")),
        ("uuid".into(), "none".into())
    );
    assert!(seen[0].param("limit").is_empty());
    // Mounts of final containers are not fetched.
    assert_eq!(seen[2].asked_for(), [uuid(1)]);
}

#[tokio::test]
async fn lookup_with_unrequested_record_is_unavailable() {
    let api = FakeApi::start(|_| page(&[row(9, "Locked", 1)])).await;
    let error = api.client().lookup(&[id(1)], LONG).await;
    assert!(matches!(error, Err(QueueError::Unavailable(why)) if why.contains(&uuid(9))));
    let api = FakeApi::start(|_| page(&[json!({"uuid": uuid(1), "priority": 1})])).await;
    let error = api.client().lookup(&[id(1)], LONG).await;
    assert!(matches!(error, Err(QueueError::Unavailable(why)) if why.contains("state")));
}

#[tokio::test]
async fn requeue_falls_back_to_cancel() {
    let api = FakeApi::start(|seen| match seen.path.rsplit('/').next() {
        Some("requeue") => status(404, r#"{"errors":["Path not found"]}"#),
        _ => ok(&row(1, "Cancelled", 1)),
    })
    .await;
    let why = "interrupted: the cloud took back i-1";
    let update = api.client().requeue(id(1), why, LONG).await;
    assert_eq!(update.map(|u| u.state), Ok(ContainerState::Cancelled));
    let seen = api.seen();
    assert_eq!(seen[0].param("reason"), why);
    let expected = json!({"state": "Cancelled", "runtime_status": {"error": why}});
    assert_eq!(seen[1].param("container"), expected.to_string());

    let api = FakeApi::start(|_| status(422, r#"{"errors":["cannot requeue when Queued"]}"#)).await;
    let update = api.client().requeue(id(1), why, LONG).await;
    assert!(matches!(update, Err(QueueError::Refused(_))));
    assert_eq!(
        api.seen().len(),
        1,
        "what is no longer Running is left alone"
    );
}

#[tokio::test]
async fn updates_are_single_requests() {
    let api = FakeApi::start(|seen| {
        let state = match seen.path.rsplit('/').next() {
            Some("lock") => "Locked",
            // One unlock more than allowed.
            _ => "Cancelled",
        };
        ok(&row(1, state, BIG))
    })
    .await;
    let client = api.client();
    let update = |state| {
        Ok(ContainerUpdate {
            state,
            priority: BIG,
            locked_by_us: true,
        })
    };
    assert_eq!(
        client.lock(id(1), LONG).await,
        update(ContainerState::Locked)
    );
    assert_eq!(
        client.unlock(id(1), LONG).await,
        update(ContainerState::Cancelled)
    );
    assert_eq!(
        client.cancel(id(1), None, LONG).await,
        update(ContainerState::Cancelled)
    );
    let why = "too large & too \"wide\"";
    assert!(client.cancel(id(1), Some(why), LONG).await.is_ok());
    let seen = api.seen();
    let base = format!("/arvados/v1/containers/{}", uuid(1));
    let shape: Vec<_> = seen
        .iter()
        .map(|s| (s.method.as_str(), s.path.clone(), s.query.as_str()))
        .collect();
    let expected = [
        ("POST", format!("{base}/lock"), ""),
        ("POST", format!("{base}/unlock"), ""),
        ("PUT", base.clone(), ""),
        ("PUT", base, ""),
    ];
    assert_eq!(shape, expected);
    assert_eq!((seen[0].body.as_str(), seen[1].body.as_str()), ("", ""));
    assert_eq!(
        seen[2].body,
        "container=%7B%22state%22%3A%22Cancelled%22%7D"
    );
    let expected = json!({"state": "Cancelled", "runtime_status": {"error": why}});
    assert_eq!(seen[3].param("container"), expected.to_string());
    for request in &seen {
        assert_eq!(
            request.header("content-type"),
            "application/x-www-form-urlencoded"
        );
        assert_eq!(request.header("x-http-method-override"), "");
    }
}
