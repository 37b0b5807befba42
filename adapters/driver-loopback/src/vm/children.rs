//! Starts child processes and reaps all exited processes, including orphans.

use std::collections::HashMap;
use std::io;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Child processes with a waiting receiver of the exit status. The VM process inherits all orphans,
/// so a single reaper collects every exit status. A started process is registered before its exit
/// status can be collected.
#[derive(Debug, Default)]
pub(super) struct Children {
    waiting: Mutex<HashMap<Pid, oneshot::Sender<WaitStatus>>>,
}

/// Started process.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) pid: Pid,
    /// Handle used only for the pipes of the process.
    pub(super) child: Child,
    /// Receiver of the exit status.
    pub(super) ended: oneshot::Receiver<WaitStatus>,
}

impl Children {
    /// Starts a task to reap every exited child of this process.
    pub(super) fn start_reaper() -> io::Result<Arc<Self>> {
        let children = Arc::new(Self::default());
        let mut child_signals = signal(SignalKind::child())?;
        let reaper = Arc::clone(&children);
        tokio::spawn(async move {
            while child_signals.recv().await.is_some() {
                reaper.reap();
            }
        });
        Ok(children)
    }

    /// Starts a process in a process group of its own.
    pub(super) fn spawn(&self, command: &mut Command) -> io::Result<Started> {
        use std::os::unix::process::CommandExt as _;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let child = command.process_group(0).spawn()?;
        let pid = Pid::from_child(&child);
        let (sender, ended) = oneshot::channel();
        waiting.insert(pid, sender);
        Ok(Started { pid, child, ended })
    }

    /// Sends a signal to the process group of a started process, unless the process has exited and
    /// its id may be reused.
    pub(super) fn signal_group(&self, pid: Pid, signal: Signal) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.contains_key(&pid) {
            // Fails only if all processes of the group have exited.
            let _ = rustix::process::kill_process_group(pid, signal);
        }
    }

    fn reap(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    if let Some(sender) = waiting.remove(&pid) {
                        // The receiver is dropped if its connection was lost.
                        let _ = sender.send(status);
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }
}
