//! Exponential back-off with a half-open trial: after failed creates per type, after failed boots per
//! type and image.

use std::collections::BTreeMap;
use std::time::Duration;

use longshore_core::command::{Action, CloudAction, Command};
use longshore_core::event::{BootOutcome, Event};
use longshore_core::ids::{ImageId, InstanceId, IntentId, TypeName};
use longshore_core::input::{Answer, CloudError, Input};
use longshore_core::time::Timestamp;

use crate::checks::check::{Check, Context};
use crate::checks::ledger::{Open, Subject};
use crate::world::observation::Findings;

/// Shortest back-off after the first failed create of a type since the last success.
const CREATE_BACKOFF_MIN: Duration = Duration::from_secs(5);
/// Shortest back-off after too many failed boots.
const BOOT_BACKOFF_MIN: Duration = Duration::from_secs(300);
/// Longest time for which a create is awaited.
const CREATE_MAX: Duration = Duration::from_secs(600);

/// Failed types are backed off, and one trial at a time ends the back-off.
#[derive(Debug, Default)]
pub(super) struct Retries {
    of: [Memory; 2],
}

/// Facts about one process, reset at a change of leadership.
#[derive(Debug, Default)]
struct Memory {
    /// Creates in flight: type and time of sending.
    creates: BTreeMap<IntentId, (TypeName, Timestamp)>,
    /// Types with a failed last create, with the time of the first failure.
    failing: BTreeMap<TypeName, Timestamp>,
    /// Types and images with failed last boots.
    boots: BTreeMap<(TypeName, ImageId), Boots>,
    /// Create request of each instance without an end of its boot.
    made: BTreeMap<InstanceId, IntentId>,
}

/// Failed boots in a row.
#[derive(Clone, Copy, Debug)]
struct Boots {
    failures: u32,
    /// Time of the last failure.
    since: Timestamp,
    /// Create request sent since then, without a result.
    canary: Option<IntentId>,
}

impl Check for Retries {
    fn on_input(&mut self, at: &Context<'_>, input: &Input) {
        if let Input::Reconfigured(_) = input {
            let memory = &mut self.of[at.process];
            memory.failing.clear();
            memory.boots.clear();
        }
    }

    fn on_leadership_change(&mut self, at: &Context<'_>, _: bool) {
        self.of[at.process] = Memory::default();
    }

    fn on_answer(&mut self, at: &Context<'_>, open: &Open, answer: &Answer, _: &mut Findings) {
        let memory = &mut self.of[at.process];
        let (Subject::Create(intent), Answer::Created(made)) = (&open.subject, answer) else {
            return;
        };
        // An error after a list has shown the instance may come after the end of the instance, and
        // proves nothing.
        let listed = !at.ledger.creates.contains_key(intent);
        match made {
            Err(_) if listed => {
                memory.creates.remove(intent);
            }
            Err(error) if !matches!(error, CloudError::Ambiguous { .. }) => {
                memory.end_canary(*intent);
            }
            _ => {}
        }
        memory.take_created(at.now(), *intent, made.as_ref().err());
    }

    fn on_event(&mut self, at: &Context<'_>, event: &Event, _: &mut Findings) {
        let memory = &mut self.of[at.process];
        match event {
            Event::Created {
                instance, intent, ..
            } => {
                let id = InstanceId::from(instance.as_str());
                memory.made.insert(id, *intent);
            }
            Event::CreateWrittenOff { intent, .. } => memory.end_canary(*intent),
            Event::Boot {
                instance, outcome, ..
            } => {
                let id = InstanceId::from(instance.as_str());
                if let Some(intent) = memory.made.remove(&id) {
                    memory.end_canary(intent);
                }
                if let Some(made) = at.world.cloud.instances.get(&id) {
                    let image = made.record.tags.image.clone();
                    let image = image.unwrap_or_else(|| ImageId::from(""));
                    let kind = (made.type_name.clone(), image);
                    memory.end_boot(at.now(), kind, *outcome);
                }
            }
            _ => {}
        }
    }

    fn on_command(&mut self, at: &Context<'_>, command: &Command, findings: &mut Findings) {
        if let Action::Cloud {
            action:
                CloudAction::Create {
                    intent,
                    instance_type,
                    image,
                },
            ..
        } = &command.action
        {
            let kind = (instance_type.clone(), image.clone());
            self.begin_create(at, *intent, instance_type, findings);
            self.begin_boot(at, *intent, kind, findings);
        }
    }

    fn on_id_reused(&mut self, id: &InstanceId) {
        for memory in &mut self.of {
            memory.made.remove(id);
        }
    }
}

impl Retries {
    /// A failed type is backed off; then one create at a time tries the type again.
    fn begin_create(
        &mut self,
        at: &Context<'_>,
        intent: IntentId,
        name: &TypeName,
        findings: &mut Findings,
    ) {
        let now = at.now();
        let memory = &mut self.of[at.process];
        let in_flight = |intent: &IntentId| {
            let request = at.ledger.creates.get(intent);
            request.is_some_and(|request| !request.answered && request.deadline > now)
        };
        let other = |since| {
            let mut others = memory.creates.iter();
            others.any(|(other, (of, sent))| of == name && *sent > since && in_flight(other))
        };
        match memory.failing.get(name).copied() {
            Some(since) if now.since(since) < CREATE_BACKOFF_MIN => {
                findings.violate("what failed rests", format!("{name} failed at {since}"));
            }
            Some(since) if other(since) => {
                let text = format!("two creates of {name} at a time after a failure");
                findings.violate("one canary", text);
            }
            _ => {}
        }
        memory
            .creates
            .retain(|_, (_, sent)| now.since(*sent) < CREATE_MAX);
        memory.creates.insert(intent, (name.clone(), now));
    }

    /// A type and image with failed boots is backed off; then one instance at a time tries again.
    fn begin_boot(
        &mut self,
        at: &Context<'_>,
        intent: IntentId,
        kind: (TypeName, ImageId),
        findings: &mut Findings,
    ) {
        let Some(max) = at.config().limits.boot_failures else {
            return;
        };
        let boots = self.of[at.process].boots.get_mut(&kind);
        let Some(boots) = boots.filter(|boots| boots.failures >= max) else {
            return;
        };
        if at.now().since(boots.since) < BOOT_BACKOFF_MIN || boots.canary.is_some() {
            let text = format!("{kind:?} is created, but {boots:?}");
            findings.violate("what does not boot rests", text);
        }
        boots.canary = Some(intent);
    }
}

impl Memory {
    fn take_created(&mut self, now: Timestamp, intent: IntentId, error: Option<&CloudError>) {
        let Some((name, _)) = self.creates.remove(&intent) else {
            return;
        };
        match error {
            None => {
                self.failing.remove(&name);
            }
            Some(
                CloudError::RateLimited { .. }
                | CloudError::Ambiguous { .. }
                | CloudError::Quota { .. },
            ) => {}
            Some(_) => {
                self.failing.entry(name).or_insert(now);
            }
        }
    }

    fn end_boot(&mut self, now: Timestamp, kind: (TypeName, ImageId), outcome: BootOutcome) {
        match outcome {
            BootOutcome::Success => {
                self.boots.remove(&kind);
            }
            BootOutcome::Failure => {
                let boots = self.boots.entry(kind).or_insert(Boots {
                    failures: 0,
                    since: now,
                    canary: None,
                });
                boots.failures += 1;
                boots.since = now;
            }
            BootOutcome::Aborted | BootOutcome::Disappeared => {}
        }
    }

    fn end_canary(&mut self, intent: IntentId) {
        for boots in self.boots.values_mut() {
            boots.canary.take_if(|canary| *canary == intent);
        }
    }
}
