//! Own rate limits: in any span of time no more calls than a burst and the refill of the span.

use std::collections::BTreeMap;

use longshore_core::command::{Action, CloudAction, Command, VmAction};
use longshore_core::config::Rate;
use longshore_core::input::Input;
use longshore_core::time::Timestamp;

use crate::checks::check::{Check, Context, LEAVES_MAX};
use crate::world::observation::Findings;

/// No class of calls exceeds its rate limit.
#[derive(Debug, Default)]
pub(super) struct Rates {
    /// Time at which the token bucket of each class of calls is full again.
    full_at: [BTreeMap<&'static str, Timestamp>; 2],
}

impl Check for Rates {
    fn on_input(&mut self, at: &Context<'_>, input: &Input) {
        if let Input::Reconfigured(_) = input {
            self.full_at[at.process].clear();
        }
    }

    fn on_leadership_change(&mut self, at: &Context<'_>, _: bool) {
        self.full_at[at.process].clear();
    }

    fn on_command(&mut self, at: &Context<'_>, command: &Command, findings: &mut Findings) {
        if at.now() <= at.process().stalled_until + LEAVES_MAX {
            // Decisions from before the stall leave together with the present ones.
            self.full_at[at.process].clear();
        }
        let limits = &at.config().limits;
        let class = match &command.action {
            Action::Queue(_) => return,
            Action::Cloud { action, .. } => match action {
                CloudAction::Create { .. } => ("creates", limits.creates),
                CloudAction::Destroy { .. } => ("destroys", limits.destroys),
                CloudAction::List => ("lists", limits.lists),
                CloudAction::Tag { .. } => ("tags", None),
            },
            Action::Vm { action, .. } => match action {
                VmAction::Probe { .. } => ("probes", limits.probes),
                VmAction::Start { .. } | VmAction::Signal { .. } => return,
            },
        };
        self.pass(at, class, findings);
        if let Action::Cloud { .. } = &command.action {
            self.pass(at, ("calls", limits.cloud_ops), findings);
        }
    }
}

impl Rates {
    fn pass(
        &mut self,
        at: &Context<'_>,
        (class, rate): (&'static str, Option<Rate>),
        findings: &mut Findings,
    ) {
        let Some(rate) = rate else { return };
        let now = at.now();
        let full_at = self.full_at[at.process].entry(class).or_insert(now);
        *full_at = (*full_at).max(now) + rate.interval;
        let debt = full_at.since(now);
        if debt > rate.interval * rate.burst + LEAVES_MAX {
            let text = format!("{class} are ahead of their rate by {debt:?}");
            findings.violate("rates", text);
        }
    }
}
