//! What happens in the demo, as the dispatcher tells it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use longshore_core::event::Event;
use longshore_core::ids::{ContainerId, TypeName, VmName};
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::task::JoinHandle;

/// One container's way to its VM.
#[derive(Clone, Debug, Default)]
pub(super) struct Way {
    pub(super) instance: String,
    /// From its submission to the start of its runner.
    pub(super) waited: Duration,
    /// From when both it and a ready VM with room were there to when its runner had taken it.
    pub(super) dispatch: Option<Duration>,
    ready_wait: Duration,
    issued: Option<Instant>,
}

/// One VM's life.
#[derive(Clone, Debug)]
pub(super) struct Life {
    pub(super) instance_type: TypeName,
    from: Instant,
    to: Option<Instant>,
}

impl Life {
    pub(super) fn lasted(&self, end: Instant) -> Duration {
        self.to.unwrap_or(end).saturating_duration_since(self.from)
    }
}

/// What was recorded.
#[derive(Clone, Debug, Default)]
pub(super) struct Record {
    pub(super) ways: BTreeMap<ContainerId, Way>,
    pub(super) lives: BTreeMap<VmName, Life>,
    /// How often each container went into a state that is final.
    pub(super) ends: BTreeMap<ContainerId, u32>,
    /// Events that came too fast to be recorded.
    pub(super) lost: u64,
}

/// Records in the background.
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
                    Ok(event) => record.hear(&event),
                    Err(RecvError::Lagged(count)) => record.lost += count,
                    Err(RecvError::Closed) => break,
                }
            }
        });
        Self { record, task }
    }

    /// How many VMs there are, by type.
    pub(super) fn progress(&self) -> String {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let mut alive: BTreeMap<&TypeName, usize> = BTreeMap::new();
        for life in record.lives.values().filter(|life| life.to.is_none()) {
            *alive.entry(&life.instance_type).or_default() += 1;
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
    fn hear(&mut self, event: &Event) {
        let now = Instant::now();
        match event {
            Event::StartIssued {
                container,
                instance,
                waited,
                ready_wait,
                ..
            } => {
                let way = Way {
                    instance: instance.to_string(),
                    waited: *waited,
                    ready_wait: *ready_wait,
                    issued: Some(now),
                    dispatch: None,
                };
                self.ways.insert(*container, way);
            }
            Event::Started { container, .. } => {
                if let Some(way) = self.ways.get_mut(container)
                    && let Some(issued) = way.issued
                {
                    way.dispatch = Some(way.ready_wait + (now - issued));
                }
            }
            Event::Created {
                instance,
                instance_type,
                ..
            } => {
                let life = Life {
                    instance_type: instance_type.clone(),
                    from: now,
                    to: None,
                };
                self.lives.insert(instance.clone(), life);
            }
            Event::ContainerState { container, to, .. } if to.is_final() => {
                *self.ends.entry(*container).or_default() += 1;
            }
            Event::Gone { instance, .. } => {
                if let Some(life) = self.lives.get_mut(instance) {
                    life.to = Some(now);
                }
            }
            _ => {}
        }
    }
}
