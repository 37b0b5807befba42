//! End to end over real parts: what the tests share.
//!
//! The tests run the program as an operator would: `longshore queue` and `longshore dispatch` as
//! processes with a configuration of their own, VMs of the loopback driver, real runners, real
//! commands. A [`Site`] holds all of it and leaves nothing behind.
//!
//! The program is built when a test needs it first; `LONGSHORE_BIN` names one that is there already.

mod api;
mod built;
mod container;
mod daemon;
mod procs;
mod ran;
mod setup;
mod site;
mod sshd;
mod wait;

pub use rustix::process::Signal;

pub use api::{Answer, Api};
pub use built::{longshore, runner, use_program};
pub use container::Container;
pub use daemon::Daemon;
pub use procs::{Process, end, is_alive, of_vms, send, tree_of};
pub use ran::{Ran, run, run_with_input, run_within};
pub use setup::Setup;
pub use site::Site;
pub use sshd::{SSHD, Sshd, free_port, keygen};
pub use wait::{PATIENCE, until, until_some};
