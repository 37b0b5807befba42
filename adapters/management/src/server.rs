//! Start and stop of the server.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

use longshore_http::{ServerError, TlsSource};
use tokio::net::TcpListener;

use crate::app::{App, Management};
use crate::error::ServeError;
use crate::route;

/// A server bound to its addresses, not serving yet.
#[derive(Debug)]
pub struct Server {
    listeners: Vec<TcpListener>,
    addrs: Vec<SocketAddr>,
}

impl Server {
    /// Listens on all of the addresses; port 0 takes a free port.
    ///
    /// # Errors
    /// [`ServeError::NoAddress`], [`ServeError::InUse`] or [`ServeError::Bind`]; then no address is
    /// left bound.
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

    /// Local addresses, in the order given to [`Self::bind`]; never empty.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Serves until `stop` is ready, then accepts no new connections and waits for the requests in
    /// flight, at most [`ServeLimits::shutdown_grace`](crate::ServeLimits::shutdown_grace). Dropping
    /// the future closes the addresses without waiting.
    ///
    /// # Errors
    /// [`ServeError::Unfinished`] or [`ServeError::Broken`].
    pub async fn serve(
        self,
        management: Management,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<(), ServeError> {
        let app = Arc::new(App::new(management));
        let settings = app.settings.clone();
        let served = longshore_http::serve(
            self.listeners,
            route::router(Arc::clone(&app)),
            app.limits.server(),
            TlsSource::new(move || settings.borrow().tls.clone()),
            stop,
        );
        match served.await {
            Ok(()) => Ok(()),
            Err(ServerError::GraceExpired(grace)) => match app.in_flight.count() {
                // Only connections without a request were open: no response is missing.
                0 => Ok(()),
                requests => Err(ServeError::Unfinished { requests, grace }),
            },
            Err(error @ ServerError::Panicked(_)) => Err(ServeError::Broken(error.to_string())),
        }
    }
}
