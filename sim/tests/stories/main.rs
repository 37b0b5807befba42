//! Scenarios for the rules of the dispatcher, in a simulated world.

mod boot_breaker;
mod broken_instances;
mod budgets;
mod capacity;
mod creates;
mod disappearance;
mod explain;
mod identity;
mod idle_shutdown;
mod leadership;
mod lifecycle;
mod limits;
mod operator;
mod placement;
mod probes;
mod queue;
mod regressions;
mod reload;
mod restart;
mod spot;
mod starts;
mod stops;
