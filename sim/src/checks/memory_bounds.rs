//! Bounds on the memory of the core: no more than the living containers and instances need, and
//! nothing after the end of all work.

use std::collections::BTreeMap;
use std::time::Duration;

use longshore_core::MemoryStats;
use longshore_core::event::Event;
use longshore_core::ids::InstanceId;
use longshore_core::input::Answer;
use longshore_core::time::Timestamp;

use crate::checks::check::{Check, Context, Look};
use crate::checks::ledger::Open;
use crate::world::observation::Findings;

/// Longest memory of an ended container without a runner.
const MEMORY_MAX: Duration = Duration::from_secs(2 * 3600);

/// The core forgets.
#[derive(Debug, Default)]
pub(super) struct MemoryBounds {
    /// Instances called gone by process 0, with the time: up to a list later than the grace period.
    gone: BTreeMap<InstanceId, Timestamp>,
}

impl Check for MemoryBounds {
    fn on_leadership_change(&mut self, at: &Context<'_>, _: bool) {
        if at.process == 0 {
            self.gone.clear();
        }
    }

    fn on_answer(&mut self, at: &Context<'_>, _: &Open, answer: &Answer, _: &mut Findings) {
        if let (0, Answer::Instances(Ok(_))) = (at.process, answer) {
            let (now, grace) = (at.now(), at.config().timeouts.disappear_grace);
            self.gone.retain(|_, gone| *gone + grace > now);
        }
    }

    fn on_event(&mut self, at: &Context<'_>, event: &Event, _: &mut Findings) {
        if let (0, Event::Gone { instance, .. }) = (at.process, event) {
            let id = InstanceId::from(instance.as_str());
            self.gone.insert(id, at.now());
        }
    }

    fn on_look(&mut self, at: &Context<'_>, look: Option<&Look<'_>>, findings: &mut Findings) {
        let Some(look) = look.filter(|look| look.has_queue(at)) else {
            return;
        };
        for text in self.excess(at, &look.core.memory_stats()) {
            findings.violate("bounded memory", text);
        }
        for container in look.containers() {
            let record = at.world.queue.records.get(&container.id);
            let ended = record.and_then(|record| record.ended_at);
            let old = ended.is_some_and(|ended| at.now().since(ended) > MEMORY_MAX);
            if container.instance.is_none() && old {
                let text = format!("{} is remembered for too long", container.id);
                findings.violate("bounded memory", text);
            }
        }
    }

    /// Only the next reads of the queue and the cloud remain.
    fn on_rest(&mut self, at: &Context<'_>, findings: &mut Findings) {
        let Some(core) = &at.process().core else {
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
            findings.violate("bounded memory", text);
        }
    }
}

impl MemoryBounds {
    /// Describes each collection of the core above its bound.
    fn excess(&self, at: &Context<'_>, sizes: &MemoryStats) -> Vec<String> {
        if at.process().drain_due {
            return Vec::new();
        }
        let (containers, instances) = (sizes.containers, sizes.instances);
        let open = at.ledger.open_count();
        let types = at.world.plan.config.types.len();
        let bounds = [
            ("container classes", sizes.classes, containers),
            ("open commands", sizes.pending, open),
            ("signals", sizes.signals, open),
            (
                "timers",
                sizes.timers,
                2 * containers + 3 * instances + sizes.runners + sizes.pending + 8,
            ),
            ("tombstones", sizes.tombstones, self.gone.len()),
            ("dirty entries", sizes.dirty, 0),
            ("verdicts", sizes.verdicts, sizes.classes + containers),
            ("limits", sizes.limits, 8 * types + 16),
        ];
        let over = bounds.iter().filter(|(_, count, max)| count > max);
        over.map(|(what, count, max)| format!("{count} {what}, no more than {max}: {sizes:?}"))
            .collect()
    }
}
