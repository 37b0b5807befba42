//! Mutants with code of their own.

use super::Capacity;
use crate::fleet::Fleet;
use crate::mutants::Mutant;
use crate::resources::MicroDollars;

impl Capacity {
    /// `Mutant::PendingCreatesUnpriced`: leaves unconfirmed creates out of the price.
    pub(super) fn unpriced_creates(&self, fleet: &Fleet, price: MicroDollars) -> MicroDollars {
        if !self.mutants.has(Mutant::PendingCreatesUnpriced) {
            return price;
        }
        let confirmed = fleet.iter().filter(|vm| vm.identity.instance.is_some());
        MicroDollars(confirmed.map(|vm| vm.price().0).sum())
    }
}
