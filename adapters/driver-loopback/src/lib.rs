//! Cloud of VMs on this host: one SSH server process per VM, running real processes.
//!
//! A VM is a process detached from its creator. The process serves SSH on 127.0.0.1 with its own
//! host key and has its own directory in `<state dir>/vms`. The state directory is the only state:
//! [`LoopbackCloud`] keeps nothing in memory, so a restarted dispatcher finds every VM and its
//! processes again.
//!
//! | in the directory of a VM | |
//! |---|---|
//! | `instance.json`, `tags.json`, `process.json`, `address` | description of the VM |
//! | `secret`, `init-script` | mode 0600; the script is deleted after its run, both at termination
//! |
//! | `home`, `lock`, `scratch`, `log` | directories for commands on the VM, named in the
//! environment as `HOME`, `LONGSHORE_LOCK_DIR`, … |
//! | `vm.lock` | locked by the VM process during its lifetime |
//! | `vm.log`, `init.log` | output of the VM process and of the init script |
//! | `terminating`, `terminated.json` | termination in progress; termination complete |
//!
//! Limitations:
//! - Instance types are not enforced: all VMs share the processors, memory, disk and file system of
//!   the host. Commands run as the user of the dispatcher.
//! - Destroying a VM kills every descendant of its process and every process with the directory of
//!   the VM in the environment. A process with a cleared environment is not found if the VM process
//!   was killed before.
//! - No VM survives a reboot of the host. A service manager that terminates all processes of the
//!   dispatcher's group (systemd's default `KillMode`) also terminates the VMs.

mod cloud;
mod files;
mod params;
mod procfs;
mod store;
mod terminate;
mod vm;

pub use cloud::{LoopbackCloud, SetupError};
pub use longshore_driver::params::ParamError;
pub use params::{LoopbackParams, VmProgram};
pub use vm::{VmRunError, run_vm};
