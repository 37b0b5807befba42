//! One multiplexed SSH connection per VM, with a deadline on every step.
//!
//! - [`pool`]: who is at the other end, and one command on it: a connection for each VM, the proof of
//!   its identity, what comes out of a command and what its absence means.
//! - [`remote`]: what the core wants of a VM, in the words of the runner's command line.
//!
//! No private key, instance secret or standard input ever gets into an error or a log line. The SSH
//! library logs packets below `info`: keep its targets (`russh`) at `info` or above.

mod address;
mod boot;
mod connection;
mod exec;
mod gate;
mod link;
mod list;
pub mod pool;
pub mod remote;
mod script;
mod settings;

pub use crate::exec::{Exec, ExecError, Exit, Output};
pub use crate::list::parse_list;
pub use crate::pool::{InstanceKey, Pool, Target};
pub use crate::remote::Remote;
pub use crate::script::init_script;
pub use crate::settings::{
    KeyError, RemoteSettings, RunnerSource, SettingsError, SshKey, SshSettings,
};
