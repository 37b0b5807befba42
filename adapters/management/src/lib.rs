//! Management API and metrics, over HTTP.
//!
//! The dispatcher is owned by one loop; this crate never touches it. A [`Server`] puts
//! [`Question`]s into a bounded channel, and the loop answers each with [`Question::answer`].
//! [`Metrics`] are fed by the loop with every event, and completed from the dispatcher's sums when
//! somebody asks.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use longshore_management::{Health, Management, ManagementSettings, Metrics, Server, ServeLimits};
//! # use longshore_core::{Dispatcher, input::Input, time::Timestamp};
//! # use tokio::sync::watch;
//! # async fn run(mut core: Dispatcher, settings: ManagementSettings, now: Timestamp)
//! # -> Result<(), longshore_management::ServeError> {
//! let (ask, mut asked) = longshore_management::questions();
//! let (_reload, settings) = watch::channel(Arc::new(settings));
//! let metrics = Arc::new(Metrics::new());
//! let server = Server::bind(&["127.0.0.1:9006".parse().expect("an address")]).await?;
//! let limits = ServeLimits::default();
//! let management = Management { settings, questions: ask, metrics: metrics.clone(), limits };
//! tokio::spawn(server.serve(management, std::future::pending()));
//! while let Some(question) = asked.recv().await {
//!     if let Some(wish) = question.answer(now, core.view(), &Health::Ok) {
//!         core.handle_input(now, Input::Operator(wish));
//!     }
//!     while let Some(event) = core.poll_event() {
//!         metrics.observe(now, &event);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The rooms: `connection` bounds who may come, `tls` proves who we are, `server` takes requests in, `route` says what they
//! ask for, `auth` whether they may, `params` what they carry; `handlers` ask the loop and `json`
//! shapes its answers; `requests` knows what is being worked on; `metrics` counts.

mod auth;
mod connection;
mod error;
mod handlers;
mod json;
mod metrics;
mod params;
mod question;
mod requests;
mod route;
mod server;
mod settings;
mod tls;

pub use error::ServeError;
pub use json::{TypeJson, rfc3339};
pub use metrics::{Gathered, Metrics};
pub use question::{Condition, Dated, Explanation, Health, Outcome, Question, Reply, questions};
pub use server::{Management, Server};
pub use settings::{ManagementSettings, ServeLimits};
pub use tls::{ServerTls, TlsError};
