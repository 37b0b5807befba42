//! The word of the cloud that it takes this machine back, kept in the lock directory: whoever hears it
//! first writes it there, `--list` shows it, and every runner passes it on to its container's owner.

use std::fs;
use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use crate::clock;
use crate::lock::LockDir;

/// A machine that lives on for so long after its announced end was spared, or has come back.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(1800);
/// No notice is longer.
const BYTES_MAX: usize = 256;

/// What was announced. The file holds one line, `UNIX_SECONDS ACTION`; other programs may write it
/// too, where the cloud speaks to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notice {
    /// When, in seconds since the Unix epoch.
    pub(crate) at: u64,
    /// The cloud's word for what it will do: `terminate`, `stop`, `hibernate`.
    action: String,
}

impl Notice {
    /// `time` is in RFC 3339; one that cannot be read means now.
    pub(crate) fn new(action: &str, time: &str) -> Self {
        let time = clock::rfc3339(time).and_then(|at| Duration::try_from_secs_f64(at).ok());
        Self {
            at: time.unwrap_or_else(now).as_secs(),
            action: action.chars().filter(char::is_ascii_lowercase).collect(),
        }
    }

    /// What is announced here, if anything is.
    pub(crate) fn read(locks: &LockDir) -> Option<Self> {
        let path = locks.preempted();
        let text = fs::read_to_string(&path).ok()?;
        let line = text.get(..text.len().min(BYTES_MAX))?.lines().next();
        let mut words = line.unwrap_or_default().split_ascii_whitespace();
        let at = words.next().and_then(|word| word.parse().ok());
        // Whatever it says, somebody wrote it.
        let written = || fs::metadata(&path).and_then(|meta| meta.modified());
        let written = || written().ok()?.duration_since(UNIX_EPOCH).ok();
        let at = at.or_else(|| Some(written()?.as_secs()))?;
        let action = words.next().unwrap_or("terminate").to_owned();
        let spared = now().as_secs() > at.saturating_add(FORGOTTEN_AFTER.as_secs());
        (!spared).then_some(Self { at, action })
    }

    /// Writes it down.
    pub(crate) fn write(&self, locks: &LockDir) -> Result<(), String> {
        let path = locks.preempted();
        let mut beside = path.clone().into_os_string();
        beside.push(format!("~{}", std::process::id()));
        let written = fs::File::create(&beside)
            .and_then(|mut file| writeln!(file, "{} {}", self.at, self.action))
            .and_then(|()| fs::rename(&beside, &path));
        written.map_err(|e| format!("{}: {e}", path.display()))
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let time = clock::to_rfc3339(self.at);
        format!(
            "Cloud provider scheduled instance {} at {time}",
            self.action
        )
    }

    /// What it adds to a container's `runtime_status`, in the words that owners know.
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
    fn what_is_written_is_read_until_it_is_long_past() -> Result<(), String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let locks = LockDir::new(dir.path());
        assert_eq!(Notice::read(&locks), None);
        let soon = Notice {
            at: now().as_secs() + 120,
            action: "terminate".to_owned(),
        };
        soon.write(&locks)?;
        assert_eq!(Notice::read(&locks), Some(soon));
        let past = Notice::new("hibernate", "2020-01-01T00:00:00Z");
        past.write(&locks)?;
        assert_eq!(Notice::read(&locks), None);
        assert_eq!(
            past.text(),
            "Cloud provider scheduled instance hibernate at 2020-01-01T00:00:00Z"
        );
        Ok(())
    }

    #[test]
    fn a_file_that_says_nothing_counts_from_when_it_was_written() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let locks = LockDir::new(dir.path());
        for text in ["", "soon", "\u{e9}\n"] {
            fs::write(locks.preempted(), text)?;
            let at = Notice::read(&locks).map(|notice| notice.at);
            let recent = at.is_some_and(|at| now().as_secs().abs_diff(at) < 600);
            assert!(recent, "{text:?}: {at:?}");
        }
        Ok(())
    }
}
