//! Waiting containers grouped by container class: equal needs, types and lifecycle.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::container_class::{ContainerClass, Misfit};
use crate::ids::{ContainerId, TypeName};
use crate::queue::clock::Clock;
use crate::ranked_types::Types;
use crate::resources::Demand;
use crate::time::Timestamp;

/// Id of a container class, as long as a container has the class; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct ClassId(u64);

/// Order of waiting containers: priority, then first sight, then uuid.
pub(crate) type Rank = (Reverse<u64>, Timestamp, ContainerId);

/// Containers of one class.
#[derive(Clone, Debug, Hash)]
pub(crate) struct ClassGroup {
    pub(crate) class: ContainerClass,
    /// Eligible types, cheapest first.
    pub(crate) eligible: Result<Types, Misfit>,
    /// Eligible types followed by the fallback types, used while no eligible type is available.
    pub(crate) with_fallback: Option<Types>,
    /// True for containers interrupted often enough to take on-demand types.
    fallen_back: bool,
    /// Waiting containers without a reservation: ready to start, given room.
    open: BTreeSet<Rank>,
    /// Waiting containers with a reservation.
    reserved: BTreeSet<Rank>,
    /// Newly waiting containers, not sorted in yet.
    arrived: Vec<Rank>,
    /// Clock of the scheduling timeout; runs while containers of the class wait in vain.
    pub(crate) clock: Clock,
    /// Number of containers of the class, waiting or not.
    members: usize,
    demand: Demand,
}

/// All container classes. Adding and removing a container costs O(log classes + log containers).
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Classes {
    last_id: u64,
    /// Class by demand and fallback state.
    by_demand: BTreeMap<(Demand, bool), ClassId>,
    groups: BTreeMap<ClassId, ClassGroup>,
    /// Groups with newly waiting containers not sorted in yet.
    arrived_in: Vec<ClassId>,
    /// Containers with a reservation that stopped waiting, until taken.
    left: Vec<ContainerId>,
}

impl Classes {
    /// Adds a container.
    pub(crate) fn join(&mut self, config: &Config, demand: &Demand) -> ClassId {
        self.join_as(config, (demand.clone(), false))
    }

    /// Adds a container to the fallback class of `from`; `None` without a suitable on-demand type,
    /// or after an earlier fallback.
    pub(crate) fn fall_back(&mut self, config: &Config, from: ClassId) -> Option<ClassId> {
        let group = self.get(from);
        let possible = !group.fallen_back && !group.class.on_demand(config).is_empty();
        let demand = possible.then(|| group.demand.clone())?;
        Some(self.join_as(config, (demand, true)))
    }

    fn join_as(&mut self, config: &Config, kind: (Demand, bool)) -> ClassId {
        let id = match self.by_demand.get(&kind) {
            Some(id) => *id,
            None => self.found(config, kind),
        };
        let group = self.groups.get_mut(&id).expect("indexed shapes exist");
        group.members += 1;
        id
    }

    fn found(&mut self, config: &Config, (demand, fallen_back): (Demand, bool)) -> ClassId {
        self.last_id += 1;
        let id = ClassId(self.last_id);
        let mut group = ClassGroup {
            class: ContainerClass::of(&demand, config),
            eligible: Ok(Types::default()),
            with_fallback: None,
            fallen_back,
            open: BTreeSet::new(),
            reserved: BTreeSet::new(),
            arrived: Vec::new(),
            clock: Clock::default(),
            members: 0,
            demand: demand.clone(),
        };
        group.choose_types(config);
        self.by_demand.insert((demand, fallen_back), id);
        self.groups.insert(id, group);
        id
    }

    /// Removes a container; the last container removes the class.
    pub(crate) fn leave(&mut self, id: ClassId) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        group.members -= 1;
        if group.members == 0 {
            assert!(!group.any_waits(), "a member waits");
            if let Some(group) = self.groups.remove(&id) {
                self.by_demand.remove(&(group.demand, group.fallen_back));
            }
        }
    }

    pub(crate) fn get(&self, id: ClassId) -> &ClassGroup {
        self.groups.get(&id).expect("a member's shape exists")
    }

    /// Marks a container as waiting; true for a change. Sorted in later, together with other new
    /// ones.
    pub(crate) fn begin_waiting(&mut self, id: ClassId, rank: Rank) -> bool {
        let group = self.groups.get_mut(&id).expect("a member's shape exists");
        if group.waits(&rank) {
            return false;
        }
        if group.arrived.is_empty() {
            self.arrived_in.push(id);
        }
        group.arrived.push(rank);
        true
    }

    /// Sorts newly waiting containers in; required before any read of the waiting order.
    pub(crate) fn file_arrived(&mut self) {
        while let Some(id) = self.arrived_in.pop() {
            if let Some(group) = self.groups.get_mut(&id) {
                group.file_arrived();
            }
        }
    }

    /// Marks a container as no longer waiting; true for a change.
    pub(crate) fn end_waiting(&mut self, id: ClassId, rank: Rank) -> bool {
        let group = self.groups.get_mut(&id).expect("a member's shape exists");
        group.file_arrived();
        // Usually the first container: earlier ranks have been placed.
        if group.open.first() == Some(&rank) {
            return group.open.pop_first().is_some();
        }
        let reserved = group.reserved.remove(&rank);
        if reserved {
            self.left.push(rank.2);
        }
        reserved || group.open.remove(&rank)
    }

    /// Records the gain or loss of a waiting container's reservation.
    pub(crate) fn set_reserved(&mut self, id: ClassId, rank: Rank, reserved: bool) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        let (from, to) = match reserved {
            true => (&mut group.open, &mut group.reserved),
            false => (&mut group.reserved, &mut group.open),
        };
        if from.remove(&rank) {
            to.insert(rank);
        }
    }

    /// True if containers with a reservation stopped waiting since the last [`Classes::take_left`].
    pub(crate) fn any_left(&self) -> bool {
        !self.left.is_empty()
    }

    pub(crate) fn take_left(&mut self) -> Vec<ContainerId> {
        std::mem::take(&mut self.left)
    }

    pub(crate) fn run_clock(&mut self, id: ClassId, now: Timestamp, goes: bool) {
        if let Some(group) = self.groups.get_mut(&id)
            && group.clock.goes() != goes
        {
            group.clock.run(now, goes);
        }
    }

    /// True if any clock runs. O(classes).
    pub(crate) fn any_clock_goes(&self) -> bool {
        self.groups.values().any(|group| group.clock.goes())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ClassId, &ClassGroup)> {
        self.groups.iter().map(|(id, group)| (*id, group))
    }

    /// Recomputes needs and eligible types.
    pub(crate) fn reconfigure(&mut self, config: &Config) {
        for group in self.groups.values_mut() {
            group.class = ContainerClass::of(&group.demand, config);
            group.choose_types(config);
        }
    }
}

impl ClassGroup {
    /// Sorts newly waiting containers in; a large batch is sorted and merged, in half the time.
    /// O(arrived · log waiting).
    fn file_arrived(&mut self) {
        if self.arrived.is_empty() {
            return;
        }
        let mut arrived = std::mem::take(&mut self.arrived);
        if arrived.len() > self.open.len() / 8 {
            arrived.sort_unstable();
            self.open.append(&mut arrived.into_iter().collect());
        } else {
            self.open.extend(arrived);
        }
    }

    pub(crate) fn any_waits(&self) -> bool {
        !self.open.is_empty() || !self.reserved.is_empty()
    }

    /// True if the container waits without a reservation.
    pub(crate) fn is_open(&self, rank: &Rank) -> bool {
        self.open.first() == Some(rank) || self.open.contains(rank)
    }

    /// True if the container waits and is sorted in.
    pub(crate) fn waits(&self, rank: &Rank) -> bool {
        self.is_open(rank) || self.reserved.contains(rank)
    }

    /// Highest-ranked waiting container.
    pub(crate) fn first(&self) -> Option<Rank> {
        let firsts = [self.open.first(), self.reserved.first()];
        firsts.into_iter().flatten().min().copied()
    }

    /// Next waiting container after a rank.
    pub(crate) fn next(&self, rank: Rank) -> Option<Rank> {
        let reserved = after(&self.reserved, rank);
        self.next_open(rank).into_iter().chain(reserved).min()
    }

    /// Next waiting container after a rank without a reservation.
    pub(crate) fn next_open(&self, rank: Rank) -> Option<Rank> {
        after(&self.open, rank)
    }

    /// Waiting containers in no order.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = Rank> + '_ {
        self.open.iter().chain(&self.reserved).copied()
    }

    /// Recomputes the eligible types for a configuration.
    fn choose_types(&mut self, config: &Config) {
        let rule = &config.sizing.spot_fallback;
        let on_demand = self.class.on_demand(config);
        self.eligible = self.class.eligible(config).map(Types::from);
        self.with_fallback = None;
        if self.fallen_back && rule.interruptions.is_some() && !on_demand.is_empty() {
            self.eligible = Ok(Types::from(on_demand));
        } else if rule.after.is_some() && !on_demand.is_empty() {
            let all = self.types().iter().cloned().chain(on_demand);
            self.with_fallback = Some(Types::from(all.collect::<Vec<_>>()));
        }
    }

    /// Eligible types; empty for an unsatisfiable class.
    pub(crate) fn types(&self) -> &Types {
        const NONE: &Types = &Types::NONE;
        self.eligible.as_ref().unwrap_or(NONE)
    }

    /// Fallback types, used while no eligible type is available.
    pub(crate) fn fallback(&self) -> &[TypeName] {
        let all = self.with_fallback.as_deref().unwrap_or_default();
        all.get(self.types().len()..).unwrap_or_default()
    }
}

fn after(ranks: &BTreeSet<Rank>, rank: Rank) -> Option<Rank> {
    // Usually the first container: earlier ranks have been placed.
    let first = ranks.first()?;
    if *first > rank {
        return Some(*first);
    }
    let rest = (Bound::Excluded(rank), Bound::Unbounded);
    ranks.range(rest).next().copied()
}
