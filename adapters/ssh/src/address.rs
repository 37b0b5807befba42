//! Parser for the addresses that clouds report.

use std::fmt;

/// Host and port of an SSH server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Address {
    /// Parses `host`, `host:port`, `[v6]`, `[v6]:port` or a bare IPv6 address.
    pub(crate) fn parse(text: &str, default_port: u16) -> Result<Self, String> {
        let invalid = || {
            format!("{text:?} is not an address: expected host, host:port or [IPv6 address]:port")
        };
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or_else(invalid)?;
                match after.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None if after.is_empty() => (host, None),
                    None => return Err(invalid()),
                }
            }
            None => match text.split_once(':') {
                Some((_, port)) if port.contains(':') => (text, None),
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let port = match port {
            Some(port) => port.parse().map_err(|_| invalid())?,
            None => default_port,
        };
        let is_invalid = |c: char| c.is_whitespace() || c.is_control() || c == '/';
        if host.is_empty() || port == 0 || host.contains(is_invalid) {
            return Err(invalid());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_without_port_uses_default() {
        for (text, shown) in [
            ("10.1.2.3", "10.1.2.3:22"),
            ("10.1.2.3:2222", "10.1.2.3:2222"),
            ("vm.example", "vm.example:22"),
            ("[fd00::1]:2222", "[fd00::1]:2222"),
            ("[fd00::1]", "[fd00::1]:22"),
            ("fd00::1", "[fd00::1]:22"),
        ] {
            assert_eq!(Address::parse(text, 22).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn invalid_address_names_expected_form() {
        for text in [
            "", ":22", "vm:", "vm:ssh", "vm:70000", "vm:0", "[fd00::1", "[::1]22", "a b",
        ] {
            let error = Address::parse(text, 22).unwrap_err();
            assert!(error.contains("expected host"), "{text:?}: {error}");
        }
    }
}
