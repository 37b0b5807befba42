//! Server over HTTP with a real dispatcher.

mod access;
mod containers;
mod explain;
mod instances;
mod metrics;
mod server;
mod support;
mod tls;
mod world;
