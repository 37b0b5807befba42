//! Built-in queue: the containers API on SQLite.
//!
//! [`QueueServer`] serves `/arvados/v1/containers` and related paths over plain HTTP, so that
//! dispatcher, runner and command line need no other server. [`Tokens`] manages the tokens of the
//! callers.
//!
//! Modules, from outside to inside: `server` starts and stops, `route` maps methods and paths to
//! `handlers`, `request` holds the layers and extractors in between, `params` parses parameters,
//! `validate` checks new containers, `rules` is the state machine; `containers`, `list` and `logs`
//! use the database through `store`; `events` publishes changes.

mod app;
mod clock;
mod config;
mod containers;
mod error;
mod events;
mod filter;
mod handlers;
mod ids;
mod list;
mod logs;
mod params;
mod record;
mod request;
mod route;
mod rules;
mod schema;
mod server;
mod store;
mod stream;
mod token;
mod validate;

pub use config::{Database, QueueConfig};
pub use error::QueueError;
pub use server::QueueServer;
pub use token::{Role, TokenInfo, Tokens};
