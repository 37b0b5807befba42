//! Process information from `/proc`.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// State of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    state: u8,
    /// Start time in clock ticks since boot: distinguishes processes with a reused pid.
    pub(crate) start: u64,
}

impl Stat {
    /// True if the process has ended and is not yet reaped.
    pub(crate) fn is_dead(self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }

    /// True if the process is stopped.
    pub(crate) fn is_stopped(self) -> bool {
        matches!(self.state, b'T' | b't')
    }
}

/// Reads the state of a process; `None` if the process does not exist.
pub(crate) fn stat(pid: i32) -> Option<Stat> {
    parse_stat(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Parses `/proc/PID/stat`. The process name may contain brackets and spaces: only fields after the
/// last bracket are parsed.
fn parse_stat(pid: i32, text: &str) -> Option<Stat> {
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    Some(Stat {
        pid,
        state: *fields.next()?.as_bytes().first()?,
        parent: fields.next()?.parse().ok()?,
        start: fields.nth(17)?.parse().ok()?,
    })
}

/// True if the process is alive, and was started at `start` if known.
pub(crate) fn is_alive(pid: i32, start: Option<u64>) -> bool {
    stat(pid).is_some_and(|now| !now.is_dead() && start.is_none_or(|start| start == now.start))
}

/// Returns all live processes.
pub(crate) fn all() -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(stat)
        .filter(|stat| !stat.is_dead())
        .collect()
}

/// True if a signal would not kill the process, because the signal is handled or ignored.
pub(crate) fn handles_signal(pid: i32, signal: i32) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
        return false;
    };
    let masks = status.lines().filter_map(|line| {
        line.strip_prefix("SigIgn:")
            .or_else(|| line.strip_prefix("SigCgt:"))
    });
    masks
        .filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .any(|mask| mask >> (signal - 1) & 1 == 1)
}

/// Identity of a file, independent of its path.
#[derive(Debug, Clone)]
pub(crate) struct FileId {
    name: String,
    device: u64,
    inode: u64,
}

impl FileId {
    /// Returns the identity of an existing file.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        let name = path.file_name()?.to_str()?.to_owned();
        Some(Self {
            name,
            device: meta.dev(),
            inode: meta.ino(),
        })
    }

    /// True if the process has the file open.
    pub(crate) fn is_open_in(&self, pid: i32) -> bool {
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            return false;
        };
        entries.flatten().map(|entry| entry.path()).any(|fd| {
            // Read the link first: `stat` on a file of a dead network mount never returns.
            let named = fs::read_link(&fd).is_ok_and(|target| {
                target
                    .file_name()
                    .and_then(|n| n.to_str())
                    .is_some_and(|n| n.starts_with(&self.name))
            });
            named
                && fs::metadata(&fd)
                    .is_ok_and(|meta| (meta.dev(), meta.ino()) == (self.device, self.inode))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_name_with_brackets_is_skipped() {
        let text = "7 (a) R 1 (b) S 42 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 0 0";
        assert_eq!(
            parse_stat(7, text),
            Some(Stat {
                pid: 7,
                parent: 42,
                state: b'S',
                start: 12345
            })
        );
        assert_eq!(parse_stat(7, "7 (x"), None);
    }

    #[test]
    fn is_alive_compares_start_time() {
        let me = i32::try_from(std::process::id()).unwrap_or_default();
        let start = stat(me).map(|stat| stat.start);
        assert!(is_alive(me, start) && is_alive(me, None));
        assert!(!is_alive(me, start.map(|start| start + 1)));
        assert!(all().iter().any(|stat| stat.pid == me));
    }

    #[test]
    fn open_file_is_found_by_identity() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("some.lock");
        let file = fs::File::create(&path)?;
        let id = FileId::of(&path).ok_or(std::io::ErrorKind::NotFound)?;
        let me = i32::try_from(std::process::id()).unwrap_or_default();
        assert!(id.is_open_in(me));
        drop(file);
        assert!(!id.is_open_in(me));
        Ok(())
    }
}
