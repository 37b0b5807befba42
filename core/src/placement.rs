//! Placement of containers on instances, and creation of instances.
//!
//! A pass handles the highest-ranked waiting container of each class at a time. If a container
//! cannot be placed, no other container of the class can: the class is parked with the obstacles,
//! and lower ranks go on with the remaining room. A reservation on a pending instance persists from
//! pass to pass. So a pass costs O((placed + classes · types) · log), whatever the number of
//! waiting containers and of booting instances.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::capacity::CreateBlocked;
use crate::container_class::ContainerClass;
use crate::fleet::{Fleet, Kept};
use crate::ids::{ContainerId, ImageId, TypeName, VmKey};

use crate::queue::Queue;
use crate::queue::classes::{ClassId, Rank};

/// Decision about a container.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Decision {
    /// Assign a ready instance, and lock the container.
    Assign(VmKey),
    /// Keep the reservation on a pending instance.
    Stay,
    /// Reserve room on a pending instance, after releasing the listed reservations of lower rank.
    Await(VmKey, Vec<ContainerId>),
    /// Create an instance of this type, with a reservation.
    Create(TypeName),
}

/// Parked class: the obstacle for each eligible type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Parked {
    pub(crate) blocked: Vec<(TypeName, CreateBlocked)>,
}

/// Results of a pass, beside the effects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Verdicts {
    pub(crate) parked: BTreeMap<ClassId, Parked>,
}

/// Effects of a pass; the dispatcher carries out each at once, so that the next query sees the
/// effect.
pub(crate) trait PlacementOps {
    fn fleet(&self) -> &Fleet;
    fn queue(&self) -> &Queue;
    /// Checks the limits for the start of one more container of the class, beside reservations of
    /// higher rank.
    fn may_start(&self, class: &ContainerClass, rank: Rank) -> Result<(), CreateBlocked>;
    /// Checks the limits for the creation of an instance of this type with this image.
    fn may_create(&self, name: &TypeName, image: &ImageId) -> Result<(), CreateBlocked>;
    /// True if all these types have failed for so long that the fallback applies.
    fn uses_fallback(&self, types: &[TypeName]) -> bool;
    fn assign(&mut self, container: ContainerId, class: ClassId, vm: VmKey);
    /// Reserves room on a pending instance.
    fn reserve(&mut self, rank: Rank, class: ClassId, vm: VmKey);
    /// Releases the reservation of a container, if any; returns the rank and class.
    fn withdraw(&mut self, container: ContainerId) -> Option<(Rank, ClassId)>;
    /// Makes room for a parked class before lower ranks take the room: terminates an idle instance,
    /// or returns a busy instance to be kept free of lower ranks.
    fn make_room(&mut self, class: ClassId, parked: &Parked, kept: &Kept) -> Option<VmKey>;
    /// Sends a create request; returns the key of the instance.
    fn create(&mut self, container: ContainerId, name: &TypeName, image: &ImageId) -> VmKey;
}

/// Runs a pass over all waiting containers. Returns true if another pass is due: a reservation on a
/// pending instance ended after a higher rank was parked.
pub(crate) fn pass(ops: &mut impl PlacementOps) -> (Verdicts, bool) {
    let heads = ops.queue().classes().iter();
    let heads = heads.filter_map(|(id, group)| Some(Reverse((group.first()?, id))));
    let pass = Pass {
        heads: heads.collect(),
        parked: BTreeMap::new(),
        without_room: Vec::new(),
        kept: Kept::new(),
        freed: false,
        ops,
    };
    pass.run()
}

struct Pass<'a, H> {
    ops: &'a mut H,
    /// Next container of each class not parked; sometimes several of a class.
    heads: BinaryHeap<Reverse<(Rank, ClassId)>>,
    parked: BTreeMap<ClassId, Parked>,
    /// Parked classes of the current priority, to make room for.
    without_room: Vec<ClassId>,
    kept: Kept,
    /// True if a reservation was released and is free for other containers.
    freed: bool,
}

impl<H: PlacementOps> Pass<'_, H> {
    fn run(mut self) -> (Verdicts, bool) {
        let (mut priority, mut last) = (None, None);
        while let Some(Reverse(head)) = self.heads.pop() {
            let (rank, id) = head;
            // Room is made before lower priorities take the room. Among equal priorities,
            // containers that fit on an idle instance go first, so that instances do not come and
            // go.
            if priority.replace(rank.0) != Some(rank.0) {
                self.make_room();
            }
            if last.replace(head) != Some(head) && !self.parked.contains_key(&id) {
                self.place(rank, id);
            }
        }
        self.make_room();
        let again = self.freed && !self.parked.is_empty();
        let parked = self.parked;
        (Verdicts { parked }, again)
    }

    /// Carries out the decision about a container, and queues the next container of the class.
    fn place(&mut self, rank: Rank, id: ClassId) {
        let group = self.ops.queue().class(id);
        if !group.waits(&rank) {
            return;
        }
        let container = rank.2;
        match decide(self.ops, &self.kept, rank, id) {
            Ok(Decision::Assign(vm)) => {
                self.freed |= self.ops.withdraw(container).is_some();
                self.ops.assign(container, id, vm);
                return self.push_next(rank, id, false);
            }
            Ok(Decision::Stay) => {}
            Ok(Decision::Await(vm, outranked)) => {
                for other in outranked {
                    let out = self.ops.withdraw(other);
                    self.heads.extend(out.map(Reverse));
                }
                self.ops.reserve(rank, id, vm);
            }
            Ok(Decision::Create(name)) => {
                let image = self.ops.queue().class(id).class.image.clone();
                let vm = self.ops.create(container, &name, &image);
                self.ops.reserve(rank, id, vm);
            }
            Err(parked) => {
                self.without_room.push(id);
                self.parked.insert(id, parked);
                return;
            }
        }
        // Without a ready instance for this container, there is none for the class.
        self.push_next(rank, id, true);
    }

    /// Queues the next container of a class: the next without a reservation, or the next of all.
    fn push_next(&mut self, rank: Rank, id: ClassId, open: bool) {
        let group = self.ops.queue().class(id);
        let next = match open {
            true => group.next_open(rank),
            false => group.next(rank),
        };
        self.heads.extend(next.map(|next| Reverse((next, id))));
    }

    fn make_room(&mut self) {
        for class in std::mem::take(&mut self.without_room) {
            let parked = &self.parked[&class];
            if let Some(vm) = self.ops.make_room(class, parked, &self.kept)
                && let Some(vm) = self.ops.fleet().get(vm)
            {
                let kind = (vm.identity.type_name.clone(), vm.identity.image.clone());
                self.kept.insert(kind, vm.key);
            }
        }
    }
}

/// Best decision for a container.
fn decide(
    ops: &impl PlacementOps,
    kept: &Kept,
    rank: Rank,
    id: ClassId,
) -> Result<Decision, Parked> {
    let group = ops.queue().class(id);
    let class = &group.class;
    let types = match &group.with_fallback {
        Some(all) if ops.uses_fallback(group.types()) => all,
        _ => group.types(),
    };
    if let Err(why) = ops.may_start(class, rank) {
        let blocked = types.iter().map(|name| (name.clone(), why.clone()));
        return Err(Parked {
            blocked: blocked.collect(),
        });
    }
    let (fleet, image, need) = (ops.fleet(), &class.image, &class.need);
    if let Some(vm) = fleet.best_ready(types, image, need, kept) {
        return Ok(Decision::Assign(vm));
    }
    if !group.is_open(&rank) {
        return Ok(Decision::Stay);
    }
    if let Some(vm) = fleet.best_arriving(types, image, need) {
        return Ok(Decision::Await(vm, Vec::new()));
    }
    if let Some((vm, outranked)) = fleet.outranked(types, image, need, rank) {
        return Ok(Decision::Await(vm, outranked));
    }
    let mut blocked = Vec::with_capacity(types.len());
    for name in types.iter() {
        match ops.may_create(name, image) {
            Ok(()) => return Ok(Decision::Create(name.clone())),
            Err(why) => blocked.push((name.clone(), why)),
        }
    }
    Err(Parked { blocked })
}
