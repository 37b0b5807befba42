//! Errors for the operator ([`QueueError`]) and for callers over HTTP (`ApiError`).

use std::net::SocketAddr;
use std::path::PathBuf;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use longshore_http::BodyError;
use longshore_http::random::{NoRandomness, hex_or_zeros};
use serde_json::json;

use crate::clock;

/// Reasons for failing to start the queue server, or to manage a token.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// A setting is out of range: correct it.
    #[error("queue configuration: {0}")]
    Config(String),
    /// Listening on the address failed: stop the other server, or choose another port.
    #[error(
        "cannot listen on {addr}: {source}. Stop the server that uses this port, or choose another port"
    )]
    Bind {
        /// Requested address.
        addr: SocketAddr,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// Opening or reading the database failed: check its path, owner and disk.
    #[error("queue database {database}: {source}. Check the path, its owner and the free space")]
    Database {
        /// Path of the database, or `:memory:`.
        database: String,
        /// Error of SQLite.
        source: rusqlite::Error,
    },
    /// The database was written by a newer version: run the newer version, or restore a backup.
    #[error(
        "queue database {}: its schema is version {found}, this program knows up to {known}. Run the newer version, or restore a backup made before it",
        path.display()
    )]
    NewerSchema {
        /// Path of the database.
        path: PathBuf,
        /// Schema version of the database.
        found: i64,
        /// Newest schema version known to this program.
        known: i64,
    },
    /// The file is not a queue database of this cluster: give another path.
    #[error("queue database {database}: {reason}. Give another path, or correct the configuration")]
    Foreign {
        /// Path of the database, or `:memory:`.
        database: String,
        /// Difference from a queue database of this cluster.
        reason: String,
    },
    /// A token or the name of its owner is malformed: correct the argument.
    #[error("token: {0}")]
    Token(String),
    /// The server failed: see the log.
    #[error("queue server: {0}")]
    Server(String),
}

/// Error response to a caller. The message never contains a secret.
///
/// A handler returns an `ApiError` in the extensions of an otherwise empty response; the outermost
/// layer, with the request id, turns the error into the final response by [`ApiError::render`].
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    class: &'static str,
    pub(crate) message: String,
}

impl ApiError {
    fn new(status: StatusCode, class: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            class,
            message: message.into(),
        }
    }

    /// 400: an unreadable request.
    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "MalformedRequest", message)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "NotLoggedIn",
            "Not logged in: expected the header 'Authorization: Bearer <token>' with a token of this cluster that has not expired",
        )
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "PermissionDenied", message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    /// 404: the same response for an unknown container and for a container hidden from the caller.
    pub(crate) fn no_container(uuid: &str) -> Self {
        Self::not_found(format!("container {uuid} not found"))
    }

    pub(crate) fn method_not_allowed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    pub(crate) fn request_timeout(message: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "RequestTimeout", message)
    }

    pub(crate) fn too_large(limit_bytes: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "TooLarge",
            format!("request body is larger than {limit_bytes} bytes: send less at a time"),
        )
    }

    pub(crate) fn unsupported_body(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            message,
        )
    }

    /// 422: a readable request with a wrong value.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
    }

    /// 422: a request not allowed in the current state of the container.
    pub(crate) fn transition(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "InvalidStateTransition",
            message,
        )
    }

    /// 422: a lock or unlock not allowed in the current state of the container.
    pub(crate) fn lock_failed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "LockFailed", message)
    }

    pub(crate) fn overloaded(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "Overloaded", message)
    }

    /// 500. The message goes to the log, not to the caller.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    /// Writes the response. The message of an internal error goes to the log instead.
    pub(crate) fn render(self, request_id: &str) -> Response {
        let token = format!(
            "{}+{}",
            clock::now_ns() / 1_000_000_000,
            // Without randomness the token is less unique, and the response is sent all the same.
            hex_or_zeros()
        );
        let message = if self.status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(
                request_id,
                error_token = token,
                error = self.message,
                "queue request failed"
            );
            format!("internal error: look for {token} in the queue server's log")
        } else {
            self.message
        };
        let body = json!({
            "errors": [format!("#<{}: {message}> ({request_id})", self.class)],
            "error_token": token,
        });
        let mut response = (self.status, axum::Json(body)).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<NoRandomness> for ApiError {
    fn from(error: NoRandomness) -> Self {
        Self::internal(error.to_string())
    }
}

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge(limit_bytes) => Self::too_large(limit_bytes),
            BodyError::Timeout(timeout) => Self::request_timeout(format!(
                "request body: expected within {} seconds",
                timeout.as_secs()
            )),
            BodyError::Broken(error) => Self::malformed(format!("request body: {error}")),
        }
    }
}

impl From<rusqlite::Error> for ApiError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked};
        match error.sqlite_error_code() {
            Some(DatabaseBusy | DatabaseLocked) => {
                Self::overloaded("the queue database is busy: try again")
            }
            _ => Self::internal(format!("queue database: {error}")),
        }
    }
}
