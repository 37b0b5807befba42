//! Which container runs where, and what to create next.
//!
//! One pass looks at the highest-ranked container of each shape at a time. What one container of a
//! shape cannot have, no other of that shape can: the shape is parked with its reasons, and lower
//! ones go on with what is left. Who was promised room on a VM that is on its way keeps it from pass
//! to pass. So a pass costs O((placed + shapes · types) · log), however many wait and however many
//! VMs boot.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::capacity::CreateBlocked;
use crate::container_class::ContainerClass;
use crate::fleet::{Fleet, Kept};
use crate::ids::{ContainerId, ImageId, TypeName, VmKey};

use crate::queue::Queue;
use crate::queue::classes::{ClassId, Rank};

/// What a pass wants done for one container.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Decision {
    /// Keep a ready VM for it, and lock it.
    Assign(VmKey),
    /// It was promised room on a VM that is on its way, and that is all there is for it.
    Stay,
    /// It will fit on a VM that is on its way, once these of lower rank give up their room there.
    Await(VmKey, Vec<ContainerId>),
    /// Ask for a VM of this type, which it will fit on.
    Create(TypeName),
}

/// Why the rest of a shape waits: for each eligible type, what stands in the way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Parked {
    pub(crate) blocked: Vec<(TypeName, CreateBlocked)>,
}

/// What a pass found, beside what it did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Verdicts {
    pub(crate) parked: BTreeMap<ClassId, Parked>,
}

/// What a pass may do to the world; the dispatcher carries it out at once, so that the next question
/// sees its effect.
pub(crate) trait PlacementOps {
    fn fleet(&self) -> &Fleet;
    fn queue(&self) -> &Queue;
    /// Why no more containers of this shape may start now, beside those of higher rank that were
    /// promised a place.
    fn may_start(&self, class: &ContainerClass, rank: Rank) -> Result<(), CreateBlocked>;
    /// Why no VM of this type with this image may be asked for now.
    fn may_create(&self, name: &TypeName, image: &ImageId) -> Result<(), CreateBlocked>;
    /// Whether all of these types have been failing to be created for so long that others may be used.
    fn uses_fallback(&self, types: &[TypeName]) -> bool;
    fn assign(&mut self, container: ContainerId, class: ClassId, vm: VmKey);
    /// Promises room on a VM that is on its way.
    fn reserve(&mut self, rank: Rank, class: ClassId, vm: VmKey);
    /// Takes such a promise back, if there is one: whose it was.
    fn withdraw(&mut self, container: ContainerId) -> Option<(Rank, ClassId)>;
    /// What is parked waits for a limit: an idle VM may have to go, before lower ones take it. Where
    /// none goes, the busy one that is kept free of lower ones from here on.
    fn make_room(&mut self, class: ClassId, parked: &Parked, kept: &Kept) -> Option<VmKey>;
    /// Asks for a VM; its key.
    fn create(&mut self, container: ContainerId, name: &TypeName, image: &ImageId) -> VmKey;
}

/// Makes one pass over everything that waits. Another one is due if it says so: room on VMs that are
/// on their way became free after somebody of higher rank had been told that there is none.
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
    /// What is to be looked at next, of each shape that is not parked; now and then more than one.
    heads: BinaryHeap<Reverse<(Rank, ClassId)>>,
    parked: BTreeMap<ClassId, Parked>,
    /// Those of the priority being placed for which room may have to be made.
    without_room: Vec<ClassId>,
    kept: Kept,
    /// A promise was taken back that nobody needs any more.
    freed: bool,
}

impl<H: PlacementOps> Pass<'_, H> {
    fn run(mut self) -> (Verdicts, bool) {
        let (mut priority, mut last) = (None, None);
        while let Some(Reverse(head)) = self.heads.pop() {
            let (rank, id) = head;
            // Room is made before anything of lower priority takes it; among equals, what fits on an
            // idle VM goes first, so that VMs do not come and go with each of them.
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

    /// Does what is to be done for one container, and looks at the next of its shape later.
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
        // Where this one found no ready VM, no other of its shape does.
        self.push_next(rank, id, true);
    }

    /// The next container of a shape is to be looked at: of those that were promised no room, or of
    /// all.
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

/// What is best for one container.
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
