//! `MaxSchedulingTime`: no container is cancelled for its wait too early, or because of limits set by
//! the operator.

use std::collections::BTreeMap;
use std::time::Duration;

use longshore_core::command::Command;
use longshore_core::ids::ContainerId;
use longshore_core::time::Timestamp;
use longshore_core::{CreateBlocked, WaitReason};

use crate::checks::arrivals::PlannedEnd;
use crate::checks::check::{Check, Context, DRAIN_MAX, Look};
use crate::world::events::Origin;
use crate::world::observation::Findings;

/// A container cancelled for its wait has waited for the cloud.
#[derive(Debug, Default)]
pub(super) struct SchedulingTimeout {
    looked_at: Option<Timestamp>,
    /// Time for which each container was seen to wait for limits set by the operator.
    own_limits: BTreeMap<ContainerId, Duration>,
}

impl Check for SchedulingTimeout {
    fn on_look(&mut self, at: &Context<'_>, look: Option<&Look<'_>>, _: &mut Findings) {
        let before = self.looked_at.replace(at.now());
        let gap = before.map_or(Duration::ZERO, |before| at.now().since(before));
        let timeout = at.config().timeouts.scheduling;
        let Some(look) = look.filter(|_| timeout.is_some()) else {
            return;
        };
        for container in look.containers() {
            if let Some(WaitReason::CreateBlocked(blocked)) = &container.waiting
                && blocked.iter().any(|(_, why)| is_own_limit(why))
            {
                *self.own_limits.entry(container.id).or_default() += gap;
            }
        }
    }

    fn on_arrival(
        &mut self,
        at: &Context<'_>,
        _: Origin,
        command: &Command,
        findings: &mut Findings,
    ) {
        if let Some(end) = PlannedEnd::of(at, command)
            && end.is_scheduling_timeout(at)
            && let Some(wrong) = self.too_early(at, &end)
        {
            findings.violate("true ends", end.text(&wrong));
        }
    }
}

impl SchedulingTimeout {
    /// Describes the time still to wait. Looks are rare, so half of the time is not judged.
    fn too_early(&self, at: &Context<'_>, end: &PlannedEnd<'_>) -> Option<String> {
        let Some(max) = at.config().timeouts.scheduling else {
            return Some("no MaxSchedulingTime is set".to_owned());
        };
        let waited = at.now().since(end.record.submitted_at);
        let own = self.own_limits.get(&end.id).copied();
        let own = own.unwrap_or_default();
        let early = waited + DRAIN_MAX < max || waited < own + max / 2;
        early.then(|| format!("it waited for {waited:?}, {own:?} of it for limits of our own"))
    }
}

/// True for limits set by the operator, as opposed to refusals of the world.
fn is_own_limit(why: &CreateBlocked) -> bool {
    matches!(
        why,
        CreateBlocked::MaxInstances
            | CreateBlocked::MaxPricePerHour
            | CreateBlocked::Budget { .. }
            | CreateBlocked::Containers { .. }
            | CreateBlocked::Supervisors { .. }
    )
}
