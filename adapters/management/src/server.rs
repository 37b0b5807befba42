//! The server: takes requests in, and answers or refuses them.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};

use crate::auth;
use crate::connection::{Bounded, Caller};
use crate::error::{ApiError, ServeError};
use crate::handlers::{self, Cache};
use crate::metrics::Metrics;
use crate::params::Params;
use crate::question::Question;
use crate::requests::Requests;
use crate::route::Route;
use crate::settings::{ManagementSettings, ServeLimits};

/// A server that listens and does not answer yet.
#[derive(Debug)]
pub struct Server {
    listeners: Vec<TcpListener>,
    addrs: Vec<SocketAddr>,
}

/// What the server works with.
#[derive(Debug)]
pub struct Management {
    /// Settings; a new value holds from the next request on.
    pub settings: watch::Receiver<Arc<ManagementSettings>>,
    /// To the loop that owns the dispatcher; see [`questions`](crate::questions).
    pub questions: mpsc::Sender<Question>,
    /// Fed by the same loop.
    pub metrics: Arc<Metrics>,
    /// How much is taken on.
    pub limits: ServeLimits,
}

impl Server {
    /// Listens on every one of the addresses; port 0 takes a free one.
    ///
    /// # Errors
    /// [`ServeError::NoAddress`], [`ServeError::InUse`] or [`ServeError::Bind`]; then nothing is
    /// listened on.
    pub async fn bind(addrs: &[SocketAddr]) -> Result<Self, ServeError> {
        let mut server = Self {
            listeners: Vec::new(),
            addrs: Vec::new(),
        };
        for addr in addrs.iter().copied() {
            let failed = |source: std::io::Error| match source.kind() {
                ErrorKind::AddrInUse => ServeError::InUse { addr },
                _ => ServeError::Bind { addr, source },
            };
            let listener = TcpListener::bind(addr).await.map_err(failed)?;
            server.addrs.push(listener.local_addr().map_err(failed)?);
            server.listeners.push(listener);
        }
        if server.listeners.is_empty() {
            return Err(ServeError::NoAddress);
        }
        Ok(server)
    }

    /// Where it listens, in the order of the addresses asked for; never empty.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Answers until `stop` is ready, then takes no new connections and waits for the requests
    /// being worked on, as long as [`ServeLimits::shutdown_grace`] says. Dropping the future closes
    /// the addresses without waiting.
    ///
    /// # Errors
    /// [`ServeError::Unfinished`] or [`ServeError::Broken`].
    pub async fn serve(
        self,
        management: Management,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<(), ServeError> {
        let (stopping, stopped) = watch::channel(false);
        let app = Arc::new(App::new(management));
        let mut tasks = JoinSet::new();
        for listener in self.listeners {
            let limits = &app.limits;
            let settings = app.settings.clone();
            let (most, idle) = (limits.connections, limits.idle_timeout);
            let listener = Bounded::new(listener, most, idle, settings);
            let router = Router::new().fallback(handle).with_state(Arc::clone(&app));
            let service = router.into_make_service_with_connect_info::<Caller>();
            let mut stopped = stopped.clone();
            let serving = axum::serve(listener, service).with_graceful_shutdown(async move {
                // An error means that the sender was dropped: stop as well.
                let _ = stopped.wait_for(|stopping| *stopping).await;
            });
            tasks.spawn(serving.into_future());
        }
        tokio::select! {
            () = stop => {}
            Some(ended) = tasks.join_next() => return Err(broken(ended)),
        }
        stopping.send_replace(true);
        let grace = app.limits.shutdown_grace;
        let finish = async {
            while let Some(ended) = tasks.join_next().await {
                if !matches!(ended, Ok(Ok(()))) {
                    return Err(broken(ended));
                }
            }
            Ok(())
        };
        match tokio::time::timeout(grace, finish).await {
            Ok(finished) => finished,
            Err(_) => match app.requests.count() {
                // Only connections without a request were left: nobody misses an answer.
                0 => Ok(()),
                requests => Err(ServeError::Unfinished { requests, grace }),
            },
        }
    }
}

fn broken(ended: Result<std::io::Result<()>, JoinError>) -> ServeError {
    ServeError::Broken(match ended {
        Ok(Ok(())) => "it ended without being told to".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    })
}

/// What every request is worked on with.
#[derive(Debug)]
pub(crate) struct App {
    settings: watch::Receiver<Arc<ManagementSettings>>,
    pub(crate) questions: mpsc::Sender<Question>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) limits: ServeLimits,
    pub(crate) requests: Arc<Requests>,
    pub(crate) containers: Cache,
}

impl App {
    fn new(management: Management) -> Self {
        Self {
            requests: Arc::new(Requests::new(management.limits.requests)),
            settings: management.settings,
            questions: management.questions,
            metrics: management.metrics,
            limits: management.limits,
            containers: Cache::default(),
        }
    }

    pub(crate) fn settings(&self) -> Arc<ManagementSettings> {
        Arc::clone(&self.settings.borrow())
    }
}

async fn handle(
    State(app): State<Arc<App>>,
    ConnectInfo(Caller(caller)): ConnectInfo<Caller>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let Some(place) = app.requests.enter(&parts.method, &parts.uri, caller) else {
        let busy = "too many requests are being worked on: try again in a second";
        return ApiError::unavailable(busy).into_response();
    };
    let response = match answer(&app, &parts, body).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    };
    let status = response.status();
    let took = place.since.elapsed();
    app.metrics.request_ended(&parts.method, status, took);
    tracing::debug!(
        method = %parts.method,
        path = parts.uri.path(),
        status = status.as_u16(),
        took_ms = took.as_secs_f64() * 1e3,
        "management request"
    );
    response
}

async fn answer(app: &Arc<App>, parts: &Parts, body: Body) -> Result<Response, ApiError> {
    let settings = app.settings();
    let route = Route::find(parts.uri.path());
    auth::check(&settings.management_token, &parts.headers, route)?;
    let route = route.ok_or_else(|| ApiError::not_found("there is nothing at this path"))?;
    if !route.takes(&parts.method) {
        return Ok(wrong_method(route));
    }
    let body = match route.method() {
        Method::POST => read(app, body).await?,
        _ => Bytes::new(),
    };
    let query = parts.uri.query().unwrap_or_default();
    let params = Params::read(query, &parts.headers, &body);
    handlers::answer(app, settings, route, &params).await
}

fn wrong_method(route: Route) -> Response {
    let allow = route.allow();
    let message = format!("wrong method: expected {allow}");
    let mut response = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message).into_response();
    let headers = response.headers_mut();
    headers.insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

async fn read(app: &App, body: Body) -> Result<Bytes, ApiError> {
    let (max, patience) = (app.limits.body_bytes, app.limits.body_timeout);
    match tokio::time::timeout(patience, axum::body::to_bytes(body, max)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        // Either it is too long, or the connection broke: then nobody reads the answer.
        Ok(Err(_)) => Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is too long: expected at most {max} bytes"),
        )),
        Err(_) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not come within {} s", patience.as_secs_f64()),
        )),
    }
}
