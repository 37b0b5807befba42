//! Failures of requests, and errors passed to the core.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::*;
use longshore_core::ids::ContainerId;
use longshore_core::input::QueueError;

fn id(n: usize) -> ContainerId {
    uuid(n).parse().unwrap_or_else(|e| panic!("{e}"))
}

/// Error of a lock request with this response.
async fn error_of(code: u16, body: &'static str) -> QueueError {
    let api = FakeApi::start(move |_| status(code, body)).await;
    let update = api.client().lock(id(1), LONG).await;
    update
        .err()
        .unwrap_or_else(|| panic!("{code} was accepted"))
}

#[tokio::test]
async fn each_status_maps_to_error() {
    let body = r##"{"errors":["#<Lock: cannot lock when Locked> (req-1)"],"error_token":"1+a"}"##;
    for code in [400, 403, 404, 422] {
        let error = error_of(code, body).await;
        assert!(
            matches!(&error, QueueError::Refused(why) if why.contains("cannot lock when Locked")),
            "{error}"
        );
    }
    for code in [429, 503] {
        assert!(matches!(
            error_of(code, body).await,
            QueueError::Overloaded(_)
        ));
    }
    for code in [301, 500, 502, 504] {
        assert!(
            matches!(error_of(code, "<html>").await, QueueError::Unavailable(_)),
            "{code}"
        );
    }
}

#[tokio::test]
async fn wrong_token_is_named_not_shown() {
    let quoted: &'static str = Box::leak(format!(r#"{{"errors":["not {TOKEN}"]}}"#).into());
    let error = error_of(401, quoted).await.to_string();
    assert!(error.contains("token is wrong or has expired"), "{error}");
    assert!(
        error.contains("SystemRootToken") && !error.contains(TOKEN),
        "{error}"
    );
}

#[tokio::test]
async fn invalid_answer_is_unavailable() {
    for body in [
        "",
        "{",
        "<html>",
        "[]",
        "null",
        r#"{"state":"Lost","priority":1}"#,
    ] {
        let error = error_of(200, body).await;
        assert!(
            matches!(error, QueueError::Unavailable(_)),
            "{body}: {error}"
        );
    }
    assert!(matches!(
        error_of(204, "").await,
        QueueError::Unavailable(_)
    ));
    let api = FakeApi::start(|_| status(200, r#"{"rows":[]}"#)).await;
    let error = api.client().poll(1, LONG).await;
    assert!(matches!(error, Err(QueueError::Unavailable(why)) if why.contains("without items")));
}

#[tokio::test]
async fn unreachable_server_is_unavailable() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let address = listener.and_then(|l| l.local_addr());
    let address = address.unwrap_or_else(|e| panic!("{e}"));
    let error = client(&format!("http://{address}"), 16).poll(1, LONG).await;
    assert!(matches!(error, Err(QueueError::Unavailable(why)) if why.contains("not connected")));
}

#[tokio::test]
async fn endless_answer_ends_by_timeout() {
    let api = FakeApi::start(|_| hangs()).await;
    let client = api.client();
    let short = Duration::from_millis(50);
    // More requests than the limit: requests after the timeout have returned their permits.
    for _ in 0..20 {
        let error = client.poll(1, short).await;
        assert!(matches!(error, Err(QueueError::Unavailable(why)) if why.contains("within 50ms")));
    }
    assert_eq!(api.seen().len(), 20);
}

#[tokio::test]
async fn overload_pauses_requests_for_a_second() {
    let first = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&first);
    let api = FakeApi::start(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => status(503, ""),
        _ => ok(&row(1, "Locked", 1)),
    })
    .await;
    let client = api.client();
    assert_eq!(client.last_503(), None);
    let error = client.lock(id(1), LONG).await;
    assert!(matches!(error, Err(QueueError::Overloaded(_))));
    let at = client.last_503().map(|t| t.as_nanos() / 1_000_000_000);
    assert!(at > Some(1_700_000_000), "{at:?}");
    let error = client.lock(id(1), Duration::from_millis(100)).await;
    assert!(matches!(error, Err(QueueError::Unavailable(_))), "barred");
    assert_eq!(first.load(Ordering::SeqCst), 1, "nothing was sent");
    assert!(client.lock(id(1), LONG).await.is_ok());
}

#[tokio::test]
async fn requests_in_flight_respect_limit() {
    let api = FakeApi::start(|_| hangs()).await;
    let client = api.client();
    let calls: Vec<_> = (0..30)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.lock(id(n), LONG).await })
        })
        .collect();
    api.wait_for(8).await;
    let ninth = client.lock(id(31), Duration::from_millis(100)).await;
    assert!(matches!(ninth, Err(QueueError::Unavailable(_))));
    for call in calls {
        call.abort();
    }
}

#[tokio::test]
async fn poll_after_timeout_uses_cached_sizes() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let api = FakeApi::start(move |seen| match kind_of(seen) {
        List::Queued if seen.param("offset").is_empty() => {
            let rows: Vec<_> = (0..40).map(|n| row(n, "Queued", 1)).collect();
            page(&rows)
        }
        List::Mounts if count.fetch_add(1, Ordering::SeqCst) == 0 => hangs(),
        List::Mounts => mounts_of(seen),
        _ => page(&[]),
    })
    .await;
    let client = api.client();
    assert!(client.poll(100, SECOND).await.is_err());
    api.forget();
    let found = client.poll(100, LONG).await;
    assert_eq!(found.map(|f| f.len()), Ok(40));
    let seen = api.seen();
    let batches = seen.iter().filter(|s| kind_of(s) == List::Mounts).count();
    assert_eq!(batches, 1, "the other batch was remembered");
}

#[test]
fn unusable_settings_are_refused() {
    use longshore_queue_client::{ApiClient, ApiSettings, ClientError};
    let settings = |base_url: &str, token: &str, ca_pem: Option<&[u8]>| {
        ApiClient::new(ApiSettings {
            base_url: base_url.into(),
            token: longshore_secret::Secret::new(token),
            insecure: true,
            concurrency_max: 1,
            ca_pem: ca_pem.map(<[u8]>::to_vec),
        })
    };
    assert!(settings("https://a.b", "t", None).is_ok());
    let bad = settings("a.b", "t", None);
    assert!(matches!(bad, Err(ClientError::BadUrl(_))));
    let bad = settings("https://a.b", "sesame\n", None);
    assert!(matches!(&bad, Err(e @ ClientError::BadToken) if !e.to_string().contains("sesame")));
    let bad = settings(
        "https://a.b",
        "t",
        Some(b"-----BEGIN CERTIFICATE-----\n!\n"),
    );
    assert!(bad.is_err());
}
