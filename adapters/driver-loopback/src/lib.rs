//! VMs on this host: a real SSH server each, running real processes.
//!
//! Each "VM" is a process of its own, detached from the one that created it, that serves SSH on
//! 127.0.0.1 with its own host key and its own directory below `<state dir>/vms`. The state
//! directory alone is the truth: [`LoopbackCloud`] keeps nothing in memory, so a dispatcher that was
//! killed finds every VM, and what runs on it, again.
//!
//! | in a VM's directory | |
//! |---|---|
//! | `instance.json`, `tags.json`, `process.json`, `address` | what it is |
//! | `secret`, `init-script` | mode 0600; the script is deleted once it has run, both at the end |
//! | `home`, `lock`, `scratch`, `log` | for what runs on it; known there as `HOME`, `LONGSHORE_LOCK_DIR`, … |
//! | `vm.lock` | locked by the VM's process as long as that lives |
//! | `vm.log`, `init.log` | what the VM's process and its init script had to say |
//! | `terminating`, `terminated.json` | it is to end; it has ended |
//!
//! What it does not do:
//! - Nothing enforces an instance type: all VMs share the processors, memory and disk of the host, and
//!   the file system. Commands run as the user who runs the dispatcher.
//! - Destroying a VM kills every descendant of its process and every process that has its directory in
//!   the environment. A process that cleared its environment and outlived a VM process that was itself
//!   killed by somebody else is not found.
//! - Nothing survives a reboot of the host. A service manager that ends all processes of the
//!   dispatcher's group (systemd's default `KillMode`) ends the VMs too.

mod cloud;
mod files;
mod params;
mod procs;
mod store;
mod vm;

pub use cloud::{LoopbackCloud, SetupError};
pub use longshore_driver::params::ParamError;
pub use params::{LoopbackParams, VmProgram};
pub use vm::{VmRunError, run_vm};
