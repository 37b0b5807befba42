//! Handlers: each sends a request to the loop and writes the reply as JSON.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use longshore_core::input::{IdleBehavior, OperatorRequest};
use longshore_core::view::{ContainerView, Totals};
use serde_json::{Value, json};
use tokio::sync::{MutexGuard, oneshot};
use tokio::time::Instant;

use crate::app::App;
use crate::error::ApiError;
use crate::json::{self, Catalog};
use crate::loop_request::{AsOf, Explanation, Health, LoopRequest, Outcome, Reply};
use crate::metrics::MetricsSnapshot;
use crate::params::Params;
use crate::settings::ManagementSettings;

type Answer = Result<Response, ApiError>;
type SharedApp = State<Arc<App>>;

pub(crate) async fn kill_container(State(app): SharedApp, params: Params) -> Answer {
    let (container, reason) = (params.container()?, params.reason()?);
    let request = OperatorRequest::KillContainer { container, reason };
    operate(&app, request, "container is not on any worker").await
}

pub(crate) async fn hold_instance(app: SharedApp, params: Params) -> Answer {
    set_idle_behavior(app, &params, IdleBehavior::Hold).await
}

pub(crate) async fn drain_instance(app: SharedApp, params: Params) -> Answer {
    set_idle_behavior(app, &params, IdleBehavior::Drain).await
}

pub(crate) async fn run_instance(app: SharedApp, params: Params) -> Answer {
    set_idle_behavior(app, &params, IdleBehavior::Run).await
}

async fn set_idle_behavior(
    State(app): SharedApp,
    params: &Params,
    behavior: IdleBehavior,
) -> Answer {
    let instance = params.instance()?;
    let request = OperatorRequest::SetIdleBehavior { instance, behavior };
    operate(&app, request, "requested instance does not exist").await
}

pub(crate) async fn kill_instance(State(app): SharedApp, params: Params) -> Answer {
    let (instance, reason) = (params.instance()?, params.reason()?);
    let request = OperatorRequest::KillInstance { instance, reason };
    operate(&app, request, "instance not found").await
}

async fn operate(app: &App, request: OperatorRequest, missing: &str) -> Answer {
    match ask(app, |reply| LoopRequest::Operate(request, reply)).await? {
        Outcome::Accepted => Ok(StatusCode::OK.into_response()),
        Outcome::Missing => Err(ApiError::not_found(missing)),
        Outcome::NotReady => Err(ApiError::unavailable(
            "this dispatcher does not know all instances yet, or another one is in charge: try again in a minute",
        )),
    }
}

pub(crate) async fn containers(State(app): SharedApp) -> Answer {
    let settings = app.settings();
    let age_max = app.limits.containers_age_max;
    // Callers arriving while the list is being made wait for the list, no longer than for any reply.
    let looked_up = within_timeout(&app, async {
        let cached = app.container_list.lock().await;
        if let Some((since, bytes)) = cached.as_ref()
            && since.elapsed() < age_max
        {
            return Ok(Lookup::Fresh(bytes.clone()));
        }
        // Taken before the request, so that the cached list does not seem newer than it is.
        let since = Instant::now();
        let views = send(&app, LoopRequest::Containers).await?;
        Ok(Lookup::Stale(cached, since, views))
    });
    let (mut cached, since, views) = match looked_up.await? {
        Lookup::Fresh(bytes) => return Ok(typed("application/json", bytes)),
        Lookup::Stale(cached, since, views) => (cached, since, views),
    };
    // Writing a long list would block the other tasks of this thread.
    let rendered = tokio::task::spawn_blocking(move || {
        let catalog = Catalog::new(&settings.config);
        let items = views.as_deref().map(|views| catalog.containers(views));
        Bytes::from(json::items(items))
    });
    let bytes = rendered.await.map_err(|_| stopping())?;
    *cached = Some((since, bytes.clone()));
    Ok(typed("application/json", bytes))
}

/// State of the cached list of containers.
enum Lookup<'a> {
    Fresh(Bytes),
    /// The locked cache, with the time and the reply of a new request to the loop.
    Stale(
        MutexGuard<'a, Option<(Instant, Bytes)>>,
        Instant,
        Option<Vec<ContainerView>>,
    ),
}

pub(crate) async fn container(State(app): SharedApp, params: Params) -> Answer {
    let id = params.container()?;
    let view = ask(&app, |reply| LoopRequest::Container(id, reply)).await?;
    let view = view.ok_or_else(|| ApiError::not_found("container not found"))?;
    Ok(Json(Catalog::new(&app.settings().config).container(&view)).into_response())
}

pub(crate) async fn instances(State(app): SharedApp) -> Answer {
    let AsOf { at, value } = ask(&app, LoopRequest::Instances).await?;
    Ok(Json(json::instances(&app.settings().config, at, &value)).into_response())
}

pub(crate) async fn explain(State(app): SharedApp, params: Params) -> Answer {
    let name = params.subject()?;
    let settings = app.settings();
    let missing = format!("neither a container nor an instance of this name is known: {name}");
    let explanation = ask(&app, |reply| LoopRequest::Explain(name, reply)).await?;
    Ok(
        match explanation.ok_or_else(|| ApiError::not_found(missing))? {
            Explanation::Container(container) => {
                Json(Catalog::new(&settings.config).explain(&container)).into_response()
            }
            Explanation::Instance(instance) => {
                Json(json::explain_instance(&settings, &instance)).into_response()
            }
        },
    )
}

pub(crate) async fn ping(State(app): SharedApp) -> Answer {
    let report = ask(&app, LoopRequest::Health)
        .await
        .map_err(ApiError::of_health)?;
    // As in the peer: a failing dispatcher is reported with status 200, since the check succeeded.
    let mut body = match report.health {
        Health::Ok => json!({ "health": "OK" }),
        Health::Failing(reason) => json!({ "health": "ERROR", "error": reason }),
    };
    // Extension of the peer's format. Not a failure, since all other types and images still work.
    if !report.boot_backoffs.is_empty() {
        body["boot_backoffs"] = json!(json::boot_backoffs(&report.boot_backoffs));
    }
    Ok(Json(body).into_response())
}

pub(crate) async fn metrics_text(State(app): SharedApp) -> Answer {
    let text = gather(&app).await?.text();
    Ok(typed("text/plain; version=0.0.4; charset=utf-8", text))
}

pub(crate) async fn metrics_json(State(app): SharedApp) -> Answer {
    let families = gather(&app).await?.json();
    Ok(typed("application/json", families))
}

async fn gather(app: &App) -> Result<MetricsSnapshot, ApiError> {
    let totals: AsOf<Totals> = ask(app, LoopRequest::Totals).await?;
    let settings: Arc<ManagementSettings> = app.settings();
    let mut snapshot = app.metrics.gather(&settings, &totals);
    snapshot.add_requests(app.in_flight.count(), app.in_flight.max());
    Ok(snapshot)
}

/// Lists the requests in flight, oldest first.
pub(crate) async fn in_flight(State(app): SharedApp) -> Json<Value> {
    let requests = app.in_flight.list().into_iter().map(|request| {
        json!({
            "method": request.method.as_str(),
            "path": request.path,
            "remote_addr": request.caller.to_string(),
            "elapsed_seconds": request.since.elapsed().as_secs_f64(),
        })
    });
    Json(requests.collect())
}

/// Sends a request to the loop and waits for the reply, at most
/// [`ServeLimits::answer_timeout`](crate::ServeLimits::answer_timeout) in all.
async fn ask<T>(app: &App, request: impl FnOnce(Reply<T>) -> LoopRequest) -> Result<T, ApiError> {
    within_timeout(app, send(app, request)).await
}

async fn send<T>(app: &App, request: impl FnOnce(Reply<T>) -> LoopRequest) -> Result<T, ApiError> {
    let (reply, answer) = oneshot::channel();
    let sent = app.loop_requests.send(request(reply)).await;
    sent.map_err(|_| stopping())?;
    answer.await.map_err(|_| stopping())
}

async fn within_timeout<T>(
    app: &App,
    answer: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    let timeout = app.limits.answer_timeout;
    let answered = tokio::time::timeout(timeout, answer).await;
    answered.unwrap_or_else(|_| {
        Err(ApiError::unavailable(format!(
            "the dispatcher did not answer within {} s: it is overloaded or stuck, see its log",
            timeout.as_secs_f64()
        )))
    })
}

fn stopping() -> ApiError {
    ApiError::unavailable("the dispatcher is stopping")
}

fn typed(content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    let content_type = HeaderValue::from_static(content_type);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    response
}
