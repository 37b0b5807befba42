//! Routes of the API.

use std::sync::Arc;

use axum::Router;
use axum::extract::Extension;
use axum::http::Method;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodRouter, any};

use crate::app::App;
use crate::error::ApiError;
use crate::handlers::{
    append_log, auth, cancel, create, current_token, delete, events, get, list, lock, read_log,
    requeue, unlock, update,
};
use crate::request::{LOCK_PATH, SentPath, admit, identify};

/// Router of all requests.
pub(crate) fn router(app: Arc<App>) -> Router {
    let routes = Router::new()
        .route(
            "/arvados/v1/api_client_authorizations/current",
            only("GET").get(current_token),
        )
        .route(
            "/arvados/v1/containers",
            only("GET or POST").get(list).post(create),
        )
        .route("/arvados/v1/containers/events", only("GET").get(events))
        .route(
            "/arvados/v1/containers/{uuid}",
            only("GET, PUT, PATCH or DELETE")
                .get(get)
                .put(update)
                .patch(update)
                .delete(delete),
        )
        .route("/arvados/v1/containers/{uuid}/auth", only("GET").get(auth))
        .route(
            "/arvados/v1/containers/{uuid}/log",
            only("GET or POST").get(read_log).post(append_log),
        )
        .route(LOCK_PATH, only("POST").post(lock))
        .route(
            "/arvados/v1/containers/{uuid}/unlock",
            only("POST").post(unlock),
        )
        .route(
            "/arvados/v1/containers/{uuid}/cancel",
            only("POST").post(cancel),
        )
        .route(
            "/arvados/v1/containers/{uuid}/requeue",
            only("POST").post(requeue),
        )
        .fallback(unknown_path)
        .layer(from_fn_with_state(Arc::clone(&app), admit))
        .with_state(app);
    Router::new()
        .fallback_service(routes)
        .layer(from_fn(identify))
}

/// Answers 405 to all methods, until handlers are added for some.
///
/// HEAD is refused explicitly, because axum would answer HEAD by the handler of GET. The base is
/// [`any`], because otherwise axum would add an `Allow` header, absent from this API.
fn only(allowed: &'static str) -> MethodRouter<Arc<App>> {
    let refuse = move |method: Method, Extension(path): Extension<SentPath>| {
        let message = format!("{}: expected {allowed}, got {method}", path.0);
        std::future::ready(ApiError::method_not_allowed(message))
    };
    any(refuse).head(refuse)
}

async fn unknown_path(Extension(path): Extension<SentPath>) -> ApiError {
    let shown: String = path.0.chars().take(200).collect();
    ApiError::not_found(format!(
        "path {shown} not found: the API begins at /arvados/v1/containers"
    ))
}
