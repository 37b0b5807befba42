//! Harness of the end-to-end tests.
//!
//! The tests run the program like an operator: `longshore queue` and `longshore dispatch` as
//! processes with a configuration, VMs of the loopback driver, real runners, real commands. A
//! [`TestCluster`] owns all processes and files, and removes them at the end.
//!
//! The program is built on first use, unless `LONGSHORE_BIN` names an existing program.

mod api;
mod built;
mod cluster;
mod command_output;
mod container;
mod daemon;
mod procs;
mod setup;
mod sshd;
mod wait;

pub use rustix::process::Signal;

pub use api::{Answer, Api};
pub use built::{longshore, runner, use_program};
pub use cluster::TestCluster;
pub use command_output::{CommandOutput, run, run_with_input, run_within};
pub use container::Container;
pub use daemon::Daemon;
pub use procs::{Process, end, is_alive, of_vms, send, tree_of};
pub use setup::Setup;
pub use sshd::{SSHD, Sshd, free_port, keygen};
pub use wait::{TIMEOUT, until, until_some};
