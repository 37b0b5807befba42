//! Errors for whoever starts the server ([`ServeError`]), and for callers over HTTP ([`ApiError`]).

use std::net::SocketAddr;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Why the management server cannot start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is nothing to listen on: give at least one address.
    #[error(
        "management API: no address to listen on. Give at least one under Services.DispatchCloud.InternalURLs"
    )]
    NoAddress,
    /// Another process has the port: stop it, or choose another port.
    #[error(
        "management API: {addr} is in use by another process. Stop that process, or choose another port under Services.DispatchCloud.InternalURLs"
    )]
    InUse {
        /// The address that was asked for.
        addr: SocketAddr,
    },
    /// The system does not let us listen there: choose an address of this host, and a port that
    /// this user may use.
    #[error(
        "management API: cannot listen on {addr}: {source}. Choose an address of this host, and a port that this user may use"
    )]
    Bind {
        /// The address that was asked for.
        addr: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Requests were still being worked on when the time for stopping was over: harmless, unless it
    /// happens often.
    #[error("management API: {requests} requests were given up {} s after the stop", .grace.as_secs_f64())]
    Unfinished {
        /// How many.
        requests: usize,
        /// How long they had.
        grace: Duration,
    },
    /// A task of the server broke down: a bug, please report it with the log.
    #[error("management API: the server stopped: {0}")]
    Broken(String),
}

/// An error as a caller sees it. The message never holds a secret.
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
    /// Plain text, as callers who are not let in get it.
    Plain,
    /// As monitors expect it of a health check.
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

    /// The same in the shape of a health check.
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
