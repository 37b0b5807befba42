//! Errors to the operator ([`QueueError`]) and to the caller over HTTP (`ApiError`).

use std::net::SocketAddr;
use std::path::PathBuf;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use crate::{clock, ids};

/// Why the queue server cannot start, or a token cannot be managed.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// A setting is out of range: correct it.
    #[error("queue configuration: {0}")]
    Config(String),
    /// The address cannot be listened on: stop the other server, or choose another port.
    #[error(
        "cannot listen on {addr}: {source}. Stop the server that uses this port, or choose another port"
    )]
    Bind {
        /// The address that was asked for.
        addr: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The database cannot be opened or read: check the path, its owner and the disk.
    #[error("queue database {database}: {source}. Check the path, its owner and the free space")]
    Database {
        /// Its path, or `:memory:`.
        database: String,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A newer version wrote the database: run that version, or restore a backup.
    #[error(
        "queue database {}: its schema is version {found}, this program knows up to {known}. Run the newer version, or restore a backup made before it",
        path.display()
    )]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// The version found in it.
        found: i64,
        /// The newest version this program can use.
        known: i64,
    },
    /// The file is no queue database of this cluster: give another path.
    #[error("queue database {database}: {reason}. Give another path, or correct the configuration")]
    Foreign {
        /// Its path, or `:memory:`.
        database: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A token or its owner has a wrong shape: correct it.
    #[error("token: {0}")]
    Token(String),
    /// The server stopped in a way that it should not: see the log.
    #[error("queue server: {0}")]
    Server(String),
}

/// An error as a caller sees it. The message never holds a secret.
#[derive(Debug)]
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

    /// 400: the request cannot even be read.
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

    /// The same answer for a container that is not there and for one that the caller may not see.
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

    /// 422: readable, but some value is wrong.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
    }

    /// 422: the container is in a state that does not allow this.
    pub(crate) fn transition(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "InvalidStateTransition",
            message,
        )
    }

    /// 422: a lock or unlock at the wrong moment.
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

    pub(crate) fn into_response(self, request_id: &str) -> Response {
        let token = format!(
            "{}+{}",
            clock::now_ns() / 1_000_000_000,
            ids::error_suffix()
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
