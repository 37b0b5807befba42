//! Tags: the idle behavior of an instance is written to its tag.

use std::collections::BTreeMap;
use std::time::Duration;

use longshore_core::Phase;
use longshore_core::command::{Action, CloudAction, Command};
use longshore_core::ids::InstanceId;
use longshore_core::input::Input;
use longshore_core::time::Timestamp;

use crate::checks::check::{Check, Context, Lasting, Look};
use crate::world::observation::Findings;

/// Longest time until an operator's request is in the tag, or is tried again.
const TAG_MAX: Duration = Duration::from_secs(1200);

/// Tags follow the requests of the operator.
#[derive(Debug, Default)]
pub(super) struct Tags {
    of: [Memory; 2],
}

/// Facts about one process, reset at a change of leadership.
#[derive(Debug, Default)]
struct Memory {
    /// Time of the last command to write each tag.
    tagged: BTreeMap<InstanceId, Timestamp>,
    outdated: Lasting<InstanceId>,
}

impl Check for Tags {
    fn on_input(&mut self, at: &Context<'_>, input: &Input) {
        if let Input::Reconfigured(_) = input {
            self.of[at.process].outdated.clear();
        }
    }

    fn on_leadership_change(&mut self, at: &Context<'_>, _: bool) {
        self.of[at.process] = Memory::default();
    }

    fn on_command(&mut self, at: &Context<'_>, command: &Command, _: &mut Findings) {
        if let Action::Cloud {
            action: CloudAction::Tag { instance, .. },
            ..
        } = &command.action
        {
            let tagged = &mut self.of[at.process].tagged;
            tagged.insert(instance.clone(), at.now());
        }
    }

    fn on_look(&mut self, at: &Context<'_>, look: Option<&Look<'_>>, findings: &mut Findings) {
        let memory = &mut self.of[0];
        let Some(look) = look.filter(|look| look.is_sole_leader(at)) else {
            return memory.outdated.clear();
        };
        let cloud = &at.world.cloud;
        for shown in look.instances.iter().filter(|vm| vm.phase == Phase::Ready) {
            let Some(id) = &shown.instance else { continue };
            let tag = cloud.instances.get(id);
            let tag = tag.and_then(|instance| instance.record.tags.idle_behavior);
            if tag.unwrap_or_default() == shown.idle_behavior || at.now() < cloud.down_until {
                continue;
            }
            let tried = memory.tagged.get(id).copied();
            if memory.outdated.lasts(at.now(), id.clone(), tried, TAG_MAX) {
                let text = format!("{id} is to {:?}, its tag says {tag:?}", shown.idle_behavior);
                findings.violate("tags tell", text);
            }
        }
        memory.outdated.end_look();
    }

    fn on_id_reused(&mut self, id: &InstanceId) {
        for memory in &mut self.of {
            memory.tagged.remove(id);
            memory.outdated.retain(|on| on != id);
        }
    }
}
