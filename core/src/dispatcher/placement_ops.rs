//! Effects of placement passes.

use super::Dispatcher;
use crate::capacity::CreateBlocked;
use crate::command::QueueAction;
use crate::container_class::ContainerClass;
use crate::fleet::reservations::Reservation;
use crate::fleet::vm::{Phase, ShutdownReason};
use crate::fleet::{Fleet, Kept};
use crate::ids::{ContainerId, ImageId, TypeName, VmKey};
use crate::mutants::Mutant;
use crate::placement::{self, Parked, PlacementOps, Verdicts};
use crate::queue::Queue;
use crate::queue::classes::{ClassId, Rank};
use crate::queue::entry::{Entry, Op};
use crate::ranked_types::Types;
use crate::timers::TimeoutReason;
use crate::wait_reason::WaitReason;

impl Dispatcher {
    /// Runs a placement pass, and schedules the next one.
    pub(super) fn place(&mut self) {
        self.queue.file_arrived();
        self.note_reservations();
        if !self.is_synced() {
            return;
        }
        self.verdicts = Verdicts::default();
        (self.verdicts, self.dirty.placement) = placement::pass(self);
        self.set_clocks();
        self.passes += 1;
        let blocked = self.verdicts.parked.values().flat_map(|p| &p.blocked);
        let fallback = self.config.sizing.spot_fallback.after;
        let fallback = fallback.and_then(|after| {
            self.capacity
                .failing_for(after)
                .filter(|at| *at > self.now)
                .min()
        });
        let soonest = blocked.filter_map(|(_, why)| why.until());
        let soonest = soonest.chain(fallback).min();
        match soonest {
            Some(at) => self.timers.set(TimeoutReason::Place, at),
            None => self.timers.cancel(TimeoutReason::Place),
        }
    }

    /// True if reservations ended since the last pass.
    pub(super) fn any_reservation_ended(&self) -> bool {
        self.fleet.any_reservation_broken() || self.queue.classes().any_left()
    }

    /// Reopens containers whose pending instance is gone, and removes reservations of containers
    /// that no longer wait.
    fn note_reservations(&mut self) {
        let limits = self
            .capacity
            .start_limits(self.now, &self.config.limits, &self.fleet);
        let before = std::mem::replace(&mut self.start_limits, limits);
        // Reservations never exceed the number of containers allowed to start.
        if before.0 != limits.0 {
            self.fleet.release_all_reservations();
        } else if before.1 != limits.1 {
            self.fleet.release_supervisor_reservations();
        }
        for id in self.queue.take_left() {
            self.fleet.withdraw(id);
        }
        for reservation in self.fleet.take_broken_reservations() {
            self.queue
                .set_reserved(reservation.class, reservation.rank, false);
        }
    }
}

impl Dispatcher {
    /// Obstacle found by the last placement pass for a container without an instance.
    pub(crate) fn instance_wait_reason(&self, entry: &Entry) -> WaitReason {
        if let Some(key) = self.fleet.reserved_for(&entry.id)
            && let Some(vm) = self.fleet.get(key)
        {
            return WaitReason::Booting {
                instance_type: vm.identity.type_name.clone(),
                instance: vm.name(),
                exists: vm.phase != Phase::Creating,
            };
        }
        let class = entry.class.as_ref().ok();
        match class.and_then(|class| self.verdicts.parked.get(class)) {
            Some(parked) => WaitReason::CreateBlocked(parked.blocked.clone()),
            None => WaitReason::NotEvaluated,
        }
    }
}

impl PlacementOps for Dispatcher {
    fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    fn queue(&self) -> &Queue {
        &self.queue
    }

    fn may_start(&self, class: &ContainerClass, rank: Rank) -> Result<(), CreateBlocked> {
        let limits = &self.config.limits;
        self.capacity
            .may_start(self.now, limits, &self.fleet, class.supervisor, rank)
    }

    fn may_create(&self, name: &TypeName, image: &ImageId) -> Result<(), CreateBlocked> {
        let offer = &self.config.types[name];
        let kind = (name, image);
        self.capacity
            .may_create(self.now, &self.config, &self.fleet, kind, offer)
    }

    fn uses_fallback(&self, types: &[TypeName]) -> bool {
        let after = self.config.sizing.spot_fallback.after;
        let since = self.capacity.all_fail_since(self.now, &self.config, types);
        after
            .zip(since)
            .is_some_and(|(after, since)| since + after <= self.now)
    }

    fn assign(&mut self, container: ContainerId, class: ClassId, vm: VmKey) {
        let class = &self.queue.class(class).class;
        let taken = (class.need, class.supervisor);
        self.assign_runner(vm, container, taken);
        self.update_record(container, Op::Lock, QueueAction::Lock { id: container });
        if self.mutant(Mutant::StartBeforeLock) {
            self.start(vm, container);
        }
    }

    fn reserve(&mut self, rank: Rank, class: ClassId, vm: VmKey) {
        let wanted = &self.queue.class(class).class;
        let (need, supervisor) = (wanted.need, wanted.supervisor);
        self.queue.set_reserved(class, rank, true);
        let reservation = Reservation {
            vm,
            rank,
            class,
            supervisor,
        };
        self.fleet.reservation(reservation, need);
    }

    fn withdraw(&mut self, container: ContainerId) -> Option<(Rank, ClassId)> {
        let Reservation { rank, class, .. } = self.fleet.withdraw(container)?;
        self.queue.set_reserved(class, rank, false);
        Some((rank, class))
    }

    fn create(&mut self, container: ContainerId, name: &TypeName, image: &ImageId) -> VmKey {
        Dispatcher::create(self, container, name, image)
    }

    /// Terminates an idle instance if a limit blocks the parked class. One at a time: the next pass
    /// checks the effect. O(types · log), for classes parked by a limit. Without an idle instance,
    /// returns the busy instance with most room, to be kept free of lower ranks, unless a suitable
    /// instance is kept already: the higher rank goes first there.
    fn make_room(&mut self, class: ClassId, parked: &Parked, kept: &Kept) -> Option<VmKey> {
        if !parked.blocked.iter().any(|(_, why)| why.is_lasting()) {
            return None;
        }
        if self.terminate_idle_for(parked) {
            return None;
        }
        let image = &self.queue.class(class).class.image;
        let names = parked.blocked.iter().map(|(name, _)| name.clone());
        let types = Types::from(names.collect::<Vec<_>>());
        let waited_for = |name: &TypeName| kept.contains_key(&(name.clone(), image.clone()));
        if types.iter().any(waited_for) || self.mutant(Mutant::NoVmKept) {
            return None;
        }
        self.fleet.least_busy(&types, image)
    }
}

impl Dispatcher {
    /// Terminates an idle instance so that a limit leaves room for the parked class. True if an
    /// instance terminates, now or already.
    fn terminate_idle_for(&mut self, parked: &Parked) -> bool {
        let mut limited = parked.blocked.iter().filter(|(_, why)| why.room_helps());
        let Some((wanted, why)) = limited.find_map(|(name, why)| {
            let wanted = self.config.types.get(name)?;
            let is_backed_off = self
                .capacity
                .is_backed_off(self.now, &self.fleet, name, wanted);
            (!is_backed_off).then_some((wanted, why))
        }) else {
            return false;
        };
        let group = (wanted.cloud, wanted.quota_group.clone());
        let group = matches!(why, CreateBlocked::Quota { .. }).then_some(&group);
        if self.fleet.any_terminating(group) {
            return true;
        }
        let Some(key) = self.fleet.dearest_idle(group) else {
            return false;
        };
        self.cordon(key, ShutdownReason::MakeRoom);
        true
    }
}
