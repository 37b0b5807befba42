//! Addresses to listen on.

use std::net::{SocketAddr, ToSocketAddrs as _};

use crate::error::{CliError, CliResult, Context as _};

/// First address of `host:port`; `key` is the configuration key to blame.
pub(crate) fn resolve(key: &str, listen: &str) -> CliResult<SocketAddr> {
    let mut addresses = listen.to_socket_addrs().usage(format!("{key}: {listen}"))?;
    let none = || CliError::usage(format!("{key}: {listen}: no address found"));
    addresses.next().ok_or_else(none)
}
