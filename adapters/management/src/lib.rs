//! Management API and metrics, over HTTP.
//!
//! The dispatcher is owned by one loop; this crate has no access to the dispatcher. A [`Server`]
//! sends [`LoopRequest`]s into a bounded channel, and the loop replies to each with
//! [`LoopRequest::answer`]. [`Metrics`] are updated by the loop with every event, and completed with
//! the current totals of the dispatcher for each scrape.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use longshore_management::{Health, Management, ManagementSettings, Metrics, Server, ServeLimits};
//! # use longshore_core::{Dispatcher, input::Input, time::Timestamp};
//! # use tokio::sync::watch;
//! # async fn run(mut core: Dispatcher, settings: ManagementSettings, now: Timestamp)
//! # -> Result<(), longshore_management::ServeError> {
//! let (loop_requests, mut receiver) = longshore_management::loop_requests();
//! let (_reload, settings) = watch::channel(Arc::new(settings));
//! let metrics = Arc::new(Metrics::new());
//! let server = Server::bind(&["127.0.0.1:9006".parse().expect("an address")]).await?;
//! let limits = ServeLimits::default();
//! let management = Management { settings, loop_requests, metrics: metrics.clone(), limits };
//! tokio::spawn(server.serve(management, std::future::pending()));
//! while let Some(request) = receiver.recv().await {
//!     if let Some(request) = request.answer(now, core.view(), &Health::Ok) {
//!         core.handle_input(now, Input::OperatorRequest(request));
//!     }
//!     while let Some(event) = core.poll_event() {
//!         metrics.observe(now, &event);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Modules, from outside to inside: `server` starts and stops, `route` maps methods and paths to
//! `handlers` and holds the layers around all of them, `auth` checks the token, `params` parses
//! parameters; `loop_request` is the protocol with the loop, `json` writes replies, `metrics` counts.

mod app;
mod auth;
mod error;
mod handlers;
mod json;
mod loop_request;
mod metrics;
mod params;
mod route;
mod server;
mod settings;
mod worker_state;

pub use app::Management;
pub use error::ServeError;
pub use json::{TypeJson, rfc3339};
pub use longshore_http::{ServerTls, TlsError};
pub use loop_request::{
    AsOf, Explanation, Health, HealthReport, Instances, LoopRequest, Outcome, Reply, loop_requests,
};
pub use metrics::{Metrics, MetricsSnapshot};
pub use server::Server;
pub use settings::{ManagementSettings, ServeLimits};
