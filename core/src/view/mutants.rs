//! Mutants with code of their own.

use super::View;
use crate::capacity::CreateBlocked;
use crate::mutants::Mutant;
use crate::wait_reason::WaitReason;

impl View<'_> {
    /// `Mutant::ReasonWrong`: replaces every obstacle by the limit on instances.
    pub(super) fn wrong_reason(&self, reason: WaitReason) -> WaitReason {
        match reason {
            WaitReason::CreateBlocked(blocked) if self.core.mutant(Mutant::ReasonWrong) => {
                let types = blocked.into_iter();
                let wrong = types.map(|(name, _)| (name, CreateBlocked::MaxInstances));
                WaitReason::CreateBlocked(wrong.collect())
            }
            reason => reason,
        }
    }
}
