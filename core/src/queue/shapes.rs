//! Waiting containers, grouped by what the scheduler sees of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::ids::{ContainerId, TypeName};
use crate::placement::sizing::{Misfit, Shape};
use crate::queue::clock::Clock;
use crate::resources::Demand;
use crate::time::Timestamp;

/// A shape, for as long as a container has it; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct ShapeId(u64);

/// The order of waiting containers: priority, then first seen, then uuid.
pub(crate) type Rank = (Reverse<u64>, Timestamp, ContainerId);

/// The containers of one shape.
#[derive(Clone, Debug, Hash)]
pub(crate) struct ShapeGroup {
    pub(crate) shape: Shape,
    /// Types that can hold it, cheapest first.
    pub(crate) eligible: Result<Vec<TypeName>, Misfit>,
    /// Types to be used while none of those can be had.
    pub(crate) fallback: Vec<TypeName>,
    /// Its containers were interrupted so often that they take what is not preemptible.
    fallen_back: bool,
    /// Those that could start now if there were room.
    pub(crate) waiting: BTreeSet<Rank>,
    /// Those of them that were promised no room on a VM that is on its way.
    pub(crate) open: BTreeSet<Rank>,
    /// Goes while they wait in vain.
    pub(crate) clock: Clock,
    /// All containers of this shape, waiting or not.
    members: usize,
    demand: Demand,
}

/// All shapes. Adding and removing a container costs O(log shapes + log containers).
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Shapes {
    last_id: u64,
    /// Demands, and whether they have fallen back.
    by_demand: BTreeMap<(Demand, bool), ShapeId>,
    groups: BTreeMap<ShapeId, ShapeGroup>,
    /// Containers that were promised room and wait no longer, until somebody takes note.
    left: Vec<ContainerId>,
}

impl Shapes {
    /// Counts a container in.
    pub(crate) fn join(&mut self, config: &Config, demand: &Demand) -> ShapeId {
        self.join_as(config, (demand.clone(), false))
    }

    /// Counts a container in among those that were interrupted too often; `None` if it cannot do
    /// without what is preemptible, or already does.
    pub(crate) fn fall_back(&mut self, config: &Config, from: ShapeId) -> Option<ShapeId> {
        let group = self.get(from);
        let possible = !group.fallen_back && !group.shape.on_demand(config).is_empty();
        let demand = possible.then(|| group.demand.clone())?;
        Some(self.join_as(config, (demand, true)))
    }

    fn join_as(&mut self, config: &Config, kind: (Demand, bool)) -> ShapeId {
        let id = match self.by_demand.get(&kind) {
            Some(id) => *id,
            None => self.found(config, kind),
        };
        let group = self.groups.get_mut(&id).expect("indexed shapes exist");
        group.members += 1;
        id
    }

    fn found(&mut self, config: &Config, (demand, fallen_back): (Demand, bool)) -> ShapeId {
        self.last_id += 1;
        let id = ShapeId(self.last_id);
        let mut group = ShapeGroup {
            shape: Shape::of(&demand, config),
            eligible: Ok(Vec::new()),
            fallback: Vec::new(),
            fallen_back,
            waiting: BTreeSet::new(),
            open: BTreeSet::new(),
            clock: Clock::default(),
            members: 0,
            demand: demand.clone(),
        };
        group.choose_types(config);
        self.by_demand.insert((demand, fallen_back), id);
        self.groups.insert(id, group);
        id
    }

    /// Counts a container out; the last one takes the shape with it.
    pub(crate) fn leave(&mut self, id: ShapeId) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        group.members -= 1;
        if group.members == 0 {
            assert!(group.waiting.is_empty(), "a member waits");
            if let Some(group) = self.groups.remove(&id) {
                self.by_demand.remove(&(group.demand, group.fallen_back));
            }
        }
    }

    pub(crate) fn get(&self, id: ShapeId) -> &ShapeGroup {
        self.groups.get(&id).expect("a member's shape exists")
    }

    /// Files a container among those that wait, or takes it out; true if that changed anything.
    pub(crate) fn set_waiting(&mut self, id: ShapeId, rank: Rank, waiting: bool) -> bool {
        let group = self.groups.get_mut(&id).expect("a member's shape exists");
        if waiting {
            let new = group.waiting.insert(rank);
            if new {
                group.open.insert(rank);
            }
            new
        } else {
            let waited = group.waiting.remove(&rank);
            if waited && !group.open.remove(&rank) {
                self.left.push(rank.2);
            }
            waited
        }
    }

    /// Notes that a container that waits was promised room, or that this is so no longer.
    pub(crate) fn set_promised(&mut self, id: ShapeId, rank: Rank, promised: bool) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        if promised {
            group.open.remove(&rank);
        } else if group.waiting.contains(&rank) {
            group.open.insert(rank);
        }
    }

    /// Whether containers that were promised room have stopped waiting since that was last asked.
    pub(crate) fn any_left(&self) -> bool {
        !self.left.is_empty()
    }

    pub(crate) fn take_left(&mut self) -> Vec<ContainerId> {
        std::mem::take(&mut self.left)
    }

    pub(crate) fn run_clock(&mut self, id: ShapeId, now: Timestamp, goes: bool) {
        if let Some(group) = self.groups.get_mut(&id)
            && group.clock.goes() != goes
        {
            group.clock.run(now, goes);
        }
    }

    /// O(shapes).
    pub(crate) fn any_clock_goes(&self) -> bool {
        self.groups.values().any(|group| group.clock.goes())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ShapeId, &ShapeGroup)> {
        self.groups.iter().map(|(id, group)| (*id, group))
    }

    /// Computes needs and eligible types anew.
    pub(crate) fn reconfigure(&mut self, config: &Config) {
        for group in self.groups.values_mut() {
            group.shape = Shape::of(&group.demand, config);
            group.choose_types(config);
        }
    }
}

impl ShapeGroup {
    /// Computes anew which types can hold it, by this configuration.
    fn choose_types(&mut self, config: &Config) {
        let rule = &config.sizing.spot_fallback;
        let on_demand = self.shape.on_demand(config);
        self.eligible = self.shape.eligible(config);
        self.fallback = Vec::new();
        if self.fallen_back && rule.interruptions.is_some() && !on_demand.is_empty() {
            self.eligible = Ok(on_demand);
        } else if rule.after.is_some() {
            self.fallback = on_demand;
        }
    }
}
