//! The gateway address: where this runner can be reached for as long as it lives.
//!
//! No gateway protocol is spoken yet: whoever connects is hung up on. The address serves as the
//! runner's name: by it the API tells a start report that is repeated because its answer was lost
//! from the report of another runner. Since the port is really taken, no other runner that lives
//! has the same address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

/// When no connection can be taken: this process may be out of descriptors for a while.
const REST: Duration = Duration::from_secs(1);

/// Listens until this process ends, and returns the host of `wanted` with the port that was free.
///
/// `wanted` is `HOST:PORT`, an IPv6 host in brackets; the port does not count. A host that is a name,
/// or no address of this machine, since a cloud may translate it, means every address of this
/// machine. Without a host it is 127.0.0.1.
pub(crate) fn listen(wanted: &str) -> io::Result<String> {
    let host = match wanted.rsplit_once(':').map_or(wanted, |(host, _)| host) {
        "" => "127.0.0.1",
        host => host,
    };
    let v4 = IpAddr::from(Ipv4Addr::UNSPECIFIED);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let places = match bare.parse() {
        Ok(ip @ IpAddr::V4(_)) => [ip, v4, v4],
        // A machine may have no IPv6 at all.
        Ok(ip @ IpAddr::V6(_)) => [ip, Ipv6Addr::UNSPECIFIED.into(), v4],
        Err(_) => [v4; 3],
    };
    let listener = TcpListener::bind(places.map(|ip| SocketAddr::new(ip, 0)).as_slice())?;
    let port = listener.local_addr()?.port();
    thread::Builder::new()
        .name("gateway".to_owned())
        .spawn(move || hang_up(&listener))?;
    Ok(format!("{host}:{port}"))
}

fn hang_up(listener: &TcpListener) {
    for caller in listener.incoming() {
        if caller.is_err() {
            thread::sleep(REST);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn the_host_stays_as_it_was_given_and_the_port_is_real() -> io::Result<()> {
        for (wanted, host, reached) in [
            ("127.82.0.1:0", "127.82.0.1", "127.82.0.1"),
            ("127.82.0.1:22", "127.82.0.1", "127.82.0.1"),
            ("", "127.0.0.1", "127.0.0.1"),
            (":0", "127.0.0.1", "127.0.0.1"),
            // No address of this machine, and a name: they may lead here all the same.
            ("192.0.2.1:0", "192.0.2.1", "127.0.0.1"),
            ("worker.example:0", "worker.example", "127.0.0.1"),
            ("[2001:db8::1]:0", "[2001:db8::1]", "127.0.0.1"),
        ] {
            let address = listen(wanted)?;
            let (got, port) = address.rsplit_once(':').unwrap_or_default();
            assert_eq!(got, host, "{wanted:?}");
            let mut caller = TcpStream::connect((reached, port.parse().unwrap_or(0)))?;
            caller.set_read_timeout(Some(Duration::from_secs(30)))?;
            assert_eq!(caller.read(&mut [0])?, 0, "{wanted:?}: hung up on");
        }
        Ok(())
    }

    #[test]
    fn an_address_of_this_machine_is_the_only_one_that_is_listened_on() -> io::Result<()> {
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
    fn no_two_that_live_have_the_same_address() -> io::Result<()> {
        let mut addresses = (0..50)
            .map(|_| listen("127.82.0.4:0"))
            .collect::<io::Result<Vec<_>>>()?;
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), 50);
        Ok(())
    }
}
