//! Which container runs where, and what to create next.
//!
//! One pass looks at the highest-ranked container of each shape at a time. What one container of a
//! shape cannot have, no other of that shape can: the shape is parked with its reasons, and lower
//! ones go on with what is left. So a pass costs O((placed + shapes) · log), however many wait.

pub(crate) mod sizing;

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::capacity::{Blocked, Promised};
use crate::config::Config;
use crate::fleet::Fleet;
use crate::ids::{ContainerId, ImageId, TypeName, VmKey};
use crate::placement::sizing::{Load, Shape};
use crate::queue::Queue;
use crate::queue::shapes::{Rank, ShapeId};
use crate::resources::Resources;

/// What a pass wants done for one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Keep a ready VM for it, and lock it.
    Assign { container: ContainerId, vm: VmKey },
    /// It will fit on a VM that is on its way.
    Await { container: ContainerId, vm: VmKey },
    /// Ask for a VM of this type, which it will fit on.
    Create {
        container: ContainerId,
        type_name: TypeName,
        image: ImageId,
    },
}

/// Why the rest of a shape waits: for each eligible type, what stands in the way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Parked {
    pub(crate) blocked: Vec<(TypeName, Blocked)>,
}

/// What a pass found, beside the decisions it handed out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Verdicts {
    pub(crate) parked: BTreeMap<ShapeId, Parked>,
    pub(crate) awaiting: BTreeMap<ContainerId, VmKey>,
}

/// What a pass may do to the world; the dispatcher carries it out at once, so that the next question
/// sees its effect.
pub(crate) trait Hand {
    fn config(&self) -> &Config;
    fn fleet(&self) -> &Fleet;
    fn queue(&self) -> &Queue;
    /// Why no more containers of this shape may start now, beside those that were promised a place.
    fn may_start(&self, shape: &Shape, promised: &Promised) -> Result<(), Blocked>;
    /// Why no VM of this type with this image may be asked for now.
    fn may_create(&self, name: &TypeName, image: &ImageId) -> Result<(), Blocked>;
    /// Whether all of these types have been failing to be created for so long that others may be used.
    fn falls_back(&self, types: &[TypeName]) -> bool;
    fn assign(&mut self, container: ContainerId, vm: VmKey);
    /// What is parked waits for a limit: an idle VM may have to go, before lower ones take it. Where
    /// none goes, the busy one that is kept free of lower ones from here on.
    fn make_room(&mut self, shape: ShapeId, parked: &Parked, kept: &Kept) -> Option<VmKey>;
    /// Asks for a VM; its key.
    fn create(&mut self, container: ContainerId, name: &TypeName, image: &ImageId) -> VmKey;
}

/// Busy VMs that are kept for what is blocked: at most one of each kind, so that lower ones go on
/// wherever nobody is waited for.
pub(crate) type Kept = BTreeMap<(TypeName, ImageId), VmKey>;

/// A VM on its way, and what it holds once it is there: what it runs, and what this pass promised.
struct Room {
    key: VmKey,
    total: Resources,
    load: Load,
}

/// VMs on their way, by what is asked of them, oldest first. Making it costs O(VMs on their way).
struct Arriving {
    classes: BTreeMap<(TypeName, ImageId), Vec<Room>>,
    /// For each shape and type, how many of the class have no room for it. Promises only add up, so
    /// what has no room now has none for the rest of the pass.
    full: BTreeMap<(ShapeId, TypeName), usize>,
}

impl Arriving {
    fn new(fleet: &Fleet) -> Self {
        let mut classes: BTreeMap<_, Vec<Room>> = BTreeMap::new();
        for vm in fleet.arriving() {
            let class = (vm.type_name.clone(), vm.image.clone());
            classes.entry(class).or_default().push(Room {
                key: vm.key,
                total: vm.total(),
                load: vm.load(),
            });
        }
        let full = BTreeMap::new();
        Self { classes, full }
    }

    /// Promises room on the oldest VM that has it. O(types · log) on average: each VM is passed over
    /// once for each shape.
    fn take(
        &mut self,
        id: ShapeId,
        shape: &Shape,
        types: &[TypeName],
        max: Option<u32>,
    ) -> Option<VmKey> {
        let mut oldest: Option<(VmKey, (TypeName, ImageId), usize)> = None;
        for name in types {
            let class = (name.clone(), shape.image.clone());
            let Some(rooms) = self.classes.get(&class) else {
                continue;
            };
            let fits = |room: &Room| {
                max.is_none_or(|max| room.load.count < max)
                    && room.load.admits(&shape.need, &room.total)
            };
            let full = self.full.entry((id, name.clone())).or_default();
            while rooms.get(*full).is_some_and(|room| !fits(room)) {
                *full += 1;
            }
            if let Some(room) = rooms.get(*full)
                && oldest.as_ref().is_none_or(|(key, ..)| room.key < *key)
            {
                oldest = Some((room.key, class, *full));
            }
        }
        let (key, class, place) = oldest?;
        let room = self.classes.get_mut(&class)?.get_mut(place)?;
        room.load.add(&shape.need);
        Some(key)
    }

    /// A VM that was asked for in this pass, for a container of this need.
    fn add(&mut self, class: (TypeName, ImageId), key: VmKey, total: Resources, need: &Resources) {
        let load = [need].into_iter().collect();
        self.classes
            .entry(class)
            .or_default()
            .push(Room { key, total, load });
    }
}

impl Promised {
    fn count(&mut self, shape: &Shape) {
        self.containers += 1;
        self.supervisors += usize::from(shape.supervisor);
    }
}

/// Makes one pass over everything that waits.
pub(crate) fn pass(hand: &mut impl Hand) -> Verdicts {
    let mut verdicts = Verdicts::default();
    let mut heads: BinaryHeap<Reverse<(Rank, ShapeId)>> = hand
        .queue()
        .shapes()
        .iter()
        .filter_map(|(id, group)| Some(Reverse((*group.waiting.first()?, id))))
        .collect();
    if heads.is_empty() {
        return verdicts;
    }
    let mut arriving = Arriving::new(hand.fleet());
    // Room is made before anything of lower priority takes it; among equals, what fits on an idle VM
    // goes first, so that VMs do not come and go with each of them.
    let mut without_room: Vec<ShapeId> = Vec::new();
    let mut kept = Kept::new();
    let mut promised = Promised::default();
    let mut priority = None;
    while let Some(Reverse((rank, id))) = heads.pop() {
        if priority.replace(rank.0) != Some(rank.0) {
            make_room(hand, &verdicts, &mut without_room, &mut kept);
        }
        match place(hand, &mut arriving, (&kept, &promised), rank.2, id) {
            Ok(Decision::Assign { container, vm }) => hand.assign(container, vm),
            Ok(Decision::Await { container, vm }) => {
                promised.count(&hand.queue().shape(id).shape);
                verdicts.awaiting.insert(container, vm);
            }
            Ok(Decision::Create {
                container,
                type_name,
                image,
            }) => {
                let vm = hand.create(container, &type_name, &image);
                let group = hand.queue().shape(id);
                promised.count(&group.shape);
                let total = hand.config().types[&type_name].resources;
                arriving.add((type_name, image), vm, total, &group.shape.need);
                verdicts.awaiting.insert(container, vm);
            }
            Err(parked) => {
                without_room.push(id);
                verdicts.parked.insert(id, parked);
                continue;
            }
        }
        let rest = &hand.queue().shape(id).waiting;
        let after = (std::ops::Bound::Excluded(rank), std::ops::Bound::Unbounded);
        if let Some(next) = rest.range(after).next() {
            heads.push(Reverse((*next, id)));
        }
    }
    make_room(hand, &verdicts, &mut without_room, &mut kept);
    verdicts
}

fn make_room(
    hand: &mut impl Hand,
    verdicts: &Verdicts,
    without_room: &mut Vec<ShapeId>,
    kept: &mut Kept,
) {
    for shape in without_room.drain(..) {
        let parked = &verdicts.parked[&shape];
        if let Some(vm) = hand.make_room(shape, parked, kept)
            && let Some(vm) = hand.fleet().get(vm)
        {
            kept.insert((vm.type_name.clone(), vm.image.clone()), vm.key);
        }
    }
}

fn place(
    hand: &impl Hand,
    arriving: &mut Arriving,
    (kept, promised): (&Kept, &Promised),
    container: ContainerId,
    id: ShapeId,
) -> Result<Decision, Parked> {
    let group = hand.queue().shape(id);
    let shape = &group.shape;
    let mut types = Cow::Borrowed(group.eligible.as_deref().unwrap_or_default());
    if !group.fallback.is_empty() && hand.falls_back(&types) {
        types.to_mut().extend(group.fallback.iter().cloned());
    }
    let types = types.as_ref();
    if let Err(why) = hand.may_start(shape, promised) {
        let blocked = types.iter().map(|name| (name.clone(), why.clone()));
        return Err(Parked {
            blocked: blocked.collect(),
        });
    }
    let max = hand.config().limits.containers_per_instance;
    let ready = hand
        .fleet()
        .best_ready(types, &shape.image, &shape.need, max, kept);
    if let Some(vm) = ready {
        return Ok(Decision::Assign { container, vm });
    }
    if let Some(vm) = arriving.take(id, shape, types, max) {
        return Ok(Decision::Await { container, vm });
    }
    let mut blocked = Vec::new();
    for name in types {
        match hand.may_create(name, &shape.image) {
            Ok(()) => {
                return Ok(Decision::Create {
                    container,
                    type_name: name.clone(),
                    image: shape.image.clone(),
                });
            }
            Err(why) => blocked.push((name.clone(), why)),
        }
    }
    Err(Parked { blocked })
}
