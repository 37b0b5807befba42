//! Waiting for what no event tells.

use std::time::{Duration, Instant};

/// Whatever a test waits for has happened by then, or will not.
pub const PATIENCE: Duration = Duration::from_secs(60);

const PAUSE: Duration = Duration::from_millis(25);

/// Waits until it happens.
///
/// # Panics
/// If it has not happened within [`PATIENCE`].
pub fn until(what: &str, mut happens: impl FnMut() -> bool) {
    until_some(what, || happens().then_some(()));
}

/// Waits until there is a value.
///
/// # Panics
/// If there is none within [`PATIENCE`].
pub fn until_some<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    until_some_within(PATIENCE, what, look)
}

/// Waits until there is a value, for as long as this.
///
/// # Panics
/// If there is none by then.
pub(crate) fn until_some_within<T>(
    patience: Duration,
    what: &str,
    mut look: impl FnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        std::thread::sleep(PAUSE);
    }
}
