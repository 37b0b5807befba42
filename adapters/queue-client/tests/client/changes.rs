//! Change hints.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::*;
use axum::body::{Body, Bytes};
use axum::http::HeaderValue;
use axum::response::Response;
use futures_util::StreamExt as _;
use tokio::sync::watch;

/// Follows the event stream in the background and counts hints.
fn follow(api: &FakeApi) -> (watch::Receiver<usize>, tokio::task::JoinHandle<()>) {
    let (count, counted) = watch::channel(0);
    let client = api.client();
    let task = tokio::spawn(async move {
        client.changes(|| count.send_modify(|n| *n += 1)).await;
    });
    (counted, task)
}

fn event_stream(pieces: &'static [&'static str], then_hang: bool) -> Response {
    let pieces = futures_util::stream::iter(pieces)
        .map(|piece| Ok::<_, std::io::Error>(Bytes::from_static(piece.as_bytes())));
    let body = if then_hang {
        Body::from_stream(pieces.chain(futures_util::stream::pending()))
    } else {
        Body::from_stream(pieces)
    };
    let mut response = Response::new(body);
    let kind = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert("content-type", kind);
    response
}

#[tokio::test]
async fn each_event_is_a_hint() {
    let api = FakeApi::start(|_| {
        event_stream(
            &[
                ": hello\n\nevent: change\ndata: {}\n\n",
                "data: {}\n\n",
                ": bye\n\n",
            ],
            true,
        )
    })
    .await;
    let (mut counted, task) = follow(&api);
    let come = tokio::time::timeout(LONG, counted.wait_for(|n| *n > 0)).await;
    assert!(come.is_ok());
    drop(come);
    let seen = api.seen();
    assert_eq!(
        (seen[0].method.as_str(), seen[0].query.as_str()),
        ("GET", "")
    );
    assert_eq!(seen[0].path, "/arvados/v1/containers/events");
    assert_eq!(seen[0].header("authorization"), format!("Bearer {TOKEN}"));
    assert_eq!(seen[0].header("accept"), "text/event-stream");
    let more = tokio::time::timeout(SECOND, counted.wait_for(|n| *n > 2)).await;
    assert!(more.is_err(), "two events, two hints at the most");
    task.abort();
}

#[tokio::test]
async fn ended_or_failed_stream_is_reopened() {
    let count = AtomicUsize::new(0);
    let api = FakeApi::start(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => event_stream(&["data: 1\n\n"], false),
        1 => status(500, ""),
        _ => event_stream(&["data: 1\n\n"], true),
    })
    .await;
    let (mut counted, task) = follow(&api);
    let come = tokio::time::timeout(LONG, counted.wait_for(|n| *n == 2)).await;
    assert!(come.is_ok());
    assert_eq!(api.seen().len(), 3);
    task.abort();
}

#[tokio::test]
async fn api_without_stream_is_not_retried() {
    for code in [404, 200] {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let api = FakeApi::start(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            status(code, "{}")
        })
        .await;
        let (counted, task) = follow(&api);
        api.wait_for(1).await;
        // A failed stream would have been retried after one second.
        let again = tokio::time::timeout(Duration::from_millis(2500), api.wait_for(2)).await;
        assert!(again.is_err());
        assert_eq!((asked.load(Ordering::SeqCst), *counted.borrow()), (1, 0));
        task.abort();
    }
}
