//! Preemption notice of the cloud, stored in the lock directory: written by the first receiver,
//! shown by `--list`, and reported by every runner to the container's owner.

use std::fs;
use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use crate::lock::LockDir;
use crate::time_format;

/// Age after which a notice is obsolete: the VM was spared, or restarted.
const OBSOLETE_AFTER: Duration = Duration::from_secs(1800);
/// Maximum size of a notice.
const BYTES_MAX: usize = 256;

/// Preemption notice. The file contains one line, `UNIX_SECONDS ACTION`; other programs may write
/// the file, where the cloud sends notices to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PreemptionNotice {
    /// Time of the preemption, in seconds since the Unix epoch.
    pub(crate) at: u64,
    /// Action announced by the cloud: `terminate`, `stop`, `hibernate`.
    action: String,
}

impl PreemptionNotice {
    /// Creates a notice. `time` is in RFC 3339; an invalid time means now.
    pub(crate) fn new(action: &str, time: &str) -> Self {
        let time = time_format::rfc3339(time).and_then(|at| Duration::try_from_secs_f64(at).ok());
        Self {
            at: time.unwrap_or_else(now).as_secs(),
            action: action.chars().filter(char::is_ascii_lowercase).collect(),
        }
    }

    /// Reads the notice from the lock directory; `None` without a current notice.
    pub(crate) fn read(locks: &LockDir) -> Option<Self> {
        let path = locks.preempted();
        let text = fs::read_to_string(&path).ok()?;
        let line = text.get(..text.len().min(BYTES_MAX))?.lines().next();
        let mut words = line.unwrap_or_default().split_ascii_whitespace();
        let at = words.next().and_then(|word| word.parse().ok());
        // The existence of the file counts, even without a valid time.
        let written = || fs::metadata(&path).and_then(|meta| meta.modified());
        let written = || written().ok()?.duration_since(UNIX_EPOCH).ok();
        let at = at.or_else(|| Some(written()?.as_secs()))?;
        let action = words.next().unwrap_or("terminate").to_owned();
        let spared = now().as_secs() > at.saturating_add(OBSOLETE_AFTER.as_secs());
        (!spared).then_some(Self { at, action })
    }

    /// Writes the notice to the lock directory.
    pub(crate) fn write(&self, locks: &LockDir) -> Result<(), String> {
        let path = locks.preempted();
        let mut beside = path.clone().into_os_string();
        beside.push(format!("~{}", std::process::id()));
        let written = fs::File::create(&beside)
            .and_then(|mut file| writeln!(file, "{} {}", self.at, self.action))
            .and_then(|()| fs::rename(&beside, &path));
        written.map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Text for people.
    pub(crate) fn text(&self) -> String {
        let time = time_format::to_rfc3339(self.at);
        format!(
            "Cloud provider scheduled instance {} at {time}",
            self.action
        )
    }

    /// Entries for a container's `runtime_status`, with the keys known to owners.
    pub(crate) fn status(&self) -> Map<String, Value> {
        let text = self.text();
        let mut status = Map::new();
        status.insert("warning".to_owned(), "preemption notice".into());
        status.insert("warningDetail".to_owned(), text.clone().into());
        status.insert("preemptionNotice".to_owned(), text.into());
        status
    }
}

fn now() -> Duration {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notice_is_read_until_obsolete() -> Result<(), String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let locks = LockDir::new(dir.path());
        assert_eq!(PreemptionNotice::read(&locks), None);
        let soon = PreemptionNotice {
            at: now().as_secs() + 120,
            action: "terminate".to_owned(),
        };
        soon.write(&locks)?;
        assert_eq!(PreemptionNotice::read(&locks), Some(soon));
        let past = PreemptionNotice::new("hibernate", "2020-01-01T00:00:00Z");
        past.write(&locks)?;
        assert_eq!(PreemptionNotice::read(&locks), None);
        assert_eq!(
            past.text(),
            "Cloud provider scheduled instance hibernate at 2020-01-01T00:00:00Z"
        );
        Ok(())
    }

    #[test]
    fn notice_without_time_uses_file_time() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let locks = LockDir::new(dir.path());
        for text in ["", "soon", "\u{e9}\n"] {
            fs::write(locks.preempted(), text)?;
            let at = PreemptionNotice::read(&locks).map(|notice| notice.at);
            let recent = at.is_some_and(|at| now().as_secs().abs_diff(at) < 600);
            assert!(recent, "{text:?}: {at:?}");
        }
        Ok(())
    }
}
