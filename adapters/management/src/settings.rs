//! Settings and limits of the server.

use std::sync::Arc;
use std::time::Duration;

use longshore_core::config::Config;
use longshore_core::time::Timestamp;
use longshore_http::{BodyLimits, ServerLimits, ServerTls};
use longshore_secret::Secret;

/// Settings replaced as a whole with each new configuration, while the server runs.
#[derive(Clone, Debug)]
pub struct ManagementSettings {
    /// Token required from callers (`ManagementToken`); empty refuses all callers.
    pub management_token: Secret,
    /// Certificate for new connections; `None` for plain HTTP.
    pub tls: Option<ServerTls>,
    /// Configuration of the dispatcher, for the description of instance types.
    pub config: Arc<Config>,
    /// Version of this program, for metrics.
    pub version: String,
    /// SHA-256 of the configuration file as read, in hexadecimal; empty without a file.
    pub config_sha256: String,
    /// Modification time of the configuration file; `None` without a file.
    pub config_changed_at: Option<Timestamp>,
    /// Time of reading the configuration.
    pub config_loaded_at: Timestamp,
}

/// Bounds of the server in number, size and time.
#[derive(Clone, Debug)]
pub struct ServeLimits {
    /// Time for a reply of the loop; then the caller gets 503.
    pub answer_timeout: Duration,
    /// Time for the arrival of a request body.
    pub body_timeout: Duration,
    /// Time of a connection without a request, of the arrival of request headers, and of a write
    /// without progress; then the connection is closed. To be longer than the usual pause between
    /// two scrapes.
    pub idle_timeout: Duration,
    /// Time for the requests in flight after the stop.
    pub shutdown_grace: Duration,
    /// Maximum age of a cached list of containers.
    pub containers_age_max: Duration,
    /// Open connections on each address; further connections wait.
    pub connections: usize,
    /// Requests in flight; further requests get 503.
    pub requests: usize,
    /// Maximum size of a body, in bytes.
    pub body_bytes: usize,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self {
            answer_timeout: Duration::from_secs(5),
            body_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            shutdown_grace: Duration::from_secs(10),
            containers_age_max: Duration::from_secs(1),
            connections: 256,
            requests: 64,
            body_bytes: 64 << 10,
        }
    }
}

impl ServeLimits {
    pub(crate) fn server(&self) -> ServerLimits {
        ServerLimits {
            connections: self.connections,
            idle_timeout: self.idle_timeout,
            write_timeout: self.idle_timeout,
            shutdown_grace: self.shutdown_grace,
        }
    }

    pub(crate) fn body(&self) -> BodyLimits {
        BodyLimits {
            bytes: self.body_bytes,
            timeout: self.body_timeout,
        }
    }
}
