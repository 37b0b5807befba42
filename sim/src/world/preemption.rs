//! Preemptible instances, subject to preemption by the cloud at any time.

use std::time::Duration;

use longshore_core::ids::InstanceId;

use crate::world::cloud::Cloud;
use crate::world::events::{CloudStep, Happening, VmStep};
use crate::world::faults::Fault;
use crate::world::scheduler::Scheduler;

/// Time from the preemption notice to the preemption.
const SPOT_NOTICE: Duration = Duration::from_secs(120);

impl Cloud {
    /// Draws the preemption of a new instance and schedules the notice and the end.
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

    /// Announces a preemption in two minutes through the VM, through lists, or through both.
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

    /// Preempts an instance; in three of four cases later lists mark the instance as preempted.
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
