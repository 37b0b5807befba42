//! One multiplexed SSH connection per VM, with a deadline on every step.
//!
//! - [`pool`] – one connection per VM, the check of the VM's identity, and commands with defined
//!   results, including the meaning of a missing result.
//! - [`remote`] – the operations of the core on a VM, by the command line of the runner.
//!
//! Private keys, instance secrets and standard input never appear in errors or log lines. The SSH
//! library logs packets below `info`: keep its targets (`russh`) at `info` or above.

mod address;
mod boot;
mod connection;
mod exec;
mod host_key_check;
mod list;
pub mod pool;
pub mod remote;
mod script;
mod settings;
mod vm_link;

pub use crate::exec::{Exec, ExecError, Exit, Output};
pub use crate::list::parse_list;
pub use crate::pool::{InstanceKey, Pool, Target};
pub use crate::remote::Remote;
pub use crate::script::init_script;
pub use crate::settings::{
    KeyError, RemoteSettings, RunnerSource, SettingsError, SshKey, SshSettings,
};
