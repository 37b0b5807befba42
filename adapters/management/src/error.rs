//! Errors for the operator ([`ServeError`]), and for callers over HTTP ([`ApiError`]).

use std::net::SocketAddr;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Reasons for failing to start the management server, or for its unclean end.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// No address to listen on: give at least one address.
    #[error(
        "management API: no address to listen on. Give at least one under Services.DispatchCloud.InternalURLs"
    )]
    NoAddress,
    /// The port is in use by another process: stop the other process, or choose another port.
    #[error(
        "management API: {addr} is in use by another process. Stop that process, or choose another port under Services.DispatchCloud.InternalURLs"
    )]
    InUse {
        /// Requested address.
        addr: SocketAddr,
    },
    /// Listening on the address failed: choose an address of this host, and a port allowed for this
    /// user.
    #[error(
        "management API: cannot listen on {addr}: {source}. Choose an address of this host, and a port that this user may use"
    )]
    Bind {
        /// Requested address.
        addr: SocketAddr,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// Requests were still in flight at the end of the grace period: harmless, unless frequent.
    #[error("management API: {requests} requests were cut off {} s after the stop", .grace.as_secs_f64())]
    Unfinished {
        /// Number of requests.
        requests: usize,
        /// Length of the grace period.
        grace: Duration,
    },
    /// A task of the server panicked: a bug, please report it with the log.
    #[error("management API: the server stopped: {0}")]
    Broken(String),
}

/// Error response to a caller. The message never contains a secret.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// `{"errors": [...]}`.
    Json,
    /// Plain text, for unauthenticated callers.
    Plain,
    /// Format of a health check.
    Health,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            kind: Kind::Json,
        }
    }

    pub(crate) fn plain(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Plain,
            ..Self::new(status, message)
        }
    }

    /// Changes the format to the format of a health check.
    pub(crate) fn of_health(self) -> Self {
        Self {
            kind: Kind::Health,
            ..self
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let message = self.message;
        let mut response = match self.kind {
            Kind::Json => (self.status, Json(json!({ "errors": [message] }))).into_response(),
            Kind::Plain => (self.status, format!("{message}\n")).into_response(),
            Kind::Health => {
                let body = json!({ "error": message, "health": "ERROR" });
                (self.status, Json(body)).into_response()
            }
        };
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            let headers = response.headers_mut();
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}
