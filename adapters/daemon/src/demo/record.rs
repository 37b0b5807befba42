//! Recorder of the demo's events.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use longshore_core::event::Event;
use longshore_core::ids::{ContainerId, TypeName, VmName};
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::task::JoinHandle;

/// Dispatch of one container to a VM.
#[derive(Clone, Debug, Default)]
pub(super) struct Dispatch {
    pub(super) instance: String,
    /// Time from the submission of the container to the start of the runner.
    pub(super) waited: Duration,
    /// Time from the presence of both the container and a ready VM with capacity to the
    /// confirmation by the runner.
    pub(super) latency: Option<Duration>,
    ready_wait: Duration,
    issued: Option<Instant>,
}

/// Lifetime of one VM.
#[derive(Clone, Debug)]
pub(super) struct Lifetime {
    pub(super) instance_type: TypeName,
    from: Instant,
    to: Option<Instant>,
}

impl Lifetime {
    pub(super) fn lasted(&self, end: Instant) -> Duration {
        self.to.unwrap_or(end).saturating_duration_since(self.from)
    }
}

/// Recorded events.
#[derive(Clone, Debug, Default)]
pub(super) struct Record {
    pub(super) dispatches: BTreeMap<ContainerId, Dispatch>,
    pub(super) lifetimes: BTreeMap<VmName, Lifetime>,
    /// Number of transitions of each container into a final state.
    pub(super) ends: BTreeMap<ContainerId, u32>,
    /// Number of events lost by the recorder as too slow a receiver.
    pub(super) lost: u64,
}

/// Records in a background task.
pub(super) struct Recorder {
    record: Arc<Mutex<Record>>,
    task: JoinHandle<()>,
}

impl Recorder {
    pub(super) fn start(mut events: Receiver<Event>) -> Self {
        let record = Arc::new(Mutex::new(Record::default()));
        let shared = Arc::clone(&record);
        let task = tokio::spawn(async move {
            loop {
                let event = events.recv().await;
                let mut record = shared.lock().unwrap_or_else(PoisonError::into_inner);
                match event {
                    Ok(event) => record.observe(&event),
                    Err(RecvError::Lagged(count)) => record.lost += count,
                    Err(RecvError::Closed) => break,
                }
            }
        });
        Self { record, task }
    }

    /// Number of VMs by type.
    pub(super) fn progress(&self) -> String {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let mut alive: BTreeMap<&TypeName, usize> = BTreeMap::new();
        for lifetime in record
            .lifetimes
            .values()
            .filter(|lifetime| lifetime.to.is_none())
        {
            *alive.entry(&lifetime.instance_type).or_default() += 1;
        }
        let counts = alive.iter().map(|(name, n)| format!("{n} {name}"));
        let counts: Vec<String> = counts.collect();
        match counts.as_slice() {
            [] => "no VMs".to_owned(),
            _ => format!("VMs: {}", counts.join(", ")),
        }
    }

    pub(super) fn finish(self) -> Record {
        self.task.abort();
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.clone()
    }
}

impl Record {
    fn observe(&mut self, event: &Event) {
        let now = Instant::now();
        match event {
            Event::StartIssued {
                container,
                instance,
                waited,
                ready_wait,
                ..
            } => {
                let dispatch = Dispatch {
                    instance: instance.to_string(),
                    waited: *waited,
                    ready_wait: *ready_wait,
                    issued: Some(now),
                    latency: None,
                };
                self.dispatches.insert(*container, dispatch);
            }
            Event::Started { container, .. } => {
                if let Some(dispatch) = self.dispatches.get_mut(container)
                    && let Some(issued) = dispatch.issued
                {
                    dispatch.latency = Some(dispatch.ready_wait + (now - issued));
                }
            }
            Event::Created {
                instance,
                instance_type,
                ..
            } => {
                let lifetime = Lifetime {
                    instance_type: instance_type.clone(),
                    from: now,
                    to: None,
                };
                self.lifetimes.insert(instance.clone(), lifetime);
            }
            Event::ContainerState { container, to, .. } if to.is_final() => {
                *self.ends.entry(*container).or_default() += 1;
            }
            Event::Gone { instance, .. } => {
                if let Some(lifetime) = self.lifetimes.get_mut(instance) {
                    lifetime.to = Some(now);
                }
            }
            _ => {}
        }
    }
}
