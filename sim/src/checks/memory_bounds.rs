//! Whether the core remembers no more than what lives, and nothing once all is done.

use std::time::Duration;

use longshore_core::MemoryStats;
use longshore_core::event::Event;
use longshore_core::ids::InstanceId;

use crate::world::World;

impl World {
    /// So long after the last thing has ended nothing is awaited any more: longer than any deadline
    /// and than two lists that come after the grace.
    pub(crate) fn rest(&self) -> Duration {
        let config = &self.plan.config;
        let timeouts = &config.timeouts;
        let lists = (timeouts.cloud_answer + config.intervals.sync) * 2 + timeouts.disappear_grace;
        lists + timeouts.queue_answer + timeouts.vm_answer * 3
    }

    /// The first process tells that an instance is gone.
    pub(crate) fn rest_event(&mut self, index: usize, event: &Event) {
        if let (0, Event::Gone { instance, .. }) = (index, event) {
            let id = InstanceId::from(instance.as_str());
            self.facts.gone.insert(id, self.scheduler.now);
        }
    }

    /// More than a process may remember, given what it knows and what lives.
    pub(crate) fn excess(&self, sizes: &MemoryStats) -> Vec<String> {
        let process = &self.processes.all[0];
        if process.drain_due {
            return Vec::new();
        }
        let (containers, instances) = (sizes.containers, sizes.instances);
        let open = process.ledger.open_count();
        let types = self.plan.config.types.len();
        let bounds = [
            ("shapes", sizes.classes, containers),
            ("commands under way", sizes.pending, open),
            ("signals", sizes.signals, open),
            (
                "timers",
                sizes.timers,
                2 * containers + 3 * instances + sizes.runners + sizes.pending + 8,
            ),
            ("buried instances", sizes.tombstones, self.facts.gone.len()),
            ("touched", sizes.dirty, 0),
            ("verdicts", sizes.verdicts, sizes.classes + containers),
            ("limits", sizes.limits, 8 * types + 16),
        ];
        let over = bounds.iter().filter(|(_, count, max)| count > max);
        over.map(|(what, count, max)| format!("{count} {what}, no more than {max}: {sizes:?}"))
            .collect()
    }

    /// All is done, and has been for a while: only the next looks at queue and cloud are remembered.
    pub(crate) fn check_rest(&mut self) {
        let Some(core) = &self.processes.all[0].core else {
            return;
        };
        let sizes = core.memory_stats();
        let nothing = [
            sizes.containers,
            sizes.classes,
            sizes.instances,
            sizes.runners,
            sizes.signals,
            sizes.tombstones,
            sizes.records,
            sizes.dirty,
            sizes.verdicts,
        ];
        let little = sizes.pending <= 2 && sizes.timers <= sizes.pending + 4;
        if nothing != [0; 9] || !little {
            let text = format!("all is done, and the core has {sizes:?}");
            self.scheduler.violate("bounded memory", text);
        }
    }
}
