//! Bounded HTTP/1 server, and the HTTP conventions shared by servers and clients.
//!
//! - [`serve`] accepts connections up to [`ServerLimits`], with optional TLS ([`ServerTls`]) and a
//!   graceful shutdown.
//! - [`read_body`] reads a request body up to [`BodyLimits`].
//! - [`InFlightRequests`] bounds and lists the requests in flight.
//! - [`request_id`] creates and validates `X-Request-Id`.
//! - [`time`] reads and writes RFC 3339; [`random`] creates random names.

mod body;
mod in_flight;
pub mod random;
pub mod request_id;
mod server;
pub mod time;
mod tls;
mod write_timeout;

pub use body::{BodyError, BodyLimits, read_body};
pub use in_flight::{InFlightRequest, InFlightRequests, InFlightSlot};
pub use server::{ServerError, ServerLimits, TlsSource, serve};
pub use tls::{ServerTls, TlsError};
