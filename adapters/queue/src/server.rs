//! The server: takes requests in, finds out who calls and what for, and answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use longshore_secret::Secret;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;

use crate::config::QueueConfig;
use crate::containers::{self, Action, Setup};
use crate::error::{ApiError, QueueError};
use crate::events::Hub;
use crate::list::Query;
use crate::listener::Bounded;
use crate::logs::{self, Output};
use crate::params::Params;
use crate::record::Select;
use crate::route::{self, Route};
use crate::store::Store;
use crate::stream::{self, Follow};
use crate::token::{self, Caller, Scope, Tokens};
use crate::{clock, ids};

/// A body that trickles in for longer is given up.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a stopping server waits for requests in work.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);
/// Log bytes in one answer, unless it follows.
const LOG_READ_BYTES_MAX: usize = 1 << 20;
/// Bytes of the reason of a requeue.
const REASON_BYTES_MAX: usize = 4096;
/// What lock, unlock and requeue answer without `select`.
const LOCK_FIELDS: &[&str] = &[
    "uuid",
    "state",
    "priority",
    "auth_uuid",
    "locked_by_uuid",
    "lock_count",
    "runtime_status",
];

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static METHOD_OVERRIDE: HeaderName = HeaderName::from_static("x-http-method-override");
static NEXT_OFFSET: HeaderName = HeaderName::from_static("x-log-next-offset");
static LOG_END: HeaderName = HeaderName::from_static("x-log-end");

/// A running queue server. Dropping it stops it without waiting; [`QueueServer::shutdown`] waits.
#[derive(Debug)]
pub struct QueueServer {
    local_addr: SocketAddr,
    tokens: Tokens,
    stop: watch::Sender<bool>,
    task: JoinHandle<std::io::Result<()>>,
}

impl QueueServer {
    /// Opens the database and listens on an address; port 0 takes a free one.
    ///
    /// # Errors
    /// - [`QueueError::Config`]: a setting is out of range.
    /// - [`QueueError::Bind`]: the port is in use or not allowed.
    /// - [`QueueError::Database`], [`QueueError::NewerSchema`], [`QueueError::Foreign`]: the database
    ///   cannot be used.
    pub async fn bind(addr: SocketAddr, config: QueueConfig) -> Result<Self, QueueError> {
        config.check()?;
        let listener = TcpListener::bind(addr)
            .await
            .map_err(|source| QueueError::Bind { addr, source })?;
        Self::serve(listener, config).await
    }

    /// As [`Self::bind`], on a listener that somebody else made.
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub async fn serve(listener: TcpListener, config: QueueConfig) -> Result<Self, QueueError> {
        config.check()?;
        let local_addr = listener
            .local_addr()
            .map_err(|e| QueueError::Server(format!("the listener has no address: {e}")))?;
        let hub = Arc::new(Hub::new(config.event_buffer));
        let (opening, opening_hub) = (config.clone(), Arc::clone(&hub));
        let store = tokio::task::spawn_blocking(move || Store::open(&opening, opening_hub))
            .await
            .map_err(|e| QueueError::Server(format!("opening the database: {e}")))??;
        let tokens = Tokens::new(store.clone(), &config.cluster_id);
        let max_connections = config.max_connections;
        let (stop, stopping) = watch::channel(false);
        let app = Arc::new(App {
            setup: Setup {
                cluster_id: config.cluster_id.clone(),
                max_dispatch_attempts: config.max_dispatch_attempts,
            },
            in_flight: Arc::new(Semaphore::new(config.max_requests_in_flight)),
            streams: Arc::new(Semaphore::new(config.max_streams)),
            stop: stopping.clone(),
            config,
            store,
            hub,
        });
        let router = Router::new().fallback(handle).with_state(app);
        let listener = Bounded::new(listener, max_connections);
        let mut stopped = stopping;
        let task = tokio::spawn(async move {
            axum::serve(listener, router)
                .with_graceful_shutdown(async move {
                    // An error means that the sender was dropped: stop as well.
                    let _ = stopped.wait_for(|is_stopping| *is_stopping).await;
                })
                .await
        });
        Ok(Self {
            local_addr,
            tokens,
            stop,
            task,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Who may call.
    #[must_use]
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Takes no new connections, ends open streams, and waits up to ten seconds for the requests in
    /// work.
    ///
    /// # Errors
    /// [`QueueError::Server`] if requests were still in work, or the server had failed before.
    pub async fn shutdown(mut self) -> Result<(), QueueError> {
        self.stop.send_replace(true);
        match tokio::time::timeout(SHUTDOWN_GRACE, &mut self.task).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(QueueError::Server(error.to_string())),
            Ok(Err(error)) => Err(QueueError::Server(error.to_string())),
            Err(_) => {
                self.task.abort();
                Err(QueueError::Server(format!(
                    "requests were still in work {} s after the stop",
                    SHUTDOWN_GRACE.as_secs()
                )))
            }
        }
    }
}

struct App {
    config: QueueConfig,
    setup: Setup,
    store: Store,
    hub: Arc<Hub>,
    in_flight: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    stop: stream::Stop,
}

/// A request whose caller is known and whose body is read.
struct Call {
    caller: Caller,
    params: Params,
    /// The raw body, for a log append only.
    body: Bytes,
}

async fn handle(State(app): State<Arc<App>>, request: Request) -> Response {
    let request_id = match request_id(request.headers()) {
        Ok(id) => id,
        Err(error) => return error.into_response("req-unknown"),
    };
    let mut response = match answer(&app, request).await {
        Ok(response) => response,
        Err(error) => error.into_response(&request_id),
    };
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID.clone(), value);
    }
    response
}

/// The caller's request id, if it is one that may go into a log line, or a new one.
fn request_id(headers: &HeaderMap) -> Result<String, ApiError> {
    let given = headers
        .get(&REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| {
            (1..=64).contains(&id.len())
                && id
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        });
    given.map_or_else(ids::request_id, |id| Ok(id.to_owned()))
}

async fn answer(app: &Arc<App>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let method = effective_method(&parts.method, &parts.headers)?;
    let route = route::find(&method, parts.uri.path());
    let is_lock = matches!(route, Ok(Route::Lock(_)));
    let _permit = enter(app, is_lock)?;
    let caller = authenticate(app, &parts.headers).await?;
    let route = route?;
    let body = read_body(body, app.config.max_body_bytes).await?;
    let mut params = Params::from_query(parts.uri.query().unwrap_or_default());
    if !matches!(route, Route::AppendLog(_)) {
        let content_type = parts
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|v| v.to_str().ok());
        params.add_body(content_type, &body)?;
    }
    perform(
        app,
        route,
        Call {
            caller,
            params,
            body,
        },
    )
    .await
}

/// POST with `X-Http-Method-Override` stands for another method: a GET whose parameters are too
/// long for a URL.
fn effective_method(method: &Method, headers: &HeaderMap) -> Result<Method, ApiError> {
    match headers.get(&METHOD_OVERRIDE) {
        Some(value) if *method == Method::POST => match value.as_bytes() {
            b"GET" => Ok(Method::GET),
            b"PUT" => Ok(Method::PUT),
            b"PATCH" => Ok(Method::PATCH),
            b"DELETE" => Ok(Method::DELETE),
            _ => Err(ApiError::malformed(
                "X-Http-Method-Override: expected GET, PUT, PATCH or DELETE",
            )),
        },
        _ => Ok(method.clone()),
    }
}

/// A place among the requests in work. New locks are refused first: under load, finishing what runs
/// counts for more than starting something.
fn enter(app: &App, is_lock: bool) -> Result<OwnedSemaphorePermit, ApiError> {
    let too_busy = || ApiError::overloaded("too many requests are in work: try again in a second");
    if is_lock && app.in_flight.available_permits() <= app.config.max_requests_in_flight / 2 {
        return Err(too_busy());
    }
    Arc::clone(&app.in_flight)
        .try_acquire_owned()
        .map_err(|_| too_busy())
}

async fn authenticate(app: &App, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let value = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let token = value
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| {
            scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("oauth2")
        })
        .map(|(_, token)| Secret::new(token.trim()))
        .ok_or_else(ApiError::unauthorized)?;
    app.store
        .read(move |tx| token::authenticate(tx, &token))
        .await
}

/// The whole body. One that is too large is read on for a while without being kept, since a caller
/// who is cut off while sending may never see the answer.
async fn read_body(body: Body, max_bytes: usize) -> Result<Bytes, ApiError> {
    let collect = async {
        let mut pieces = body.into_data_stream();
        let mut whole = BytesMut::new();
        let mut seen = 0_usize;
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|e| ApiError::malformed(format!("request body: {e}")))?;
            seen = seen.saturating_add(piece.len());
            if seen <= max_bytes {
                whole.extend_from_slice(&piece);
            } else if seen > max_bytes.saturating_mul(4) {
                break;
            }
        }
        if seen > max_bytes {
            Err(ApiError::too_large(max_bytes))
        } else {
            Ok(whole.freeze())
        }
    };
    tokio::time::timeout(BODY_TIMEOUT, collect)
        .await
        .unwrap_or_else(|_| {
            Err(ApiError::request_timeout(format!(
                "request body: expected within {} seconds",
                BODY_TIMEOUT.as_secs()
            )))
        })
}

async fn perform(app: &Arc<App>, route: Route, call: Call) -> Result<Response, ApiError> {
    match route {
        Route::CurrentToken => Ok(axum::Json(current_token(&call.caller)).into_response()),
        Route::List => list(app, call).await,
        Route::Create => create(app, call).await,
        Route::Events => events(app, &call.caller),
        Route::Get(uuid) => get(app, uuid, call).await,
        Route::Update(uuid) => {
            let wish = attributes(&call.params)?;
            act(app, uuid, Action::Update(wish), Select::all(), call).await
        }
        Route::Delete(uuid) => delete(app, uuid, call).await,
        Route::Auth(uuid) => {
            let caller = call.caller;
            let token = app
                .store
                .write(move |tx, _| containers::auth(tx, &caller, &uuid))
                .await?;
            Ok(axum::Json(token).into_response())
        }
        Route::Lock(uuid) => act(app, uuid, Action::Lock, Select::of(LOCK_FIELDS), call).await,
        Route::Unlock(uuid) => act(app, uuid, Action::Unlock, Select::of(LOCK_FIELDS), call).await,
        Route::Requeue(uuid) => {
            let why = reason(&call.params)?;
            act(
                app,
                uuid,
                Action::Requeue(why),
                Select::of(LOCK_FIELDS),
                call,
            )
            .await
        }
        Route::Cancel(uuid) => act(app, uuid, Action::Cancel, Select::all(), call).await,
        Route::AppendLog(uuid) => append_log(app, uuid, call).await,
        Route::ReadLog(uuid) => read_log(app, uuid, call).await,
    }
}

fn current_token(caller: &Caller) -> Value {
    json!({
        "uuid": caller.token_uuid,
        "owner": caller.owner,
        "role": caller.role_name(),
        "scopes": ["all"],
        "created_at": clock::format(caller.created_at),
        "expires_at": null,
    })
}

async fn list(app: &App, call: Call) -> Result<Response, ApiError> {
    let query = Query::parse(
        &call.params,
        &call.caller,
        app.config.max_items_per_response,
    )?;
    let max_bytes = app.config.max_response_bytes;
    let body = app.store.read(move |tx| query.run(tx, max_bytes)).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

async fn create(app: &App, call: Call) -> Result<Response, ApiError> {
    let select = selected(&call.params, Select::all())?;
    let (wish, caller, setup) = (attributes(&call.params)?, call.caller, app.setup.clone());
    let record = app
        .store
        .write(move |tx, changes| containers::create(tx, changes, &caller, &wish, &setup))
        .await?;
    Ok(shown(&record, &select))
}

async fn get(app: &App, uuid: String, call: Call) -> Result<Response, ApiError> {
    let select = selected(&call.params, Select::all())?;
    let caller = call.caller;
    let record = app
        .store
        .read(move |tx| containers::get(tx, &caller, &uuid, &select))
        .await?;
    Ok(axum::Json(record).into_response())
}

async fn act(
    app: &App,
    uuid: String,
    action: Action,
    select: Select,
    call: Call,
) -> Result<Response, ApiError> {
    let select = selected(&call.params, select)?;
    let (caller, setup) = (call.caller, app.setup.clone());
    let record = app
        .store
        .write(move |tx, changes| containers::act(tx, changes, &caller, &uuid, &action, &setup))
        .await?;
    Ok(shown(&record, &select))
}

async fn delete(app: &App, uuid: String, call: Call) -> Result<Response, ApiError> {
    let select = selected(&call.params, Select::all())?;
    let caller = call.caller;
    let record = app
        .store
        .write(move |tx, changes| containers::delete(tx, changes, &caller, &uuid))
        .await?;
    Ok(shown(&record, &select))
}

async fn append_log(app: &App, uuid: String, call: Call) -> Result<Response, ApiError> {
    let Call {
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
    Ok(axum::Json(result).into_response())
}

async fn read_log(app: &Arc<App>, uuid: String, call: Call) -> Result<Response, ApiError> {
    let Call { caller, params, .. } = call;
    let output = params.text("stream")?.map(Output::parse).transpose()?;
    let offset = params.count("offset")?.unwrap_or(0);
    let limit = match params.count("limit")? {
        Some(0) => return Err(ApiError::invalid("limit: expected at least 1 byte")),
        limit => limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
    };
    if params.flag("follow")? {
        let permit = stream_permit(app)?;
        let touched = app.hub.touched();
        // Says "not found" now, as a status, and not later, as a broken body.
        let (checked, id) = (caller.clone(), uuid.clone());
        app.store
            .read(move |tx| containers::load(tx, &checked, &id))
            .await?;
        let (store, stop) = (app.store.clone(), app.stop.clone());
        let follow = Follow {
            store,
            touched,
            caller,
            uuid,
            output,
            offset,
            left: limit,
            stop,
            _permit: permit,
        };
        return Ok((
            [(header::CONTENT_TYPE, "application/octet-stream")],
            follow.into_body(),
        )
            .into_response());
    }
    let limit = limit.unwrap_or(LOG_READ_BYTES_MAX).min(LOG_READ_BYTES_MAX);
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

fn events(app: &App, caller: &Caller) -> Result<Response, ApiError> {
    if matches!(caller.scope, Scope::Container(_)) {
        return Err(ApiError::forbidden(
            "a container's own token may not subscribe to events",
        ));
    }
    Ok(stream::events(
        app.hub.records(),
        caller,
        app.stop.clone(),
        stream_permit(app)?,
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

/// Why a container goes back into the line: one sentence for its owner.
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
