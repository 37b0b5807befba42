//! Starting processes and noticing their ends, orphans included.

use std::collections::HashMap;
use std::io;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// The processes of which somebody waits for the end. As the VM inherits every orphan, one place
/// takes the status of all; a started process is entered before its end can be taken.
#[derive(Debug, Default)]
pub(super) struct Children {
    waiting: Mutex<HashMap<Pid, oneshot::Sender<WaitStatus>>>,
}

/// A process that was started.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) pid: Pid,
    /// For its pipes only.
    pub(super) child: Child,
    /// Its end.
    pub(super) ended: oneshot::Receiver<WaitStatus>,
}

impl Children {
    /// From here on every child of this process is taken care of.
    pub(super) fn watch() -> io::Result<Arc<Self>> {
        let children = Arc::new(Self::default());
        let mut deaths = signal(SignalKind::child())?;
        let watched = Arc::clone(&children);
        tokio::spawn(async move {
            while deaths.recv().await.is_some() {
                watched.reap();
            }
        });
        Ok(children)
    }

    /// Starts a process in a group of its own.
    pub(super) fn spawn(&self, command: &mut Command) -> io::Result<Started> {
        use std::os::unix::process::CommandExt as _;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let child = command.process_group(0).spawn()?;
        let pid = Pid::from_child(&child);
        let (tell, ended) = oneshot::channel();
        waiting.insert(pid, tell);
        Ok(Started { pid, child, ended })
    }

    /// Sends a signal to a started process and its group, unless the process has ended: then the
    /// number may be another's.
    pub(super) fn signal_group(&self, pid: Pid, signal: Signal) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.contains_key(&pid) {
            // Fails only if all of them have ended.
            let _ = rustix::process::kill_process_group(pid, signal);
        }
    }

    fn reap(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    if let Some(tell) = waiting.remove(&pid) {
                        // Nobody listens any longer if its connection was lost.
                        let _ = tell.send(status);
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }
}
