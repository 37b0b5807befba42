//! Gateway address: a listening port of this runner.
//!
//! The gateway protocol is not implemented yet: connections are closed at once. The address
//! identifies the runner: from the address the API distinguishes a start report repeated after a
//! lost response from the start report of another runner. The port is bound, so no other live
//! runner on this VM has the same address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

/// Pause after a failed accept, for example if the process has no free file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Listens until the process ends. Returns the host of `wanted` with the bound port.
///
/// `wanted` is `HOST:PORT`, an IPv6 host in brackets; the port is ignored. A host name, or an
/// address not local to this VM (a cloud may translate addresses), means listening on all
/// addresses. Without a host the address is 127.0.0.1.
pub(crate) fn listen(wanted: &str) -> io::Result<String> {
    let host = match wanted.rsplit_once(':').map_or(wanted, |(host, _)| host) {
        "" => "127.0.0.1",
        host => host,
    };
    let v4 = IpAddr::from(Ipv4Addr::UNSPECIFIED);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let addresses = match bare.parse() {
        Ok(ip @ IpAddr::V4(_)) => [ip, v4, v4],
        // The VM may have no IPv6.
        Ok(ip @ IpAddr::V6(_)) => [ip, Ipv6Addr::UNSPECIFIED.into(), v4],
        Err(_) => [v4; 3],
    };
    let listener = TcpListener::bind(addresses.map(|ip| SocketAddr::new(ip, 0)).as_slice())?;
    let port = listener.local_addr()?.port();
    thread::Builder::new()
        .name("gateway".to_owned())
        .spawn(move || close_connections(&listener))?;
    Ok(format!("{host}:{port}"))
}

fn close_connections(listener: &TcpListener) {
    for caller in listener.incoming() {
        if caller.is_err() {
            thread::sleep(ACCEPT_RETRY_DELAY);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn gateway_keeps_host_and_binds_port() -> io::Result<()> {
        for (wanted, host, reached) in [
            ("127.82.0.1:0", "127.82.0.1", "127.82.0.1"),
            ("127.82.0.1:22", "127.82.0.1", "127.82.0.1"),
            ("", "127.0.0.1", "127.0.0.1"),
            (":0", "127.0.0.1", "127.0.0.1"),
            // A foreign address and a host name may be translated to this VM.
            ("192.0.2.1:0", "192.0.2.1", "127.0.0.1"),
            ("worker.example:0", "worker.example", "127.0.0.1"),
            ("[2001:db8::1]:0", "[2001:db8::1]", "127.0.0.1"),
        ] {
            let address = listen(wanted)?;
            let (got, port) = address.rsplit_once(':').unwrap_or_default();
            assert_eq!(got, host, "{wanted:?}");
            let mut caller = TcpStream::connect((reached, port.parse().unwrap_or(0)))?;
            caller.set_read_timeout(Some(Duration::from_secs(30)))?;
            assert_eq!(
                caller.read(&mut [0])?,
                0,
                "{wanted:?}: the connection stays open"
            );
        }
        Ok(())
    }

    #[test]
    fn gateway_binds_only_given_local_address() -> io::Result<()> {
        let address = listen("127.82.0.2:0")?;
        let (_, port) = address.rsplit_once(':').unwrap_or_default();
        let elsewhere = TcpStream::connect(("127.82.0.3", port.parse().unwrap_or(0)));
        assert_eq!(
            elsewhere.err().map(|error| error.kind()),
            Some(io::ErrorKind::ConnectionRefused)
        );
        Ok(())
    }

    #[test]
    fn gateway_addresses_are_unique() -> io::Result<()> {
        let mut addresses = (0..50)
            .map(|_| listen("127.82.0.4:0"))
            .collect::<io::Result<Vec<_>>>()?;
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), 50);
        Ok(())
    }
}
