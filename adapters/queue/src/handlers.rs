//! Handlers of the routes.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Map, Value, json};
use tokio::sync::OwnedSemaphorePermit;

use crate::app::App;
use crate::clock;
use crate::containers::{self, Action};
use crate::error::ApiError;
use crate::list::Query;
use crate::logs::{self, Output};
use crate::params::Params;
use crate::record::Select;
use crate::request::{Call, ContainerUuid, RawCall};
use crate::stream::{self, Follow};
use crate::token::{Caller, Scope};

/// Log bytes in one response, unless the log is followed.
const LOG_READ_BYTES_MAX: usize = 1 << 20;
/// Maximum length of the reason of a requeue, in bytes.
const REASON_BYTES_MAX: usize = 4096;
/// Fields returned by lock, unlock and requeue without `select`.
const LOCK_FIELDS: &[&str] = &[
    "uuid",
    "state",
    "priority",
    "auth_uuid",
    "locked_by_uuid",
    "lock_count",
    "runtime_status",
];

static NEXT_OFFSET: HeaderName = HeaderName::from_static("x-log-next-offset");
static LOG_END: HeaderName = HeaderName::from_static("x-log-end");

type Answer = Result<Response, ApiError>;

pub(crate) async fn current_token(call: Call) -> Response {
    let caller = call.caller;
    Json(json!({
        "uuid": caller.token_uuid,
        "owner": caller.owner,
        "role": caller.role_name(),
        "scopes": ["all"],
        "created_at": clock::format(caller.created_at),
        "expires_at": null,
    }))
    .into_response()
}

pub(crate) async fn list(State(app): State<Arc<App>>, call: Call) -> Answer {
    let query = Query::parse(
        &call.params,
        &call.caller,
        app.config.max_items_per_response,
    )?;
    let max_bytes = app.config.max_response_bytes;
    let body = app.store.read(move |tx| query.run(tx, max_bytes)).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

pub(crate) async fn create(State(app): State<Arc<App>>, call: Call) -> Answer {
    let select = selected(&call.params, Select::all())?;
    let (attributes, caller, setup) = (attributes(&call.params)?, call.caller, app.setup.clone());
    let record = app
        .store
        .write(move |tx, changes| containers::create(tx, changes, &caller, &attributes, &setup))
        .await?;
    Ok(shown(&record, &select))
}

pub(crate) async fn get(
    State(app): State<Arc<App>>,
    ContainerUuid(uuid): ContainerUuid,
    call: Call,
) -> Answer {
    let select = selected(&call.params, Select::all())?;
    let caller = call.caller;
    let record = app
        .store
        .read(move |tx| containers::get(tx, &caller, &uuid, &select))
        .await?;
    Ok(Json(record).into_response())
}

pub(crate) async fn update(State(app): State<Arc<App>>, uuid: ContainerUuid, call: Call) -> Answer {
    let action = Action::Update(attributes(&call.params)?);
    act(&app, uuid, action, Select::all(), call).await
}

pub(crate) async fn lock(State(app): State<Arc<App>>, uuid: ContainerUuid, call: Call) -> Answer {
    act(&app, uuid, Action::Lock, Select::of(LOCK_FIELDS), call).await
}

pub(crate) async fn unlock(State(app): State<Arc<App>>, uuid: ContainerUuid, call: Call) -> Answer {
    act(&app, uuid, Action::Unlock, Select::of(LOCK_FIELDS), call).await
}

pub(crate) async fn requeue(
    State(app): State<Arc<App>>,
    uuid: ContainerUuid,
    call: Call,
) -> Answer {
    let action = Action::Requeue(reason(&call.params)?);
    act(&app, uuid, action, Select::of(LOCK_FIELDS), call).await
}

pub(crate) async fn cancel(State(app): State<Arc<App>>, uuid: ContainerUuid, call: Call) -> Answer {
    act(&app, uuid, Action::Cancel, Select::all(), call).await
}

async fn act(
    app: &App,
    ContainerUuid(uuid): ContainerUuid,
    action: Action,
    select: Select,
    call: Call,
) -> Answer {
    let select = selected(&call.params, select)?;
    let (caller, setup) = (call.caller, app.setup.clone());
    let record = app
        .store
        .write(move |tx, changes| containers::act(tx, changes, &caller, &uuid, &action, &setup))
        .await?;
    Ok(shown(&record, &select))
}

pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    ContainerUuid(uuid): ContainerUuid,
    call: Call,
) -> Answer {
    let select = selected(&call.params, Select::all())?;
    let caller = call.caller;
    let record = app
        .store
        .write(move |tx, changes| containers::delete(tx, changes, &caller, &uuid))
        .await?;
    Ok(shown(&record, &select))
}

pub(crate) async fn auth(
    State(app): State<Arc<App>>,
    ContainerUuid(uuid): ContainerUuid,
    call: Call,
) -> Answer {
    let caller = call.caller;
    let token = app
        .store
        .write(move |tx, _| containers::auth(tx, &caller, &uuid))
        .await?;
    Ok(Json(token).into_response())
}

pub(crate) async fn append_log(
    State(app): State<Arc<App>>,
    ContainerUuid(uuid): ContainerUuid,
    call: RawCall,
) -> Answer {
    let RawCall {
        caller,
        params,
        body,
    } = call;
    let output = params
        .text("stream")?
        .ok_or_else(|| ApiError::invalid("stream: is required: stdout or stderr"))
        .and_then(Output::parse)?;
    let place = (output, params.count("position")?);
    let max_bytes = app.config.max_log_bytes;
    let result = app
        .store
        .write(move |tx, changes| {
            logs::append(tx, changes, &caller, &uuid, place, &body, max_bytes)
        })
        .await?;
    Ok(Json(result).into_response())
}

pub(crate) async fn read_log(
    State(app): State<Arc<App>>,
    ContainerUuid(uuid): ContainerUuid,
    call: Call,
) -> Answer {
    let params = call.params;
    let range = LogRange {
        output: params.text("stream")?.map(Output::parse).transpose()?,
        offset: params.count("offset")?.unwrap_or(0),
        limit: match params.count("limit")? {
            Some(0) => return Err(ApiError::invalid("limit: expected at least 1 byte")),
            limit => limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
        },
    };
    if params.flag("follow")? {
        return follow_log(&app, uuid, call.caller, range).await;
    }
    let LogRange { output, offset, .. } = range;
    let limit = range.limit.unwrap_or(usize::MAX).min(LOG_READ_BYTES_MAX);
    let caller = call.caller;
    let slice = app
        .store
        .read(move |tx| logs::read(tx, &caller, &uuid, output, offset, limit))
        .await?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (NEXT_OFFSET.clone(), slice.next_offset.to_string()),
        (LOG_END.clone(), slice.is_end.to_string()),
    ];
    Ok((headers, slice.data).into_response())
}

/// Requested part of a log.
struct LogRange {
    output: Option<Output>,
    offset: u64,
    /// Maximum number of bytes; `None` for all.
    limit: Option<usize>,
}

async fn follow_log(app: &App, uuid: String, caller: Caller, range: LogRange) -> Answer {
    let permit = stream_permit(app)?;
    let touched = app.hub.touched();
    // Reports an unknown container now, as a status, instead of later, as a broken body.
    let (checked, id) = (caller.clone(), uuid.clone());
    app.store
        .read(move |tx| containers::load(tx, &checked, &id))
        .await?;
    let follow = Follow {
        store: app.store.clone(),
        touched,
        caller,
        uuid,
        output: range.output,
        offset: range.offset,
        left: range.limit,
        stop: app.stop.clone(),
        _permit: permit,
    };
    let headers = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((headers, follow.into_body()).into_response())
}

pub(crate) async fn events(State(app): State<Arc<App>>, call: Call) -> Answer {
    let caller = &call.caller;
    if matches!(caller.scope, Scope::Container(_)) {
        return Err(ApiError::forbidden(
            "a container's own token may not subscribe to events",
        ));
    }
    let permit = stream_permit(&app)?;
    Ok(stream::events(
        app.hub.records(),
        caller,
        app.stop.clone(),
        permit,
    ))
}

fn stream_permit(app: &App) -> Result<OwnedSemaphorePermit, ApiError> {
    Arc::clone(&app.streams).try_acquire_owned().map_err(|_| {
        ApiError::overloaded("too many event and log streams are open: try again later")
    })
}

fn attributes(params: &Params) -> Result<Map<String, Value>, ApiError> {
    params
        .object("container")?
        .ok_or_else(|| ApiError::invalid("container: is required: an object with the attributes"))
}

/// Reason of a requeue: one sentence for the owner of the container.
fn reason(params: &Params) -> Result<String, ApiError> {
    let reason = params.text("reason")?.unwrap_or_default();
    if reason.is_empty() || reason.len() > REASON_BYTES_MAX {
        return Err(ApiError::invalid(format!(
            "reason: is required: a sentence of at most {REASON_BYTES_MAX} bytes"
        )));
    }
    Ok(reason.to_owned())
}

fn selected(params: &Params, default: Select) -> Result<Select, ApiError> {
    params
        .json("select")?
        .map_or(Ok(default), |value| Select::parse(&value))
}

fn shown(record: &Map<String, Value>, select: &Select) -> Response {
    axum::Json(select.pick(record)).into_response()
}
