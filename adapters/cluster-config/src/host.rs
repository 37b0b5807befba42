//! Facts about this host: size, ports of services.

use longshore_core::resources::Resources;

/// Resources of this host: all cores, all memory, and the size of the file system of `/tmp`.
pub(super) fn resources() -> Result<Resources, String> {
    let cores = std::thread::available_parallelism().map_err(|e| format!("cores: {e}"))?;
    let tmp = rustix::fs::statvfs("/tmp").map_err(|e| format!("/tmp: {e}"))?;
    let meminfo = std::fs::read_to_string("/proc/meminfo");
    let meminfo = meminfo.map_err(|e| format!("/proc/meminfo: {e}"))?;
    Ok(Resources {
        vcpus: u32::try_from(cores.get()).unwrap_or(u32::MAX),
        ram: mem_total(&meminfo).ok_or("/proc/meminfo: no MemTotal")?,
        scratch: tmp.f_frsize.saturating_mul(tmp.f_blocks),
        gpus: 0,
    })
}

/// Reads the line `MemTotal:  16384 kB`; bytes.
fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
    kib.checked_mul(1024)
}

/// Port by number or by name; blank means the SSH port.
pub(super) fn tcp_port(text: &str) -> Option<u16> {
    let number = || {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|port| digits && *port > 0)
    };
    match text {
        // Valid even without /etc/services.
        "" | "ssh" => Some(22),
        _ => number().or_else(|| {
            let services = std::fs::read_to_string("/etc/services").ok()?;
            service_port(&services, text)
        }),
    }
}

/// Finds the port in a line `name  22/tcp  alias…  # note`.
fn service_port(services: &str, name: &str) -> Option<u16> {
    services.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let first = words.next()?;
        let port = words.next()?.strip_suffix("/tcp")?.parse().ok()?;
        (first == name || words.any(|alias| alias == name)).then_some(port)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mem_total_parses_its_line() {
        assert_eq!(
            mem_total("MemFree: 1 kB\nMemTotal:       16384 kB\n"),
            Some(16 << 20)
        );
        assert_eq!(mem_total("MemTotal: lots\n"), None);
    }

    #[test]
    fn ports_have_numbers_names_aliases() {
        assert_eq!(tcp_port(""), Some(22));
        assert_eq!(tcp_port("ssh"), Some(22));
        assert_eq!(tcp_port("2222"), Some(2222));
        for wrong in ["0", "65536", "+22", "no such service"] {
            assert_eq!(tcp_port(wrong), None, "{wrong:?}");
        }
        let services = "domain 53/udp\n# x 1/tcp\nrootd 1094/tcp  root  # note\n";
        assert_eq!(service_port(services, "rootd"), Some(1094));
        assert_eq!(service_port(services, "root"), Some(1094));
        assert_eq!(service_port(services, "note"), None);
        assert_eq!(service_port(services, "domain"), None);
    }
}
