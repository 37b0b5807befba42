//! The server over HTTP, with a real dispatcher behind it.

mod access;
mod containers;
mod explain;
mod instances;
mod metrics;
mod server;
mod support;
mod tls;
mod world;
