//! Faults of VMs: a fault is drawn for each VM on the event of the VM's creation.

use std::path::{Path, PathBuf};
use std::time::Duration;

use longshore_core::event::Event;
use longshore_core::ids::VmName;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::task::JoinHandle;

use super::{Fault, FaultInjector, Target};

/// Minimum age of a VM at the fault; the maximum is twice as much.
const FAULT_DELAY: Duration = Duration::from_secs(3);
/// Number of attempts to signal all processes of a VM, since processes may start others meanwhile.
const ROUNDS: u32 = 20;
const ROUND_PAUSE: Duration = Duration::from_millis(10);
/// File whose presence fails the demo's boot probe.
const REFUSES: &str = "refuses";
/// File written by the runner on an unfit VM.
const BROKEN: &str = "lock/crunch-run-broken";

/// Boot probe command; succeeds unless the VM has the fault `VmRefuses`.
pub(crate) fn boot_probe() -> String {
    format!("test ! -e \"$LONGSHORE_VM_DIR/{REFUSES}\"")
}

/// Injects faults into VMs below `root` until the event stream ends.
pub(crate) fn inject(
    injector: FaultInjector,
    root: PathBuf,
    mut events: Receiver<Event>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            match events.recv().await {
                Ok(Event::Created { instance, .. }) => {
                    let vm_fault = VmFault {
                        injector: injector.clone(),
                        dir: root.join(instance.as_str()),
                        instance,
                    };
                    vm_fault.start();
                }
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    })
}

struct VmFault {
    injector: FaultInjector,
    instance: VmName,
    dir: PathBuf,
}

impl VmFault {
    fn start(self) {
        let (Some(fault), chance) = self.injector.draw(Target::Vm) else {
            return;
        };
        let pause = match fault {
            Fault::VmRefuses => Duration::ZERO,
            _ => FAULT_DELAY + FAULT_DELAY * u32::try_from(chance).unwrap_or(0) / 1000,
        };
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let injected = match fault {
                Fault::VmRefuses => self.write(REFUSES),
                Fault::VmBroken => self.write(BROKEN),
                Fault::VmFreezes => self.signal(Signal::STOP).await,
                _ => self.signal(Signal::KILL).await,
            };
            if injected {
                self.injector.count_vm(fault, self.instance.as_str());
            } else {
                self.injector.put_back(Target::Vm, fault);
            }
        });
    }

    /// Creates a file on the VM; false if the VM has ended, since the directory may remain.
    fn write(&self, name: &str) -> bool {
        !processes_of(&self.dir).is_empty() && std::fs::write(self.dir.join(name), "").is_ok()
    }

    /// Signals all processes on the VM and the VM itself; false if none was left.
    async fn signal(&self, signal: Signal) -> bool {
        let mut injected = false;
        for _ in 0..ROUNDS {
            let processes = processes_of(&self.dir);
            for pid in &processes {
                // A process may have ended meanwhile.
                let _ = kill_process(*pid, signal);
            }
            injected |= !processes.is_empty();
            if processes.is_empty() {
                break;
            }
            tokio::time::sleep(ROUND_PAUSE).await;
        }
        injected
    }
}

/// Processes of the VM with this directory, found by their environment.
fn processes_of(dir: &Path) -> Vec<Pid> {
    let marker = format!("LONGSHORE_VM_DIR={}", dir.display());
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let marked = |pid: &i32| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let mut variables = environ.split(|b| *b == 0);
        variables.any(|variable| variable == marker.as_bytes())
    };
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(marked).filter_map(Pid::from_raw).collect()
}
