//! Index of instances by free capacity.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{ImageId, TypeName, VmKey};
use crate::ranked_types::Types;
use crate::resources::Resources;

/// Order of an instance within its type: busy before idle, then by free cores, free memory and age.
pub(super) type FreeSlot = (bool, u32, u64, VmKey);

/// Instances by image, type and free capacity. Adding an instance costs O(log instances).
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct FreeIndex {
    by_image: BTreeMap<ImageId, BTreeMap<TypeName, BTreeSet<FreeSlot>>>,
}

impl FreeIndex {
    pub(super) fn insert(&mut self, name: &TypeName, image: &ImageId, slot: FreeSlot) {
        let types = match self.by_image.get_mut(image) {
            Some(types) => types,
            None => self.by_image.entry(image.clone()).or_default(),
        };
        match types.get_mut(name) {
            Some(slots) => slots.insert(slot),
            None => types.entry(name.clone()).or_default().insert(slot),
        };
    }

    pub(super) fn remove(&mut self, name: &TypeName, image: &ImageId, slot: &FreeSlot) {
        let Some(types) = self.by_image.get_mut(image) else {
            return;
        };
        if let Some(slots) = types.get_mut(name) {
            slots.remove(slot);
            if slots.is_empty() {
                types.remove(name);
            }
        }
        if types.is_empty() {
            self.by_image.remove(image);
        }
    }

    /// Best instance for a need: busy before idle, then the least free capacity, then the order of
    /// types, then the oldest. O(types · cores · log instances), as long as cores and memory
    /// exclude unsuitable instances; further instances refused by `fits` cost a step each.
    pub(super) fn best(
        &self,
        types: &Types,
        image: &ImageId,
        need: &Resources,
        fits: impl Fn(VmKey) -> bool,
    ) -> Option<VmKey> {
        let of_image = self.by_image.get(image)?;
        let candidates = types.found_in(of_image).filter_map(|(rank, slots)| {
            let (idle, vcpus, ram, key) = first_fit(slots, need, &fits)?;
            Some((idle, vcpus, rank, ram, key))
        });
        candidates.min().map(|(.., key)| key)
    }

    /// Busy instance of the given types with the most free capacity. O(types · log instances).
    pub(super) fn least_busy(&self, types: &Types, image: &ImageId) -> Option<FreeSlot> {
        let of_image = self.by_image.get(image)?;
        let first_idle = (true, 0, 0, VmKey(0));
        let last_busy = |(_, slots): (usize, &BTreeSet<FreeSlot>)| {
            slots.range(..first_idle).next_back().copied()
        };
        types.found_in(of_image).filter_map(last_busy).max()
    }
}

/// First suitable slot: busy before idle, least free capacity first. The number of distinct free
/// core counts is small; for each count, slots with too little memory are skipped in one step.
fn first_fit(
    slots: &BTreeSet<FreeSlot>,
    need: &Resources,
    fits: impl Fn(VmKey) -> bool,
) -> Option<FreeSlot> {
    let mut from = (false, need.vcpus, need.ram, VmKey(0));
    'skip: loop {
        for slot in slots.range(from..) {
            let (idle, vcpus, ram, key) = *slot;
            if vcpus < need.vcpus {
                // First idle slot.
                from = (idle, need.vcpus, need.ram, VmKey(0));
                continue 'skip;
            }
            if ram < need.ram {
                from = (idle, vcpus, need.ram, VmKey(0));
                continue 'skip;
            }
            if fits(key) {
                return Some(*slot);
            }
        }
        return None;
    }
}
