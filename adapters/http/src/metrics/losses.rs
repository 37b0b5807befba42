//! What is counted of VMs that never boot, and of those that the cloud takes back.

use longshore_core::event::Event;
use longshore_core::ids::TypeName;
use prometheus::{IntCounterVec, Registry};

use super::{counters, register};

/// Counters by instance type.
#[derive(Debug)]
pub(super) struct Losses {
    boot_pauses: IntCounterVec,
    announced: IntCounterVec,
    interruptions: IntCounterVec,
}

impl Losses {
    pub(super) fn new(registry: &Registry) -> Self {
        let by_type = |name, help| register(registry, counters(name, help, &["instance_type"]));
        Self {
            boot_pauses: by_type(
                "longshore_boot_pauses_total",
                "Pauses in creating instances of a type, because its boots failed in a row.",
            ),
            announced: by_type(
                "longshore_preemption_notices_total",
                "Instances that the cloud announced to take back, by type.",
            ),
            interruptions: by_type(
                "longshore_interruptions_total",
                "Containers interrupted because the cloud took back their instance, by its type.",
            ),
        }
    }

    /// Counts an event, if it is about any of this.
    pub(super) fn observe(&self, event: &Event) {
        let (counter, name) = match event {
            Event::BootsPaused { instance_type, .. } => (&self.boot_pauses, instance_type),
            Event::LossAnnounced { instance_type, .. } => (&self.announced, instance_type),
            Event::Interrupted { instance_type, .. } => (&self.interruptions, instance_type),
            _ => return,
        };
        counter.with_label_values(&[name.as_str()]).inc();
    }

    /// Shows a type that nothing has happened to yet.
    pub(super) fn begin_at_zero(&self, name: &TypeName) {
        for counter in [&self.boot_pauses, &self.announced, &self.interruptions] {
            counter.with_label_values(&[name.as_str()]);
        }
    }
}
