//! Which processes exist, and what `/proc` says about each.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// One process at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    state: u8,
    /// When it started, in clock ticks since boot: tells two users of one pid apart.
    pub(crate) start: u64,
}

impl Stat {
    /// Whether it is dead already and only waits to be reaped.
    pub(crate) fn is_dead(self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }

    /// Whether a stop signal has taken effect.
    pub(crate) fn is_stopped(self) -> bool {
        matches!(self.state, b'T' | b't')
    }
}

/// What is known of a process, or nothing when there is none.
pub(crate) fn stat(pid: i32) -> Option<Stat> {
    parse_stat(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name may hold anything, brackets and spaces included: only what follows its end is trusted.
fn parse_stat(pid: i32, text: &str) -> Option<Stat> {
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    Some(Stat {
        pid,
        state: *fields.next()?.as_bytes().first()?,
        parent: fields.next()?.parse().ok()?,
        start: fields.nth(17)?.parse().ok()?,
    })
}

/// Whether the process lives, and is the one that started at `start` where that is known.
pub(crate) fn is_alive(pid: i32, start: Option<u64>) -> bool {
    stat(pid).is_some_and(|now| !now.is_dead() && start.is_none_or(|start| start == now.start))
}

/// All processes that live now.
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

/// Whether a signal would not kill the process: it has a handler for it or ignores it.
pub(crate) fn survives(pid: i32, signal: i32) -> bool {
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

/// A file by what it is, not by the path that led to it.
#[derive(Debug, Clone)]
pub(crate) struct FileId {
    name: String,
    device: u64,
    inode: u64,
}

impl FileId {
    /// The identity of a file that exists.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        let name = path.file_name()?.to_str()?.to_owned();
        Some(Self {
            name,
            device: meta.dev(),
            inode: meta.ino(),
        })
    }

    /// Whether the process has the file open.
    pub(crate) fn is_open_in(&self, pid: i32) -> bool {
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            return false;
        };
        entries.flatten().map(|entry| entry.path()).any(|fd| {
            // The link is read first, since asking about a file on a dead network mount never returns.
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
    fn a_hostile_process_name_does_not_confuse_the_fields() {
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
    fn this_process_is_alive_and_only_with_its_own_start_time() {
        let me = i32::try_from(std::process::id()).unwrap_or_default();
        let start = stat(me).map(|stat| stat.start);
        assert!(is_alive(me, start) && is_alive(me, None));
        assert!(!is_alive(me, start.map(|start| start + 1)));
        assert!(all().iter().any(|stat| stat.pid == me));
    }

    #[test]
    fn an_open_file_is_found_by_identity() -> std::io::Result<()> {
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
