//! Preemptible instances, which the cloud takes back when it likes.

use std::time::Duration;

use longshore_core::ids::InstanceId;

use crate::world::cloud::Cloud;
use crate::world::events::{CloudStep, Happening, VmStep};
use crate::world::faults::Fault;
use crate::world::scheduler::Scheduler;

/// From the announcement to the end.
const SPOT_NOTICE: Duration = Duration::from_secs(120);

impl Cloud {
    /// Whether and when a new instance will be taken back.
    pub(crate) fn spot_fates(&mut self, scheduler: &mut Scheduler, id: &InstanceId) {
        if !self.instances.get(id).is_some_and(|i| i.offer.preemptible) {
            return;
        }
        let pause = Duration::from_secs(self.rng.uneven(1, 3600));
        let taken = CloudStep::Preempted {
            id: id.clone(),
            announced: false,
        };
        let steps = [
            (Fault::SpotNotice, CloudStep::Noticed(id.clone())),
            (Fault::SpotTaken, taken),
        ];
        for (fault, step) in steps {
            if scheduler.faults.strikes(&mut self.rng, fault) {
                scheduler.after(pause, Happening::Cloud(step));
            }
        }
    }

    /// The VM, lists or both tell that an instance is taken back in two minutes.
    pub(crate) fn announce_loss(&mut self, scheduler: &mut Scheduler, id: &InstanceId) {
        let Some(instance) = self.instances.get_mut(id).filter(|i| i.ended.is_none()) else {
            return;
        };
        scheduler.note(|| format!("{id} is announced to be taken back"));
        let way = self.rng.below(3);
        instance.record.preempted |= way != 0;
        if way != 1 {
            let told = VmStep::Noticed {
                instance: id.clone(),
                at: scheduler.now + SPOT_NOTICE,
            };
            scheduler.after(Duration::ZERO, Happening::Vm(Box::new(told)));
        }
        let end = CloudStep::Preempted {
            id: id.clone(),
            announced: true,
        };
        scheduler.after(SPOT_NOTICE, Happening::Cloud(end));
    }

    /// An instance is taken back; mostly the cloud says that it was not by our doing.
    pub(crate) fn take_back(&mut self, scheduler: &mut Scheduler, id: &InstanceId) {
        if self.is_alive(id) {
            scheduler.note(|| format!("{id} is taken back"));
            if let Some(instance) = self.instances.get_mut(id) {
                instance.record.preempted |= !self.rng.one_in(4);
            }
            self.end(scheduler, id);
        }
    }
}
