//! Failures of one VM, injected by a story.

use std::time::Duration;

use longshore_core::ids::ContainerId;

use super::{VmHand, minutes};
use crate::world::dense_map::container_id;

impl VmHand<'_> {
    pub(super) fn vm(&mut self) -> &mut crate::world::vm::Vm {
        let vms = &mut self.story.world.vms.alive;
        vms.get_mut(&self.id).expect("VM exists")
    }

    /// Announces the preemption of the VM; the cloud preempts the VM two minutes later.
    pub fn announce_loss(self) {
        let world = &mut self.story.world;
        world.cloud.announce_loss(&mut world.scheduler, &self.id);
    }

    /// Preempts the VM without notice.
    pub fn take_back(self) {
        let world = &mut self.story.world;
        world.cloud.take_back(&mut world.scheduler, &self.id);
    }

    /// Reboots the VM: all runners are lost, and the VM is unreachable for a minute.
    pub fn reboot(self) {
        let world = &mut self.story.world;
        world.runners.crash_on(&mut world.scheduler, &self.id);
        self.be_silent_for(minutes(1));
    }

    /// Ends the VM without notice.
    pub fn vanish(self) {
        let world = &mut self.story.world;
        world.cloud.end(&mut world.scheduler, &self.id);
    }

    /// Makes the runners on the VM ignore TERM.
    pub fn ignore_term(self) {
        self.story.world.runners.harden(&self.id, false);
    }

    /// Makes the runners on the VM ignore TERM and KILL.
    pub fn ignore_kill(self) {
        self.story.world.runners.harden(&self.id, true);
    }

    /// Crashes all runners on the VM.
    pub fn crash_runners(self) {
        let world = &mut self.story.world;
        world.runners.crash_on(&mut world.scheduler, &self.id);
    }

    /// Freezes the VM permanently.
    pub fn freeze(mut self) {
        let now = self.story.world.scheduler.now;
        self.vm().freezes_at = now;
    }

    /// Makes the VM unreachable for `span`.
    pub fn be_silent_for(mut self, span: Duration) {
        let now = self.story.world.scheduler.now;
        self.vm().silent = (now, now + span);
    }

    /// Makes the VM report itself broken.
    pub fn break_down(mut self) {
        let now = self.story.world.scheduler.now;
        self.vm().broken_at = now;
    }

    /// Makes every start on the VM fail.
    pub fn refuse_starts(mut self) {
        self.vm().refuses_starts = true;
    }

    /// Makes another host answer at the address of the VM.
    pub fn be_replaced(mut self) {
        self.vm().impostor = true;
    }

    /// Keeps the run lock of the container held for `span`, without a runner.
    pub fn keep_stale_lock(mut self, container: ContainerId, span: Duration) {
        let until = self.story.world.scheduler.now + span;
        self.vm().stale.insert(container, until);
    }

    /// Starts a runner of a container unknown to the story and to the queue, and returns the uuid
    /// of the container.
    pub fn run_stranger(self) -> ContainerId {
        let container = container_id(999_999_999);
        let world = &mut self.story.world;
        world.runners.plant(&self.id, container);
        container
    }
}
