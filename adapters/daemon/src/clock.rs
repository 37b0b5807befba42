//! The time that inputs are stamped with.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use longshore_core::time::Timestamp;

/// Wall time, read once, plus monotonic time since: it never goes back, whatever is done to the
/// host's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    wall: Timestamp,
    anchor: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            wall: Timestamp::EPOCH + since_epoch.unwrap_or(Duration::ZERO),
            anchor: Instant::now(),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.wall + self.anchor.elapsed()
    }

    /// The same moment for timers; far away for [`Timestamp::NEVER`].
    pub(crate) fn instant(&self, at: Timestamp) -> tokio::time::Instant {
        let ahead = at.since(self.wall).min(Duration::from_secs(86_400 * 365));
        (self.anchor + ahead).into()
    }
}
