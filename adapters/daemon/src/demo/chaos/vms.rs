//! What happens to VMs: each gets its lot when the dispatcher tells that it was created.

use std::path::{Path, PathBuf};
use std::time::Duration;

use longshore_core::event::Event;
use longshore_core::ids::VmName;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::task::JoinHandle;

use super::{Fault, Storm, Target};

/// A VM lives so long before it is struck, and up to as long again.
const STRIKE_AFTER: Duration = Duration::from_secs(3);
/// Until all of a VM's processes are ended, some may start others.
const ROUNDS: u32 = 20;
const ROUND_PAUSE: Duration = Duration::from_millis(10);
/// While this file is there, the demo's boot probe fails.
const REFUSES: &str = "refuses";
/// As the runner writes it when its machine is unfit.
const BROKEN: &str = "lock/crunch-run-broken";

/// Succeeds where a VM was not told to refuse.
pub(crate) fn boot_probe() -> String {
    format!("test ! -e \"$LONGSHORE_VM_DIR/{REFUSES}\"")
}

/// Strikes VMs below `root` as the storm deals, until the events end.
pub(crate) fn strike(storm: Storm, root: PathBuf, mut events: Receiver<Event>) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            match events.recv().await {
                Ok(Event::Created { instance, .. }) => {
                    let lot = Lot {
                        storm: storm.clone(),
                        dir: root.join(instance.as_str()),
                        instance,
                    };
                    lot.draw();
                }
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    })
}

struct Lot {
    storm: Storm,
    instance: VmName,
    dir: PathBuf,
}

impl Lot {
    fn draw(self) {
        let (Some(fault), chance) = self.storm.deal(Target::Vm) else {
            return;
        };
        let pause = match fault {
            Fault::VmRefuses => Duration::ZERO,
            _ => STRIKE_AFTER + STRIKE_AFTER * u32::try_from(chance).unwrap_or(0) / 1000,
        };
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let struck = match fault {
                Fault::VmRefuses => self.write(REFUSES),
                Fault::VmBroken => self.write(BROKEN),
                Fault::VmFreezes => self.signal(Signal::STOP).await,
                _ => self.signal(Signal::KILL).await,
            };
            if struck {
                self.storm.count_vm(fault, self.instance.as_str());
            } else {
                self.storm.put_back(Target::Vm, fault);
            }
        });
    }

    /// False where the VM is gone already: its directory may stay behind.
    fn write(&self, name: &str) -> bool {
        !processes_of(&self.dir).is_empty() && std::fs::write(self.dir.join(name), "").is_ok()
    }

    /// Signals everything on the VM, and the VM; false where nothing was there any more.
    async fn signal(&self, signal: Signal) -> bool {
        let mut struck = false;
        for _ in 0..ROUNDS {
            let processes = processes_of(&self.dir);
            for pid in &processes {
                // One that has just ended by itself is as good.
                let _ = kill_process(*pid, signal);
            }
            struck |= !processes.is_empty();
            if processes.is_empty() {
                break;
            }
            tokio::time::sleep(ROUND_PAUSE).await;
        }
        struck
    }
}

/// The processes of the VM with this directory, by what their environment says.
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
