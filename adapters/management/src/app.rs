//! State shared by all requests of a server.

use std::sync::Arc;

use axum::body::Bytes;
use longshore_http::InFlightRequests;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::Instant;

use crate::loop_request::LoopRequest;
use crate::metrics::Metrics;
use crate::settings::{ManagementSettings, ServeLimits};

/// Dependencies of the server.
#[derive(Debug)]
pub struct Management {
    /// Settings; a new value takes effect from the next request on.
    pub settings: watch::Receiver<Arc<ManagementSettings>>,
    /// Channel to the loop of the dispatcher; see [`loop_requests`](crate::loop_requests).
    pub loop_requests: mpsc::Sender<LoopRequest>,
    /// Metrics, updated by the same loop.
    pub metrics: Arc<Metrics>,
    /// Bounds in number, size and time.
    pub limits: ServeLimits,
}

#[derive(Debug)]
pub(crate) struct App {
    pub(crate) settings: watch::Receiver<Arc<ManagementSettings>>,
    pub(crate) loop_requests: mpsc::Sender<LoopRequest>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) limits: ServeLimits,
    pub(crate) in_flight: Arc<InFlightRequests>,
    /// Last list of containers as JSON, with the time of its request to the loop: many clients
    /// polling the list cost as much as one client.
    pub(crate) container_list: Mutex<Option<(Instant, Bytes)>>,
}

impl App {
    pub(crate) fn new(management: Management) -> Self {
        Self {
            in_flight: Arc::new(InFlightRequests::new(management.limits.requests)),
            settings: management.settings,
            loop_requests: management.loop_requests,
            metrics: management.metrics,
            limits: management.limits,
            container_list: Mutex::default(),
        }
    }

    pub(crate) fn settings(&self) -> Arc<ManagementSettings> {
        Arc::clone(&self.settings.borrow())
    }
}
