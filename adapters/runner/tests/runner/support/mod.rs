//! A containers API in this process, and a place that stands for a VM.

mod server;
mod vm;

pub(crate) use server::{Server, World};
pub(crate) use vm::{Vm, finish, groups_of, processes_of};

use std::time::{Duration, Instant};

/// Everything here takes milliseconds; a loaded machine gets this long.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Waits for a condition that nothing announces.
pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
