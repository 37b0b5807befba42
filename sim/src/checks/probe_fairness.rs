//! Probes: every ready VM is probed on and on, even while the rate limit for probes is too low for
//! all VMs.

use std::collections::BTreeMap;
use std::time::Duration;

use longshore_core::Phase;
use longshore_core::command::{Action, Command, VmAction};
use longshore_core::config::Rate;
use longshore_core::ids::InstanceId;
use longshore_core::input::Input;
use longshore_core::time::Timestamp;
use longshore_core::view::InstanceView;

use crate::checks::check::{Check, Context, Lasting, Look};
use crate::world::dense_map::DenseMap;
use crate::world::observation::Findings;

/// Factor of the timeout of a first probe: a first probe also installs the runner.
const BOOT_FACTOR: u32 = 3;

/// No VM waits longer for a probe than in a fair queue.
#[derive(Debug, Default)]
pub(super) struct ProbeFairness {
    of: [Memory; 2],
}

/// Facts about one process, reset at a change of leadership.
#[derive(Debug, Default)]
struct Memory {
    /// Time of sending of the last probe.
    probes: DenseMap<InstanceId, Timestamp>,
    competitors: Competitors,
    unprobed: Lasting<InstanceId>,
}

impl Check for ProbeFairness {
    fn on_input(&mut self, at: &Context<'_>, input: &Input) {
        if let Input::Reconfigured(_) = input {
            // The interval may be another one.
            self.of[at.process].unprobed.clear();
        }
    }

    fn on_leadership_change(&mut self, at: &Context<'_>, _: bool) {
        self.of[at.process] = Memory::default();
    }

    fn on_command(&mut self, at: &Context<'_>, command: &Command, _: &mut Findings) {
        if let Action::Vm {
            instance,
            action: VmAction::Probe { .. },
            ..
        } = &command.action
        {
            self.of[at.process].probes.insert(instance, at.now());
        }
    }

    fn on_look(&mut self, at: &Context<'_>, look: Option<&Look<'_>>, findings: &mut Findings) {
        let memory = &mut self.of[0];
        let Some(look) = look.filter(|look| look.is_sole_leader(at)) else {
            return memory.unprobed.clear();
        };
        let config = at.config();
        let rate = config.limits.probes;
        memory
            .competitors
            .look(&look.instances, &memory.probes, rate);
        // The last probe may have been the first of the VM.
        let longest = config.intervals.probe + config.timeouts.vm_answer * BOOT_FACTOR;
        let ready = look.instances.iter().filter(|vm| vm.phase == Phase::Ready);
        for id in ready.filter_map(|vm| vm.instance.as_ref()) {
            let probed = memory.probes.get(id).copied();
            let max = longest + memory.competitors.longest_turn(id, rate);
            if memory.unprobed.lasts(at.now(), id.clone(), probed, max) {
                findings.violate("probes go on", format!("{id} is not probed any more"));
            }
        }
        memory.unprobed.end_look();
    }

    fn on_id_reused(&mut self, id: &InstanceId) {
        for memory in &mut self.of {
            memory.probes.remove(id);
            memory.unprobed.retain(|on| on != id);
        }
    }
}

/// Largest number of VMs to probe since the last probe of each VM: each other VM goes first at most
/// once.
#[derive(Debug, Default)]
struct Competitors {
    of: BTreeMap<InstanceId, Crowd>,
    /// Number of VMs at the look before.
    before: u32,
}

#[derive(Clone, Copy, Debug)]
struct Crowd {
    /// Last probe of the VM.
    since: Option<Timestamp>,
    most: u32,
}

impl Competitors {
    /// Counts the VMs to probe. Without a rate limit no VM waits for a turn, and only the number of
    /// VMs is kept.
    fn look(
        &mut self,
        shown: &[InstanceView],
        probes: &DenseMap<InstanceId, Timestamp>,
        rate: Option<Rate>,
    ) {
        let probed = |vm: &&InstanceView| !matches!(vm.phase, Phase::Creating | Phase::Shutdown);
        if rate.is_none() {
            self.of.clear();
            let now = shown.iter().filter(probed).count();
            self.before = u32::try_from(now).unwrap_or(u32::MAX);
            return;
        }
        let probed = shown.iter().filter(probed);
        let ids: Vec<&InstanceId> = probed.filter_map(|vm| vm.instance.as_ref()).collect();
        let now = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        let mut of = BTreeMap::new();
        for id in ids {
            let since = probes.get(id).copied();
            let earlier = self.of.get(id).filter(|crowd| crowd.since == since);
            let most = earlier.map_or(self.before, |crowd| crowd.most).max(now);
            of.insert(id.clone(), Crowd { since, most });
        }
        self.of = of;
        self.before = now;
    }

    /// Longest wait of a VM for all others and for its own probe.
    fn longest_turn(&self, id: &InstanceId, rate: Option<Rate>) -> Duration {
        let most = self.of.get(id).map_or(0, |crowd| crowd.most);
        rate.map_or(Duration::ZERO, |rate| {
            rate.interval * most.saturating_add(1)
        })
    }
}
