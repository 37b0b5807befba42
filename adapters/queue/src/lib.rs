//! The built-in queue: the containers API on SQLite.
//!
//! [`QueueServer`] serves `/arvados/v1/containers` and its neighbours over plain HTTP, so that the
//! dispatcher, the runner and the command line need nothing else. [`Tokens`] manages who may call.
//!
//! The rooms: `server` takes requests in, `route` says what they ask for, `params` reads what they
//! carry, `validate` judges new containers, `rules` is the state machine, `containers`, `list` and
//! `logs` touch the database through `store`, `events` pushes changes out.

mod clock;
mod config;
mod containers;
mod error;
mod events;
mod filter;
mod ids;
mod list;
mod listener;
mod logs;
mod params;
mod record;
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
