//! Accept loop and connections of an HTTP/1 server, bounded in number and time.

use std::fmt;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tower::ServiceExt as _;

use crate::tls::ServerTls;
use crate::write_timeout::WriteTimeout;

/// Bounds of the connections of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerLimits {
    /// Open connections on each address; further connections wait in the backlog of the system.
    pub connections: usize,
    /// Time for a TLS handshake, and from the end of a response to the last header of the next
    /// request; then the connection is closed.
    pub idle_timeout: Duration,
    /// Time of a write without progress; then the connection is closed. A response is not bounded
    /// as a whole: streams may stay open.
    pub write_timeout: Duration,
    /// Time between the stop and the end of all requests; then the connections are closed.
    pub shutdown_grace: Duration,
}

/// Certificate for each new connection; `None` for plain HTTP.
#[derive(Clone)]
pub struct TlsSource(Arc<dyn Fn() -> Option<ServerTls> + Send + Sync>);

impl TlsSource {
    /// Plain HTTP on all connections.
    #[must_use]
    pub fn plain() -> Self {
        Self::new(|| None)
    }

    /// Calls `current` once for each accepted connection, so that a new certificate takes effect
    /// from the next connection on.
    #[must_use]
    pub fn new(current: impl Fn() -> Option<ServerTls> + Send + Sync + 'static) -> Self {
        Self(Arc::new(current))
    }
}

impl fmt::Debug for TlsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsSource")
    }
}

/// Reasons for the unclean end of a server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Connections were still open after [`ServerLimits::shutdown_grace`], and were closed.
    #[error("connections were still open {} s after the stop", .0.as_secs_f64())]
    GraceExpired(Duration),
    /// An accept loop panicked: a bug, please report it with the log.
    #[error("{0}")]
    Panicked(JoinError),
}

/// Serves `router` on all `listeners` until `stop` is ready, then accepts no more connections and
/// waits for the requests in flight.
///
/// Each request has the extension [`ConnectInfo`] with the remote address. Dropping the future closes
/// listeners and connections without waiting.
///
/// # Errors
/// See [`ServerError`].
pub async fn serve(
    listeners: Vec<TcpListener>,
    router: Router,
    limits: ServerLimits,
    tls: TlsSource,
    stop: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    let (stop_sender, stopped) = watch::channel(false);
    let mut accept_loops = JoinSet::new();
    for listener in listeners {
        let connections = Connections {
            router: router.clone(),
            limits,
            stopped: stopped.clone(),
        };
        accept_loops.spawn(accept(listener, connections, tls.clone()));
    }
    tokio::select! {
        () = stop => {}
        Some(Err(panic)) = accept_loops.join_next() => return Err(ServerError::Panicked(panic)),
    }
    stop_sender.send_replace(true);
    let finish = async {
        while let Some(ended) = accept_loops.join_next().await {
            ended.map_err(ServerError::Panicked)?;
        }
        Ok(())
    };
    tokio::time::timeout(limits.shutdown_grace, finish)
        .await
        .unwrap_or(Err(ServerError::GraceExpired(limits.shutdown_grace)))
}

/// Accepts connections until the stop, then waits for the open connections.
async fn accept(mut listener: TcpListener, connections: Connections, tls: TlsSource) {
    let permits = Arc::new(Semaphore::new(connections.limits.connections));
    let mut stopped = connections.stopped.clone();
    let mut tasks = JoinSet::new();
    loop {
        let (permit, stream, caller) = tokio::select! {
            accepted = accept_one(&mut listener, &permits) => accepted,
            // Reaps ended connections, to keep the set small.
            Some(_) = tasks.join_next() => continue,
            () = wait(&mut stopped) => break,
        };
        let (connections, tls) = (connections.clone(), (tls.0)());
        tasks.spawn(async move {
            connections.serve(stream, caller, tls).await;
            drop(permit);
        });
    }
    drop(listener);
    while tasks.join_next().await.is_some() {}
}

/// Waits for a free connection slot, then for a connection. Cancel-safe.
async fn accept_one(
    listener: &mut TcpListener,
    permits: &Arc<Semaphore>,
) -> (Option<OwnedSemaphorePermit>, TcpStream, SocketAddr) {
    // `None` only for a closed semaphore, and no code closes `permits`.
    let permit = Arc::clone(permits).acquire_owned().await.ok();
    // The listener of axum retries after errors, such as running out of file descriptors.
    let (stream, caller) = axum::serve::Listener::accept(listener).await;
    (permit, stream, caller)
}

async fn wait(stopped: &mut watch::Receiver<bool>) {
    // An error means a dropped sender: stop as well.
    let _ = stopped.wait_for(|is_stopped| *is_stopped).await;
}

/// Everything needed to serve one connection.
#[derive(Clone)]
struct Connections {
    router: Router,
    limits: ServerLimits,
    stopped: watch::Receiver<bool>,
}

impl Connections {
    async fn serve(mut self, stream: TcpStream, caller: SocketAddr, tls: Option<ServerTls>) {
        // An event is one small write, and must not wait for the acknowledgement of the last event.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%caller, %error, "cannot set TCP_NODELAY");
        }
        let stream = WriteTimeout::new(stream, self.limits.write_timeout);
        let Some(tls) = tls else {
            return self.serve_http(stream, caller).await;
        };
        let handshake = tls.acceptor().accept(stream);
        let handshake = tokio::time::timeout(self.limits.idle_timeout, handshake);
        let accepted = tokio::select! {
            accepted = handshake => accepted,
            () = wait(&mut self.stopped) => return,
        };
        match accepted {
            Ok(Ok(stream)) => self.serve_http(stream, caller).await,
            Ok(Err(error)) => tracing::debug!(%caller, %error, "TLS handshake failed"),
            Err(_) => tracing::debug!(%caller, "TLS handshake timed out"),
        }
    }

    async fn serve_http<S>(&mut self, stream: S, caller: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let router = self.router.clone();
        let service = router.map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(caller));
            request.map(Body::new)
        });
        // hyper starts the header timeout at the end of the last response: the timeout bounds idle
        // connections too.
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(self.limits.idle_timeout)
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        );
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = wait(&mut self.stopped) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%caller, %error, "HTTP connection failed");
        }
    }
}
