//! Carries out what a pass of placement decides.

use super::Dispatcher;
use crate::capacity::{Blocked, Promised};
use crate::command::QueueAction;
use crate::config::Config;
use crate::fleet::Fleet;
use crate::fleet::vm::{Phase, ShutdownReason, Vm};
use crate::ids::{ContainerId, ImageId, TypeName, VmKey};
use crate::placement::sizing::Shape;
use crate::placement::{self, Hand, Kept, Parked, Verdicts};
use crate::planted::Planted;
use crate::queue::Queue;
use crate::queue::entry::Op;
use crate::queue::shapes::ShapeId;
use crate::timers::TimeoutReason;

impl Dispatcher {
    /// Makes a pass, and decides when the next one is due at the latest.
    pub(super) fn place(&mut self) {
        if !self.knows_the_world() {
            return;
        }
        self.verdicts = Verdicts::default();
        self.verdicts = placement::pass(self);
        self.set_clocks();
        self.passes += 1;
        let blocked = self.verdicts.parked.values().flat_map(|p| &p.blocked);
        let fallback = self.config.sizing.spot_fallback.after;
        let fallback = fallback.and_then(|after| {
            self.capacity
                .fails_for(after)
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
}

impl Hand for Dispatcher {
    fn config(&self) -> &Config {
        &self.config
    }

    fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    fn queue(&self) -> &Queue {
        &self.queue
    }

    fn may_start(&self, shape: &Shape, promised: &Promised) -> Result<(), Blocked> {
        let limits = &self.config.limits;
        self.capacity
            .may_start(self.now, limits, &self.fleet, shape.supervisor, promised)
    }

    fn may_create(&self, name: &TypeName, image: &ImageId) -> Result<(), Blocked> {
        let offer = &self.config.types[name];
        let kind = (name, image);
        self.capacity
            .may_create(self.now, &self.config, &self.fleet, kind, offer)
    }

    fn falls_back(&self, types: &[TypeName]) -> bool {
        let after = self.config.sizing.spot_fallback.after;
        let since = self.capacity.all_fail_since(self.now, &self.config, types);
        after
            .zip(since)
            .is_some_and(|(after, since)| since + after <= self.now)
    }

    fn assign(&mut self, container: ContainerId, vm: VmKey) {
        let need = self.known_need(container).expect("what waits has a shape");
        self.assign_runner(vm, container, need);
        self.change(container, Op::Lock, QueueAction::Lock { id: container });
        if self.planted(Planted::StartBeforeLock) {
            self.start(vm, container);
        }
    }

    fn create(&mut self, container: ContainerId, name: &TypeName, image: &ImageId) -> VmKey {
        Dispatcher::create(self, container, name, image)
    }

    /// Where a limit keeps something waiting, an idle VM on which it does not fit goes. One at a
    /// time: the next pass sees whether that was enough. O(instances), for what a limit parks.
    /// Where none can go, the busy one that has most room is kept, unless one that would do is kept
    /// already: whoever ranks higher comes first there.
    fn make_room(&mut self, shape: ShapeId, parked: &Parked, kept: &Kept) -> Option<VmKey> {
        if !parked.blocked.iter().any(|(_, why)| why.lasts()) {
            return None;
        }
        if self.gives_one_back(parked) {
            return None;
        }
        let image = &self.queue.shape(shape).shape.image;
        let types: Vec<TypeName> = parked
            .blocked
            .iter()
            .map(|(name, _)| name.clone())
            .collect();
        let waited_for = |name: &TypeName| kept.contains_key(&(name.clone(), image.clone()));
        if types.iter().any(waited_for) || self.planted(Planted::NothingKept) {
            return None;
        }
        self.fleet.least_busy(&types, image)
    }
}

impl Dispatcher {
    /// Whether an idle VM goes, or one goes already, so that a limit leaves room for what is parked.
    fn gives_one_back(&mut self, parked: &Parked) -> bool {
        let mut limited = parked.blocked.iter().filter(|(_, why)| why.room_helps());
        let Some((wanted, why)) = limited.find_map(|(name, why)| {
            let wanted = self.config.types.get(name)?;
            let rests = self.capacity.rests(self.now, &self.fleet, name, wanted);
            (!rests).then_some((wanted, why))
        }) else {
            return false;
        };
        let helps = |vm: &&Vm| {
            let same_group = vm.offer.as_ref().map(|o| &o.quota_group) == Some(&wanted.quota_group);
            !matches!(why, Blocked::Quota { .. }) || vm.cloud == wanted.cloud && same_group
        };
        let leaving = |vm: &&Vm| matches!(vm.phase, Phase::Fenced | Phase::Shutdown);
        if self.fleet.iter().filter(leaving).any(|vm| helps(&vm)) {
            return true;
        }
        let idle = self.fleet.idle_ready().into_iter();
        let dearest_first = |vm: &&Vm| (vm.price(), std::cmp::Reverse(vm.key));
        let Some(key) = idle
            .filter(helps)
            .max_by_key(dearest_first)
            .map(|vm| vm.key)
        else {
            return false;
        };
        self.fence(key, ShutdownReason::MakeRoom);
        true
    }
}
