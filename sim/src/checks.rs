//! Checks of every rule of which a broken one is a bug of the core.

pub(crate) mod budgets;
pub(crate) mod commands;
pub(crate) mod events;
pub(crate) mod ledger;
pub(crate) mod memory_bounds;
pub(crate) mod preconditions;
pub(crate) mod probe_fairness;
pub(crate) mod retries;
pub(crate) mod shutdown_reasons;
pub(crate) mod wait_reasons;
