//! How long a VM may wait for its turn to be probed, where our own rate is short of what all need.

use std::collections::BTreeMap;
use std::time::Duration;

use longshore_core::Phase;
use longshore_core::config::Rate;
use longshore_core::ids::InstanceId;
use longshore_core::time::Timestamp;
use longshore_core::view::InstanceView;

use crate::world::dense_map::DenseMap;

/// Among how many each VM has waited since its last probe: each of the others goes before it once at
/// most.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    crowds: BTreeMap<InstanceId, Crowd>,
    /// How many there were at the look before.
    before: u32,
}

#[derive(Clone, Copy, Debug)]
struct Crowd {
    since: Option<Timestamp>,
    most: u32,
}

impl Turns {
    /// Takes note of all VMs that can be asked, and of when each was last; of their number alone while
    /// nobody waits for a turn.
    pub(crate) fn look(
        &mut self,
        shown: &[InstanceView],
        probes: &DenseMap<InstanceId, Timestamp>,
        rate: Option<Rate>,
    ) {
        let asked = |vm: &&InstanceView| !matches!(vm.phase, Phase::Creating | Phase::Shutdown);
        if rate.is_none() {
            self.crowds.clear();
            let now = shown.iter().filter(asked).count();
            self.before = u32::try_from(now).unwrap_or(u32::MAX);
            return;
        }
        let asked = shown.iter().filter(asked);
        let names: Vec<&InstanceId> = asked.filter_map(|vm| vm.instance.as_ref()).collect();
        let now = u32::try_from(names.len()).unwrap_or(u32::MAX);
        let mut crowds = BTreeMap::new();
        for id in names {
            let since = probes.get(id).copied();
            let earlier = self.crowds.get(id).filter(|crowd| crowd.since == since);
            let most = earlier.map_or(self.before, |crowd| crowd.most).max(now);
            crowds.insert(id.clone(), Crowd { since, most });
        }
        self.crowds = crowds;
        self.before = now;
    }

    /// How long a VM may have waited for those before it, and for its own turn.
    pub(crate) fn longest(&self, id: &InstanceId, rate: Option<Rate>) -> Duration {
        let crowd = self.crowds.get(id).map_or(0, |crowd| crowd.most);
        rate.map_or(Duration::ZERO, |rate| {
            rate.interval * crowd.saturating_add(1)
        })
    }
}
