//! Counters of failed boots, unexpected terminations and preemptions.

use longshore_core::ShutdownReason;
use longshore_core::event::Event;
use longshore_core::ids::TypeName;
use prometheus::{IntCounterVec, Registry};

use super::{counters, register};

/// Reasons of an unexpected termination.
const REASONS: [&str; 4] = ["boot_timeout", "unresponsive", "unkillable", "broken"];

/// Counters by instance type.
#[derive(Debug)]
pub(super) struct Disruptions {
    boot_backoffs: IntCounterVec,
    announced: IntCounterVec,
    interruptions: IntCounterVec,
    given_up: IntCounterVec,
}

impl Disruptions {
    pub(super) fn new(registry: &Registry) -> Self {
        let by_type = |name, help| register(registry, counters(name, help, &["instance_type"]));
        Self {
            boot_backoffs: by_type(
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
            given_up: register(
                registry,
                counters(
                    "longshore_unexpected_shutdowns_total",
                    "Instances given up though nobody wanted them to go, by reason and type; broken \
                     ones when they are drained.",
                    &["reason", "instance_type"],
                ),
            ),
        }
    }

    /// Counts an event of these kinds.
    pub(super) fn observe(&self, event: &Event) {
        if let Some((reason, name)) = given_up(event) {
            let labels = [reason, name.as_str()];
            self.given_up.with_label_values(&labels).inc();
        }
        let (counter, name) = match event {
            Event::BootBackoffStarted { instance_type, .. } => (&self.boot_backoffs, instance_type),
            Event::PreemptionNotice { instance_type, .. } => (&self.announced, instance_type),
            Event::Interrupted { instance_type, .. } => (&self.interruptions, instance_type),
            _ => return,
        };
        counter.with_label_values(&[name.as_str()]).inc();
    }

    /// Shows zero for a type without events.
    pub(super) fn begin_at_zero(&self, name: &TypeName) {
        for counter in [&self.boot_backoffs, &self.announced, &self.interruptions] {
            counter.with_label_values(&[name.as_str()]);
        }
        for reason in REASONS {
            self.given_up.with_label_values(&[reason, name.as_str()]);
        }
    }
}

fn given_up(event: &Event) -> Option<(&'static str, &TypeName)> {
    let [boot_timeout, unresponsive, unkillable, broken] = REASONS;
    match event {
        Event::Terminating {
            instance_type,
            reason,
            ..
        } => {
            let reason = match reason {
                ShutdownReason::BootTimeout => boot_timeout,
                ShutdownReason::Unresponsive => unresponsive,
                ShutdownReason::Unkillable => unkillable,
                ShutdownReason::Idle
                | ShutdownReason::Drained
                | ShutdownReason::MakeRoom
                | ShutdownReason::Operator(_) => return None,
            };
            Some((reason, instance_type))
        }
        Event::Broken {
            instance_type,
            held: false,
            ..
        } => Some((broken, instance_type)),
        _ => None,
    }
}
