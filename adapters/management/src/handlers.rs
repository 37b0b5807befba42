//! Asks the loop what a request wants to know, and shapes its answer.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use longshore_core::input::{IdleBehavior, OperatorRequest};
use longshore_core::view::{ContainerView, Totals};
use serde_json::json;
use tokio::sync::{Mutex, MutexGuard, oneshot};
use tokio::time::Instant;

use crate::error::ApiError;
use crate::json::{self, Catalog};
use crate::metrics::Gathered;
use crate::params::Params;
use crate::question::{Dated, Explanation, Health, Outcome, Question, Reply};
use crate::route::Route;
use crate::server::App;
use crate::settings::ManagementSettings;

/// The last list of containers, as it was sent, so that many watchers cost as much as one.
#[derive(Debug, Default)]
pub(crate) struct Cache(Mutex<Option<(Instant, Bytes)>>);

pub(crate) async fn answer(
    app: &App,
    settings: Arc<ManagementSettings>,
    route: Route,
    params: &Params,
) -> Result<Response, ApiError> {
    let behave = async |behavior| {
        let instance = params.instance()?;
        let wish = OperatorRequest::SetIdleBehavior { instance, behavior };
        operate(app, wish, "requested instance does not exist").await
    };
    match route {
        Route::Containers => containers(app, settings).await,
        Route::Container => container(app, &settings, params).await,
        Route::KillContainer => {
            let (container, reason) = (params.container()?, params.reason()?);
            let wish = OperatorRequest::KillContainer { container, reason };
            operate(app, wish, "container is not on any worker").await
        }
        Route::Instances => instances(app, &settings).await,
        Route::Hold => behave(IdleBehavior::Hold).await,
        Route::Drain => behave(IdleBehavior::Drain).await,
        Route::Run => behave(IdleBehavior::Run).await,
        Route::KillInstance => {
            let (instance, reason) = (params.instance()?, params.reason()?);
            let wish = OperatorRequest::KillInstance { instance, reason };
            operate(app, wish, "instance not found").await
        }
        Route::Explain => explain(app, &settings, params).await,
        Route::Ping => ping(app).await,
        Route::Metrics => {
            let text = gather(app, &settings).await?.text();
            Ok(typed("text/plain; version=0.0.4; charset=utf-8", text))
        }
        Route::MetricsJson => {
            let families = gather(app, &settings).await?.json();
            Ok(typed("application/json", families))
        }
        Route::Requests => Ok(Json(app.requests.list()).into_response()),
    }
}

/// Puts a question to the loop and waits for the answer, for a bounded time in all.
async fn ask<T>(app: &App, question: impl FnOnce(Reply<T>) -> Question) -> Result<T, ApiError> {
    within(app, send(app, question)).await
}

async fn send<T>(app: &App, question: impl FnOnce(Reply<T>) -> Question) -> Result<T, ApiError> {
    let (reply, answer) = oneshot::channel();
    let sent = app.questions.send(question(reply)).await;
    sent.map_err(|_| stopping())?;
    answer.await.map_err(|_| stopping())
}

async fn within<T>(
    app: &App,
    answer: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    let patience = app.limits.answer_timeout;
    let answered = tokio::time::timeout(patience, answer).await;
    answered.unwrap_or_else(|_| {
        Err(ApiError::unavailable(format!(
            "the dispatcher did not answer within {} s: it is overloaded or stuck, see its log",
            patience.as_secs_f64()
        )))
    })
}

fn stopping() -> ApiError {
    ApiError::unavailable("the dispatcher is stopping")
}

async fn containers(app: &App, settings: Arc<ManagementSettings>) -> Result<Response, ApiError> {
    let age_max = app.limits.containers_age_max;
    // Whoever comes while the list is being made waits for it, no longer than for any answer.
    let looked = within(app, async {
        let cached = app.containers.0.lock().await;
        if let Some((since, bytes)) = cached.as_ref()
            && since.elapsed() < age_max
        {
            return Ok(Looked::Fresh(bytes.clone()));
        }
        // What is kept must not seem newer than it is.
        let since = Instant::now();
        let views = send(app, Question::Containers).await?;
        Ok(Looked::Anew(cached, since, views))
    });
    let (mut cached, since, views) = match looked.await? {
        Looked::Fresh(bytes) => return Ok(typed("application/json", bytes)),
        Looked::Anew(cached, since, views) => (cached, since, views),
    };
    // A long list takes too long for a task that must not block.
    let rendered = tokio::task::spawn_blocking(move || {
        let catalog = Catalog::new(&settings.config);
        let items = views.as_deref().map(|views| catalog.containers(views));
        Bytes::from(json::items(items))
    });
    let bytes = rendered.await.map_err(|_| stopping())?;
    *cached = Some((since, bytes.clone()));
    Ok(typed("application/json", bytes))
}

enum Looked<'a> {
    Fresh(Bytes),
    Anew(
        MutexGuard<'a, Option<(Instant, Bytes)>>,
        Instant,
        Option<Vec<ContainerView>>,
    ),
}

async fn container(
    app: &App,
    settings: &ManagementSettings,
    params: &Params,
) -> Result<Response, ApiError> {
    let id = params.container()?;
    let found = ask(app, |reply| Question::Container(id, reply)).await?;
    let view = found.ok_or_else(|| ApiError::not_found("container not found"))?;
    Ok(Json(Catalog::new(&settings.config).container(&view)).into_response())
}

async fn instances(app: &App, settings: &ManagementSettings) -> Result<Response, ApiError> {
    let Dated { at, value } = ask(app, Question::Instances).await?;
    Ok(Json(json::instances(&settings.config, at, &value)).into_response())
}

async fn explain(
    app: &App,
    settings: &ManagementSettings,
    params: &Params,
) -> Result<Response, ApiError> {
    let name = params.subject()?;
    let missing = format!("neither a container nor an instance of this name is known: {name}");
    let told = ask(app, |reply| Question::Explain(name, reply)).await?;
    Ok(match told.ok_or_else(|| ApiError::not_found(missing))? {
        Explanation::Container(told) => {
            Json(Catalog::new(&settings.config).explain(&told)).into_response()
        }
        Explanation::Instance(told) => {
            Json(json::explain_instance(settings, &told)).into_response()
        }
    })
}

async fn operate(app: &App, wish: OperatorRequest, missing: &str) -> Result<Response, ApiError> {
    match ask(app, |reply| Question::Operate(wish, reply)).await? {
        Outcome::Accepted => Ok(StatusCode::OK.into_response()),
        Outcome::Missing => Err(ApiError::not_found(missing)),
        Outcome::NotReady => Err(ApiError::unavailable(
            "this dispatcher does not know all instances yet, or another one is in charge: try again in a minute",
        )),
    }
}

async fn ping(app: &App) -> Result<Response, ApiError> {
    let condition = ask(app, Question::Ready)
        .await
        .map_err(ApiError::of_health)?;
    // As the peer has it: where something is wrong, the check itself went well.
    let mut told = match condition.health {
        Health::Ok => json!({ "health": "OK" }),
        Health::Failing(why) => json!({ "health": "ERROR", "error": why }),
    };
    // Ours: no failure, since everything else goes on. Left out where there is nothing to say.
    if !condition.boot_backoffs.is_empty() {
        told["boot_backoffs"] = json!(json::boot_backoffs(&condition.boot_backoffs));
    }
    Ok(Json(told).into_response())
}

async fn gather(app: &App, settings: &ManagementSettings) -> Result<Gathered, ApiError> {
    let totals: Dated<Totals> = ask(app, Question::Totals).await?;
    let mut gathered = app.metrics.gather(settings, &totals);
    gathered.add_requests(app.requests.count(), app.requests.max());
    Ok(gathered)
}

fn typed(content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    let content_type = HeaderValue::from_static(content_type);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    response
}
