//! Reservations of waiting containers on pending instances.
//!
//! A reservation stays from pass to pass until the container stops waiting, the instance stops
//! being pending, or a container of higher rank needs the room. It only prevents a second create
//! request; once the instance is ready, rank alone decides the starts.

use std::collections::{BTreeMap, BTreeSet};

use super::vm::Vm;
use crate::ids::{ContainerId, ImageId, TypeName, VmKey};
use crate::queue::classes::{ClassId, Rank};
use crate::ranked_types::Types;

/// Room on a pending instance for a container.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) struct Reservation {
    pub(crate) vm: VmKey,
    pub(crate) rank: Rank,
    pub(crate) class: ClassId,
    pub(crate) supervisor: bool,
}

/// Reservations on instances of one type, the lowest rank last.
type OfKind = BTreeSet<(Rank, VmKey)>;

/// All reservations. Adding and removing one costs O(log reservations).
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Reservations {
    by_container: BTreeMap<ContainerId, Reservation>,
    by_kind: BTreeMap<ImageId, BTreeMap<TypeName, OfKind>>,
    supervisors: BTreeSet<Rank>,
    /// Reservations broken by a change of their instance, until taken.
    broken: Vec<Reservation>,
}

impl Reservations {
    pub(super) fn make(&mut self, name: &TypeName, image: &ImageId, reservation: Reservation) {
        let before = self.by_container.insert(reservation.rank.2, reservation);
        assert!(before.is_none(), "one promise at a time");
        let types = self.by_image(image);
        let place = (reservation.rank, reservation.vm);
        match types.get_mut(name) {
            Some(of_kind) => of_kind.insert(place),
            None => types.entry(name.clone()).or_default().insert(place),
        };
        if reservation.supervisor {
            self.supervisors.insert(reservation.rank);
        }
    }

    fn by_image(&mut self, image: &ImageId) -> &mut BTreeMap<TypeName, OfKind> {
        if !self.by_kind.contains_key(image) {
            self.by_kind.insert(image.clone(), BTreeMap::new());
        }
        self.by_kind.get_mut(image).expect("just inserted")
    }

    /// Removes a reservation on an instance of this type and image.
    pub(super) fn forget(
        &mut self,
        name: &TypeName,
        image: &ImageId,
        id: ContainerId,
    ) -> Option<Reservation> {
        let reservation = self.by_container.remove(&id)?;
        self.supervisors.remove(&reservation.rank);
        if let Some(types) = self.by_kind.get_mut(image) {
            if let Some(of_kind) = types.get_mut(name) {
                of_kind.remove(&(reservation.rank, reservation.vm));
                if of_kind.is_empty() {
                    types.remove(name);
                }
            }
            if types.is_empty() {
                self.by_kind.remove(image);
            }
        }
        Some(reservation)
    }

    /// Removes all reservations on an instance and records them as broken.
    pub(super) fn break_all_of(&mut self, vm: &mut Vm) {
        for (rank, _) in vm.work.reserved.take() {
            let reservation = self.forget(&vm.identity.type_name, &vm.identity.image, rank.2);
            self.broken.extend(reservation);
        }
    }

    /// Records a removed reservation as broken.
    pub(super) fn note_broken(&mut self, reservation: Reservation) {
        self.broken.push(reservation);
    }

    /// Supervisors with a reservation.
    pub(super) fn supervisors(&self) -> Vec<ContainerId> {
        self.supervisors.iter().map(|rank| rank.2).collect()
    }

    pub(super) fn any_broken(&self) -> bool {
        !self.broken.is_empty()
    }

    pub(super) fn take_broken(&mut self) -> Vec<Reservation> {
        std::mem::take(&mut self.broken)
    }

    pub(super) fn of(&self, id: &ContainerId) -> Option<&Reservation> {
        self.by_container.get(id)
    }

    /// Containers with a reservation.
    pub(super) fn containers(&self) -> impl Iterator<Item = ContainerId> + '_ {
        self.by_container.keys().copied()
    }

    /// Lowest-ranked reservation on instances of the given types and image. O(types · log
    /// reservations).
    pub(super) fn lowest(&self, types: &Types, image: &ImageId) -> Option<(Rank, VmKey)> {
        let of_image = self.by_kind.get(image)?;
        let found = types.found_in(of_image);
        found
            .filter_map(|(_, of_kind)| of_kind.last())
            .max()
            .copied()
    }

    /// Number of reservations of higher rank, up to `most`. O(most).
    pub(super) fn above(&self, rank: Rank, most: usize) -> usize {
        let kinds = self.by_kind.values().flat_map(BTreeMap::values);
        let above = kinds.flat_map(|of_kind| of_kind.range(..(rank, VmKey(0))));
        above.take(most).count()
    }

    /// Number of supervisors' reservations of higher rank, up to `most`. O(most).
    pub(super) fn supervisors_above(&self, rank: Rank, most: usize) -> usize {
        self.supervisors.range(..rank).take(most).count()
    }
}
