//! Processes of this host, read from `/proc`.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

/// Process id together with the start time: unique although process ids are reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    /// Start time in clock ticks since the boot of the host.
    pub(crate) started: u64,
}

impl ProcessId {
    /// Id of the calling process.
    pub(crate) fn own() -> io::Result<Self> {
        let pid = rustix::process::getpid().as_raw_pid();
        read_process(pid)
            .map(|process| process.identity)
            .ok_or_else(|| io::Error::other("/proc does not show this process"))
    }
}

/// Process of this host.
pub(crate) struct Process {
    pub(crate) identity: ProcessId,
    /// Process id of the parent.
    pub(crate) parent: i32,
    /// True if the process has exited and was not yet reaped by its parent.
    pub(crate) dead: bool,
}

pub(crate) fn read_all() -> io::Result<Vec<Process>> {
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        processes.extend(pid.and_then(read_process));
    }
    Ok(processes)
}

pub(crate) fn read_process(pid: i32) -> Option<Process> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let (parent, started, dead) = parse_stat(&stat)?;
    Some(Process {
        identity: ProcessId { pid, started },
        parent,
        dead,
    })
}

/// Parses parent, start time and exit state. The program name, in parentheses, can contain any
/// character.
fn parse_stat(stat: &[u8]) -> Option<(i32, u64, bool)> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let text = std::str::from_utf8(stat.get(after_name..)?).ok()?;
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    let threads: u32 = fields.get(17)?.parse().ok()?;
    // The first thread may have exited while other threads run.
    let dead = matches!(*fields.first()?, "Z" | "X" | "x") && threads <= 1;
    Some((
        fields.get(1)?.parse().ok()?,
        fields.get(19)?.parse().ok()?,
        dead,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_stat_parentheses_in_name() {
        let stat = b"77 (a) Z 1 (b) S 42 77 77 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 9 9";
        assert_eq!(parse_stat(stat), Some((42, 123_456, false)));
        let stat = String::from_utf8_lossy(stat).replace(") S", ") Z");
        assert_eq!(parse_stat(stat.as_bytes()), Some((42, 123_456, true)));
        let threads_left = stat.replace("20 0 1 0", "20 0 2 0");
        assert_eq!(
            parse_stat(threads_left.as_bytes()),
            Some((42, 123_456, false))
        );
        assert_eq!(parse_stat(b"77 (a) Z 42"), None);
        assert_eq!(parse_stat(b""), None);
    }
}
