//! Waiting containers, grouped by what the scheduler sees of them.

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

/// A shape, for as long as a container has it; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct ClassId(u64);

/// The order of waiting containers: priority, then first seen, then uuid.
pub(crate) type Rank = (Reverse<u64>, Timestamp, ContainerId);

/// The containers of one shape.
#[derive(Clone, Debug, Hash)]
pub(crate) struct ClassGroup {
    pub(crate) class: ContainerClass,
    /// Types that can hold it, cheapest first.
    pub(crate) eligible: Result<Types, Misfit>,
    /// Those, and what is to be used while none of them can be had.
    pub(crate) with_fallback: Option<Types>,
    /// Its containers were interrupted so often that they take what is not preemptible.
    fallen_back: bool,
    /// Those that could start now if there were room, and were promised none on a VM that is on its
    /// way.
    open: BTreeSet<Rank>,
    /// Those that wait and were promised room.
    reserved: BTreeSet<Rank>,
    /// Those that began to wait and are not among the open ones yet.
    arrived: Vec<Rank>,
    /// Goes while they wait in vain.
    pub(crate) clock: Clock,
    /// All containers of this shape, waiting or not.
    members: usize,
    demand: Demand,
}

/// All shapes. Adding and removing a container costs O(log shapes + log containers).
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Classes {
    last_id: u64,
    /// Demands, and whether they have fallen back.
    by_demand: BTreeMap<(Demand, bool), ClassId>,
    groups: BTreeMap<ClassId, ClassGroup>,
    /// Groups in which some began to wait that are not filed yet.
    arrived_in: Vec<ClassId>,
    /// Containers that were promised room and wait no longer, until somebody takes note.
    left: Vec<ContainerId>,
}

impl Classes {
    /// Counts a container in.
    pub(crate) fn join(&mut self, config: &Config, demand: &Demand) -> ClassId {
        self.join_as(config, (demand.clone(), false))
    }

    /// Counts a container in among those that were interrupted too often; `None` if it cannot do
    /// without what is preemptible, or already does.
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

    /// Counts a container out; the last one takes the shape with it.
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

    /// A container waits from now on, if it did not; true if that is news. It is filed later, with
    /// all others that begin to.
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

    /// Files those that began to wait: to be called before anybody looks at who waits.
    pub(crate) fn file_arrived(&mut self) {
        while let Some(id) = self.arrived_in.pop() {
            if let Some(group) = self.groups.get_mut(&id) {
                group.file_arrived();
            }
        }
    }

    /// A container waits no longer; true if it did.
    pub(crate) fn end_waiting(&mut self, id: ClassId, rank: Rank) -> bool {
        let group = self.groups.get_mut(&id).expect("a member's shape exists");
        group.file_arrived();
        // Mostly it is the first: those before have been placed.
        if group.open.first() == Some(&rank) {
            return group.open.pop_first().is_some();
        }
        let reserved = group.reserved.remove(&rank);
        if reserved {
            self.left.push(rank.2);
        }
        reserved || group.open.remove(&rank)
    }

    /// Notes that a container that waits was promised room, or that this is so no longer.
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

    /// Whether containers that were promised room have stopped waiting since that was last asked.
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

    /// O(shapes).
    pub(crate) fn any_clock_goes(&self) -> bool {
        self.groups.values().any(|group| group.clock.goes())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ClassId, &ClassGroup)> {
        self.groups.iter().map(|(id, group)| (*id, group))
    }

    /// Computes needs and eligible types anew.
    pub(crate) fn reconfigure(&mut self, config: &Config) {
        for group in self.groups.values_mut() {
            group.class = ContainerClass::of(&group.demand, config);
            group.choose_types(config);
        }
    }
}

impl ClassGroup {
    /// Many at once are sorted and merged, which takes half the time. O(arrived · log waiting).
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

    /// Whether one waits that was promised no room.
    pub(crate) fn is_open(&self, rank: &Rank) -> bool {
        self.open.first() == Some(rank) || self.open.contains(rank)
    }

    /// Whether one waits, of those that are filed.
    pub(crate) fn waits(&self, rank: &Rank) -> bool {
        self.is_open(rank) || self.reserved.contains(rank)
    }

    /// The highest-ranked one that waits.
    pub(crate) fn first(&self) -> Option<Rank> {
        let firsts = [self.open.first(), self.reserved.first()];
        firsts.into_iter().flatten().min().copied()
    }

    /// The next one that waits after this rank.
    pub(crate) fn next(&self, rank: Rank) -> Option<Rank> {
        let reserved = after(&self.reserved, rank);
        self.next_open(rank).into_iter().chain(reserved).min()
    }

    /// The next one after this rank that was promised no room.
    pub(crate) fn next_open(&self, rank: Rank) -> Option<Rank> {
        after(&self.open, rank)
    }

    /// All that wait, in no order.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = Rank> + '_ {
        self.open.iter().chain(&self.reserved).copied()
    }

    /// Computes anew which types can hold it, by this configuration.
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

    /// The eligible types; none, if nothing fits.
    pub(crate) fn types(&self) -> &Types {
        const NONE: &Types = &Types::NONE;
        self.eligible.as_ref().unwrap_or(NONE)
    }

    /// Types that are used only while none of the eligible ones can be had.
    pub(crate) fn fallback(&self) -> &[TypeName] {
        let all = self.with_fallback.as_deref().unwrap_or_default();
        all.get(self.types().len()..).unwrap_or_default()
    }
}

fn after(ranks: &BTreeSet<Rank>, rank: Rank) -> Option<Rank> {
    // Mostly whoever stands first: those before have been placed.
    let first = ranks.first()?;
    if *first > rank {
        return Some(*first);
    }
    let rest = (Bound::Excluded(rank), Bound::Unbounded);
    ranks.range(rest).next().copied()
}
