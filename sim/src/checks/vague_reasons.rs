//! Presence of a reason to wait, for every waiting container.

use std::collections::BTreeMap;
use std::time::Duration;

use longshore_core::WaitReason;
use longshore_core::ids::ContainerId;
use longshore_core::input::ContainerState;
use longshore_core::time::Timestamp;

use crate::checks::check::{Check, Context, Look};
use crate::world::observation::Findings;

/// Longest wait with nothing but a vague reason.
const VAGUE_MAX: Duration = Duration::from_secs(900);

/// Every waiting container has a reason, and soon a specific one.
#[derive(Debug, Default)]
pub(super) struct VagueReasons {
    /// Containers with a vague reason at every look, with the time of the first such look.
    since: BTreeMap<ContainerId, Timestamp>,
}

impl Check for VagueReasons {
    fn on_look(&mut self, at: &Context<'_>, look: Option<&Look<'_>>, findings: &mut Findings) {
        let Some(look) = look.filter(|look| look.has_queue(at)) else {
            return self.since.clear();
        };
        let (now, queue) = (at.now(), &at.world.queue);
        let mut next = BTreeMap::new();
        for container in look.containers() {
            let id = container.id;
            let waits = matches!(
                container.state,
                ContainerState::Queued | ContainerState::Locked
            );
            match &container.waiting {
                None if waits => findings.violate("reasons", format!("{id} waits for no reason")),
                Some(WaitReason::LockedElsewhere) if queue.is_locked_elsewhere(id) => {}
                Some(
                    WaitReason::NotEvaluated | WaitReason::Updating | WaitReason::LockedElsewhere,
                ) => {
                    let since = self.since.get(&id).copied().unwrap_or(now);
                    if now.since(since) > VAGUE_MAX {
                        let why = &container.waiting;
                        let text = format!("{id} waits for {why:?} since {since}");
                        findings.violate("reasons", text);
                    }
                    next.insert(id, since);
                }
                _ => {}
            }
        }
        self.since = next;
    }
}
