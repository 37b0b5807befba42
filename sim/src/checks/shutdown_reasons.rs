//! Truth of the reasons for terminations: silence, boot timeout and unkillable containers, judged by
//! the facts known to the process.

use std::time::Duration;

use longshore_core::ShutdownReason;
use longshore_core::event::Event;
use longshore_core::ids::InstanceId;
use longshore_core::time::Timestamp;

use crate::checks::check::{Check, Context};
use crate::world::observation::Findings;

/// Several inputs may be taken before the next decisions.
const SLACK: Duration = Duration::from_secs(1);

/// No instance is terminated for a reason before the reason holds.
#[derive(Debug, Default)]
pub(super) struct ShutdownReasons;

impl Check for ShutdownReasons {
    fn on_event(&mut self, at: &Context<'_>, event: &Event, findings: &mut Findings) {
        let Event::Terminating {
            instance, reason, ..
        } = event
        else {
            return;
        };
        let id = InstanceId::from(instance.as_str());
        let now = at.now();
        let tombstone = at.ledger.tombstones.get(&id);
        if tombstone.is_some_and(|(before, until)| before == reason && now <= *until) {
            // Judged already, before the instance was gone.
            return;
        }
        let soonest = match reason {
            ShutdownReason::Unresponsive => unresponsive_from(at, &id),
            ShutdownReason::BootTimeout => boot_timeout_at(at, &id),
            ShutdownReason::Unkillable => unkillable_from(at, &id),
            ShutdownReason::Idle
            | ShutdownReason::Drained
            | ShutdownReason::MakeRoom
            | ShutdownReason::Operator(_) => return,
        };
        let wrong = match soonest {
            Ok(soonest) if now + SLACK < soonest => {
                format!("the reason holds from {soonest}, the time is {now}")
            }
            Ok(_) => return,
            Err(why) => why.to_owned(),
        };
        let text = format!("{id} is terminated ({reason}), but {wrong}");
        findings.violate("true shutdowns", text);
    }
}

fn unresponsive_from(at: &Context<'_>, id: &InstanceId) -> Result<Timestamp, &'static str> {
    let ledger = at.ledger;
    let last = ledger.probed_at.get(id).or(ledger.first_seen.get(id));
    let last = last.ok_or("no list has shown the instance")?;
    Ok(*last + at.config().timeouts.probe)
}

fn boot_timeout_at(at: &Context<'_>, id: &InstanceId) -> Result<Timestamp, &'static str> {
    let seen = at.ledger.first_seen.get(id);
    let seen = seen.ok_or("no list has shown the instance")?;
    Ok(*seen + at.config().timeouts.booting)
}

/// The first signal may have had to wait for the answer to the start.
fn unkillable_from(at: &Context<'_>, id: &InstanceId) -> Result<Timestamp, &'static str> {
    let timeouts = &at.config().timeouts;
    let terms = at.ledger.first_terms.iter();
    let here = terms.filter(|((on, _), _)| on == id);
    let first = here.map(|(_, sent)| *sent).min();
    let first = first.ok_or("no runner on the instance got a TERM")?;
    Ok(first + timeouts.term + timeouts.kill - timeouts.vm_answer)
}
