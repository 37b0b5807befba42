//! What the server is told.

use std::sync::Arc;
use std::time::Duration;

use longshore_core::config::Config;
use longshore_core::time::Timestamp;
use longshore_secret::Secret;

use crate::tls::ServerTls;

/// What may change while the server runs, with each new configuration.
#[derive(Clone, Debug)]
pub struct ManagementSettings {
    /// What callers must show (`ManagementToken`); empty refuses everybody.
    pub management_token: Secret,
    /// What connections from now on are encrypted with; `None` for none.
    pub tls: Option<ServerTls>,
    /// The dispatcher's configuration, for what is said of instance types.
    pub config: Arc<Config>,
    /// This program's version, for metrics.
    pub version: String,
    /// SHA-256 of the configuration file as it was read, in hexadecimal; empty where there is no
    /// file.
    pub config_sha256: String,
    /// When the configuration file was last changed; `None` where it came from elsewhere.
    pub config_changed_at: Option<Timestamp>,
    /// When the configuration was read.
    pub config_loaded_at: Timestamp,
}

/// How much the server takes on, and how long it waits.
#[derive(Clone, Debug)]
pub struct ServeLimits {
    /// The loop must answer within this; the caller gets 503 otherwise.
    pub answer_timeout: Duration,
    /// A request's body must be there within this.
    pub body_timeout: Duration,
    /// A connection on which nothing moves for so long is closed. To be longer than the other
    /// times here together, and than the usual pause between two scrapes.
    pub idle_timeout: Duration,
    /// A stopping server waits so long for the requests being worked on.
    pub shutdown_grace: Duration,
    /// A list of containers may be so old.
    pub containers_age_max: Duration,
    /// Connections at a time on each address; further ones wait.
    pub connections: usize,
    /// Requests being worked on; further ones get 503.
    pub requests: usize,
    /// The longest body, in bytes.
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
