//! Fake containers API that records each request and responds as configured by the test.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use longshore_queue_client::{ApiClient, ApiSettings};
use longshore_secret::Secret;
use serde_json::{Value, json};
use tokio::sync::watch;

pub(crate) const TOKEN: &str = "tokentokentokentokentokentokentoken";
pub(crate) const OWN_UUID: &str = "zzzzz-gj3su-000000000000000";
pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// Timeout far above the duration of any request in the tests.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// Recorded request.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    /// URL-encoded.
    pub(crate) query: String,
    /// URL-encoded.
    pub(crate) body: String,
    pub(crate) headers: BTreeMap<String, String>,
}

impl Seen {
    /// Decoded parameters of the query or of the body.
    pub(crate) fn params(&self) -> BTreeMap<String, String> {
        let encoded = if self.query.is_empty() {
            &self.body
        } else {
            &self.query
        };
        let url = reqwest::Url::parse(&format!("http://x/?{encoded}"));
        let url = url.unwrap_or_else(|e| panic!("{e}"));
        url.query_pairs().into_owned().collect()
    }

    pub(crate) fn param(&self, name: &str) -> String {
        self.params().remove(name).unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Uuids of an `in` filter.
    pub(crate) fn asked_for(&self) -> Vec<String> {
        let filters: Value = serde_json::from_str(&self.param("filters")).unwrap_or_default();
        let ids = filters[0][2].as_array().cloned().unwrap_or_default();
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        ids.iter().map(text).collect()
    }
}

type Answer = Box<dyn Fn(&Seen) -> Response + Send + Sync>;

#[derive(Clone)]
struct Shared {
    seen: Arc<Mutex<Vec<Seen>>>,
    count: Arc<watch::Sender<usize>>,
    answer: Arc<Answer>,
}

/// Running server; stops when dropped.
pub(crate) struct FakeApi {
    shared: Shared,
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl FakeApi {
    /// Starts a server. The record of the token is served here, all other requests by `answer`.
    pub(crate) async fn start(answer: impl Fn(&Seen) -> Response + Send + Sync + 'static) -> Self {
        let shared = Shared {
            seen: Arc::default(),
            count: Arc::new(watch::Sender::new(0)),
            answer: Arc::new(Box::new(answer)),
        };
        let router = Router::new().fallback(handle).with_state(shared.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap_or_else(|e| panic!("{e}"));
        let address = listener.local_addr().unwrap_or_else(|e| panic!("{e}"));
        let task = tokio::spawn(async move {
            axum::serve(listener, router)
                .await
                .unwrap_or_else(|e| panic!("{e}"));
        });
        Self {
            shared,
            address,
            task,
        }
    }

    pub(crate) fn client(&self) -> ApiClient {
        client(&format!("http://{}", self.address), 16)
    }

    /// All requests so far, except requests for the record of the token.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// Forgets the requests so far.
    pub(crate) fn forget(&self) {
        lock(&self.shared.seen).clear();
    }

    /// Waits for a number of requests since the start.
    pub(crate) async fn wait_for(&self, count: usize) {
        let mut counted = self.shared.count.subscribe();
        let come = tokio::time::timeout(LONG, counted.wait_for(|n| *n >= count)).await;
        assert!(come.is_ok(), "no {count} requests came");
    }
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn client(base_url: &str, concurrency_max: u32) -> ApiClient {
    client_with(base_url, concurrency_max, TOKEN)
}

pub(crate) fn client_with(base_url: &str, concurrency_max: u32, token: &str) -> ApiClient {
    let settings = ApiSettings {
        base_url: base_url.to_owned(),
        token: Secret::new(token),
        insecure: false,
        concurrency_max,
        ca_pem: None,
    };
    ApiClient::new(settings).unwrap_or_else(|e| panic!("{e}"))
}

async fn handle(State(shared): State<Shared>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20)
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    let header = |(name, value): (&axum::http::HeaderName, &axum::http::HeaderValue)| {
        let value = value.to_str().unwrap_or_default().to_owned();
        (name.as_str().to_owned(), value)
    };
    let seen = Seen {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        body: String::from_utf8_lossy(&body).into_owned(),
        headers: parts.headers.iter().map(header).collect(),
    };
    if seen.path == "/arvados/v1/api_client_authorizations/current" {
        return ok(&json!({"uuid": OWN_UUID, "api_token": "not ours to keep"}));
    }
    lock(&shared.seen).push(seen.clone());
    let response = (shared.answer)(&seen);
    shared.count.send_modify(|count| *count += 1);
    response
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Status 200 with JSON.
pub(crate) fn ok(body: &Value) -> Response {
    status(200, &body.to_string())
}

/// Status 200 with a page of rows.
pub(crate) fn page(items: &[Value]) -> Response {
    ok(&json!({"items": items, "limit": 1000, "offset": 0}))
}

pub(crate) fn status(code: u16, body: &str) -> Response {
    let code = StatusCode::from_u16(code).unwrap_or_else(|e| panic!("{e}"));
    (code, body.to_owned()).into_response()
}

/// Response that never ends.
pub(crate) fn hangs() -> Response {
    let stuck = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
    Response::new(Body::from_stream(stuck))
}

/// Uuid of the n-th container.
pub(crate) fn uuid(n: usize) -> String {
    format!("zzzzz-dz642-{n:015}")
}

/// Row of a container with one core, in list format.
pub(crate) fn row(n: usize, state: &str, priority: u64) -> Value {
    json!({
        "uuid": uuid(n), "state": state, "priority": priority,
        "runtime_constraints": {"vcpus": 1, "ram": 1000},
        "locked_by_uuid": if state == "Queued" { Value::Null } else { OWN_UUID.into() },
    })
}

/// Rows of mounts: `tmp` of n bytes for the n-th container.
pub(crate) fn mounts_of(seen: &Seen) -> Response {
    let mounts = |uuid: &String| {
        let n: u64 = uuid[12..].parse().unwrap_or_default();
        json!({"uuid": uuid, "mounts": {"/tmp": {"kind": "tmp", "capacity": n}}})
    };
    let rows: Vec<Value> = seen.asked_for().iter().map(mounts).collect();
    page(&rows)
}

/// Purpose of a list request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    Locked,
    Queued,
    Mounts,
    Lookup,
}

pub(crate) fn kind_of(seen: &Seen) -> List {
    let filters = seen.param("filters");
    if filters.contains("locked_by_uuid") {
        List::Locked
    } else if filters.contains("Queued") {
        List::Queued
    } else if seen.param("select").contains("mounts") {
        List::Mounts
    } else {
        List::Lookup
    }
}
