//! Limits of the configuration, over all instances known to the process or requested by the process.

use longshore_core::command::{Action, CloudAction, Command};
use longshore_core::ids::{IntentId, TypeName};

use crate::checks::check::{Check, Context};
use crate::world::observation::Findings;

/// No create passes a limit on instances, creates in flight or price.
#[derive(Debug, Default)]
pub(super) struct Limits;

impl Check for Limits {
    fn on_command(&mut self, at: &Context<'_>, command: &Command, findings: &mut Findings) {
        if let Action::Cloud {
            action:
                CloudAction::Create {
                    intent,
                    instance_type,
                    ..
                },
            ..
        } = &command.action
        {
            for text in passed_limits(at, *intent, instance_type) {
                findings.violate("limits", text);
            }
        }
    }
}

/// Describes each limit passed by a new create request.
fn passed_limits(at: &Context<'_>, intent: IntentId, name: &TypeName) -> Vec<String> {
    let (ledger, limits, now) = (at.ledger, &at.config().limits, at.now());
    // Mostly the sum of all candidates is small enough.
    let at_most = ledger.listed.len() + ledger.creates.len() + 1;
    let many = limits.instances.is_some_and(|max| at_most > max as usize);
    if !many && limits.creates_in_flight.is_none() && limits.price_per_hour.is_none() {
        return Vec::new();
    }
    let listed = ledger.listed.keys();
    let alive: Vec<_> = listed
        .filter_map(|id| at.world.cloud.instances.get(id))
        .filter(|instance| instance.ended.is_none())
        .collect();
    let others = ledger.creates.iter().filter(|(other, _)| **other != intent);
    let others: Vec<_> = others
        .map(|(_, request)| request)
        .filter(|request| request.until > now)
        .collect();
    let mut passed = Vec::new();
    let count = alive.len() + others.len() + 1;
    if limits.instances.is_some_and(|max| count > max as usize) {
        passed.push(format!("{count} instances, limit {:?}", limits.instances));
    }
    let unanswered = others
        .iter()
        .filter(|request| !request.answered && request.deadline > now);
    let in_flight = unanswered.count() + 1;
    if limits
        .creates_in_flight
        .is_some_and(|max| in_flight > max as usize)
    {
        passed.push(format!("{in_flight} creates in flight"));
    }
    let names = alive.iter().map(|instance| &instance.type_name);
    let names = names.chain(others.iter().map(|request| &request.type_name));
    let price: u64 = names
        .chain([name])
        .filter_map(|name| at.config().types.get(name))
        .map(|offer| offer.price.0)
        .sum();
    if limits.price_per_hour.is_some_and(|max| price > max.0) {
        passed.push(format!("price {price} an hour"));
    }
    passed
}
