//! User processes: at most one of each container, and none after completion.

use longshore_core::ids::ContainerId;

use crate::checks::check::{Check, Context};
use crate::world::events::RunnerId;
use crate::world::observation::Findings;

/// No container runs twice.
#[derive(Debug, Default)]
pub(super) struct UserProcesses;

impl Check for UserProcesses {
    fn on_program_start(
        &mut self,
        at: &Context<'_>,
        container: ContainerId,
        runner: RunnerId,
        other: Option<RunnerId>,
        findings: &mut Findings,
    ) {
        if let Some(other) = other {
            let text = format!("{container} runs in both {other:?} and {runner:?}");
            findings.violate("one user process", text);
        }
        if at.world.queue.has_completed(container) {
            let text = format!("{container} runs again after its completion");
            findings.violate("never again", text);
        }
    }
}
