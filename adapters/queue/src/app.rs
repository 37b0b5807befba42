//! State shared by all requests of a server.

use std::sync::Arc;
use std::time::Duration;

use longshore_http::{BodyLimits, InFlightRequests};
use tokio::sync::Semaphore;

use crate::config::QueueConfig;
use crate::containers::Setup;
use crate::events::Hub;
use crate::store::Store;
use crate::stream::Stop;

/// Maximum time for the arrival of a request body.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) struct App {
    pub(crate) config: QueueConfig,
    pub(crate) setup: Setup,
    pub(crate) store: Store,
    pub(crate) hub: Arc<Hub>,
    pub(crate) in_flight: Arc<InFlightRequests>,
    /// Permits of event streams and followed logs.
    pub(crate) streams: Arc<Semaphore>,
    pub(crate) stop: Stop,
}

impl App {
    pub(crate) fn new(config: QueueConfig, store: Store, hub: Arc<Hub>, stop: Stop) -> Self {
        Self {
            setup: Setup {
                cluster_id: config.cluster_id.clone(),
                max_dispatch_attempts: config.max_dispatch_attempts,
            },
            in_flight: Arc::new(InFlightRequests::new(config.max_requests_in_flight)),
            streams: Arc::new(Semaphore::new(config.max_streams)),
            config,
            store,
            hub,
            stop,
        }
    }

    pub(crate) fn body_limits(&self) -> BodyLimits {
        BodyLimits {
            bytes: self.config.max_body_bytes,
            timeout: BODY_TIMEOUT,
        }
    }
}
