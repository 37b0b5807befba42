//! What a story does to one VM.

use std::time::Duration;

use longshore_core::ids::ContainerId;

use super::{VmHand, minutes};
use crate::world::dense_map::container_id;

impl VmHand<'_> {
    pub(super) fn vm(&mut self) -> &mut crate::world::vm::Vm {
        let vms = &mut self.story.world.vms.alive;
        vms.get_mut(&self.id).expect("it exists")
    }

    /// The cloud announces that it takes it back in two minutes, and does so.
    pub fn announce_loss(self) {
        let world = &mut self.story.world;
        world.cloud.announce_loss(&mut world.scheduler, &self.id);
    }

    /// The cloud takes it back without notice.
    pub fn take_back(self) {
        let world = &mut self.story.world;
        world.cloud.take_back(&mut world.scheduler, &self.id);
    }

    /// It restarts: what ran on it is gone, and it is not reached for a minute.
    pub fn reboot(self) {
        let world = &mut self.story.world;
        world.runners.crash_on(&mut world.scheduler, &self.id);
        self.be_silent_for(minutes(1));
    }

    /// It ends without notice.
    pub fn vanish(self) {
        let world = &mut self.story.world;
        world.cloud.end(&mut world.scheduler, &self.id);
    }

    /// What runs on it ignores TERM.
    pub fn ignore_term(self) {
        self.story.world.runners.harden(&self.id, false);
    }

    /// What runs on it ignores TERM and KILL.
    pub fn ignore_kill(self) {
        self.story.world.runners.harden(&self.id, true);
    }

    /// Its runners die without a word.
    pub fn crash_runners(self) {
        let world = &mut self.story.world;
        world.runners.crash_on(&mut world.scheduler, &self.id);
    }

    /// It hangs for good.
    pub fn freeze(mut self) {
        let now = self.story.world.scheduler.now;
        self.vm().freezes_at = now;
    }

    /// It cannot be reached for so long.
    pub fn be_silent_for(mut self, span: Duration) {
        let now = self.story.world.scheduler.now;
        self.vm().silent = (now, now + span);
    }

    /// It reports itself broken.
    pub fn break_down(mut self) {
        let now = self.story.world.scheduler.now;
        self.vm().broken_at = now;
    }

    /// Every start on it fails.
    pub fn refuse_starts(mut self) {
        self.vm().refuses_starts = true;
    }

    /// Somebody else answers in its place.
    pub fn be_replaced(mut self) {
        self.vm().impostor = true;
    }

    /// Something keeps the lock of this container for so long, without a runner.
    pub fn keep_stale_lock(mut self, container: ContainerId, span: Duration) {
        let until = self.story.world.scheduler.now + span;
        self.vm().stale.insert(container, until);
    }

    /// A runner of a container appears that nobody in the story knows; its name.
    pub fn run_stranger(self) -> ContainerId {
        let container = container_id(999_999_999);
        let world = &mut self.story.world;
        world.runners.plant(&self.id, container);
        container
    }
}
