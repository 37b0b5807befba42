//! Routes of the API, and the layers around all handlers.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::handler::Handler;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post};

use crate::app::App;
use crate::auth;
use crate::error::ApiError;
use crate::handlers;

/// Router of all requests.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route(
            "/arvados/v1/dispatch/containers",
            read(handlers::containers),
        )
        .route("/arvados/v1/dispatch/container", read(handlers::container))
        .route(
            "/arvados/v1/dispatch/containers/kill",
            write(handlers::kill_container),
        )
        .route("/arvados/v1/dispatch/instances", read(handlers::instances))
        .route(
            "/arvados/v1/dispatch/instances/hold",
            write(handlers::hold_instance),
        )
        .route(
            "/arvados/v1/dispatch/instances/drain",
            write(handlers::drain_instance),
        )
        .route(
            "/arvados/v1/dispatch/instances/run",
            write(handlers::run_instance),
        )
        .route(
            "/arvados/v1/dispatch/instances/kill",
            write(handlers::kill_instance),
        )
        .route("/arvados/v1/dispatch/explain", read(handlers::explain))
        .route(auth::PING_PATH, read(handlers::ping))
        .route("/metrics", read(handlers::metrics_text))
        .route("/metrics.json", read(handlers::metrics_json))
        .route("/_inspect/requests", read(handlers::in_flight))
        .fallback(unknown_path)
        .layer(from_fn_with_state(Arc::clone(&app), authorize))
        .layer(from_fn_with_state(Arc::clone(&app), track))
        .with_state(app)
}

/// Route of GET; axum derives HEAD.
fn read<H: Handler<T, Arc<App>>, T: 'static>(handler: H) -> MethodRouter<Arc<App>> {
    get(handler).fallback(|| async { wrong_method("GET, HEAD") })
}

/// Route of POST.
fn write<H: Handler<T, Arc<App>>, T: 'static>(handler: H) -> MethodRouter<Arc<App>> {
    post(handler).fallback(|| async { wrong_method("POST") })
}

fn wrong_method(allow: &'static str) -> Response {
    let message = format!("wrong method: expected {allow}");
    let mut response = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message).into_response();
    let headers = response.headers_mut();
    headers.insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

async fn unknown_path() -> ApiError {
    ApiError::not_found("there is nothing at this path")
}

/// Outer layer: takes a slot in flight, then counts and logs the request.
async fn track(
    State(app): State<Arc<App>>,
    ConnectInfo(caller): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let Some(slot) = app.in_flight.enter(&method, &uri, caller) else {
        let busy = "too many requests are being worked on: try again in a second";
        return ApiError::unavailable(busy).into_response();
    };
    let response = next.run(request).await;
    let status = response.status();
    let took = slot.since().elapsed();
    app.metrics.request_ended(&method, status, took);
    tracing::debug!(
        %method,
        path = uri.path(),
        status = status.as_u16(),
        took_ms = took.as_secs_f64() * 1e3,
        "management request"
    );
    response
}

/// Inner layer, for all routes and for unknown paths: checks the management token.
async fn authorize(
    State(app): State<Arc<App>>,
    path: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let path = path.as_ref().map(MatchedPath::as_str);
    auth::check(&app.settings().management_token, request.headers(), path)?;
    Ok(next.run(request).await)
}
