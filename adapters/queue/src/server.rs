//! Start and stop of the server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use longshore_http::{ServerError, ServerLimits, TlsSource};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::app::App;
use crate::config::QueueConfig;
use crate::error::QueueError;
use crate::events::Hub;
use crate::route;
use crate::store::Store;
use crate::token::Tokens;

/// Longer than the 90 seconds for which the HTTP clients of dispatcher and command line keep an idle
/// connection: the client closes first, and no request meets a closing server.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// A followed log may be read in a pager, so that the client reads nothing for minutes.
const WRITE_TIMEOUT: Duration = Duration::from_secs(600);
/// Time for the requests in flight after the stop.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// A running queue server. Dropping the value stops the server without waiting;
/// [`QueueServer::shutdown`] waits.
#[derive(Debug)]
pub struct QueueServer {
    local_addr: SocketAddr,
    tokens: Tokens,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), ServerError>>,
}

impl QueueServer {
    /// Opens the database and listens on an address; port 0 takes a free port.
    ///
    /// # Errors
    /// - [`QueueError::Config`] – a setting is out of range.
    /// - [`QueueError::Bind`] – the port is in use or not allowed.
    /// - [`QueueError::Database`], [`QueueError::NewerSchema`], [`QueueError::Foreign`]: the database
    ///   is unusable.
    pub async fn bind(addr: SocketAddr, config: QueueConfig) -> Result<Self, QueueError> {
        config.check()?;
        let listener = TcpListener::bind(addr)
            .await
            .map_err(|source| QueueError::Bind { addr, source })?;
        Self::serve(listener, config).await
    }

    /// As [`Self::bind`], on an existing listener.
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
        let limits = limits(&config);
        let (stop, stopped) = watch::channel(false);
        let app = App::new(config, store, hub, stopped.clone());
        let task = tokio::spawn(longshore_http::serve(
            vec![listener],
            route::router(Arc::new(app)),
            limits,
            TlsSource::plain(),
            wait(stopped),
        ));
        Ok(Self {
            local_addr,
            tokens,
            stop,
            task,
        })
    }

    /// Local address of the listener.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Tokens accepted by the server.
    #[must_use]
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Accepts no new connections, ends open streams, and waits up to ten seconds for the requests
    /// in flight.
    ///
    /// # Errors
    /// [`QueueError::Server`] if connections were still open, or the server had failed before.
    pub async fn shutdown(self) -> Result<(), QueueError> {
        self.stop.send_replace(true);
        match self.task.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(QueueError::Server(error.to_string())),
            Err(error) => Err(QueueError::Server(error.to_string())),
        }
    }
}

fn limits(config: &QueueConfig) -> ServerLimits {
    ServerLimits {
        connections: config.max_connections,
        idle_timeout: IDLE_TIMEOUT,
        write_timeout: WRITE_TIMEOUT,
        shutdown_grace: SHUTDOWN_GRACE,
    }
}

async fn wait(mut stopped: watch::Receiver<bool>) {
    // An error means a dropped sender: stop as well.
    let _ = stopped.wait_for(|is_stopped| *is_stopped).await;
}
