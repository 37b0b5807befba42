//! Deterministic simulator: the unmodified core in a seeded world with virtual time.
//!
//! A seed, a single number, reproduces a failing run on any machine. The world simulates the
//! adapters: the world accepts commands of the core, changes the true state, invisible to the core,
//! and delivers inputs late, twice, out of order or never.
//!
//! ```
//! use longshore_sim::{Plan, Profile, Verdict, run};
//!
//! let report = run(&Plan::generate(1, Profile::Lite), false);
//! assert_eq!(report.verdict, Verdict::Ok, "{:?}", report.violations);
//! ```
#![forbid(unsafe_code)]

mod checks;
mod run;
pub mod story;
mod world;

pub use run::minimize::{Minimized, minimize};
pub use run::recorded::{WorkloadError, read_workload};
pub use run::replay::{ReplayError, replay};
pub use run::{Report, Verdict, cli, reference_placement, run};
pub use world::World;
pub use world::core_hook::CoreHook;
pub use world::coverage::CoverageMark;
pub use world::faults::{Fault, FaultPlan};
pub use world::plan::{Plan, Profile};
pub use world::rng::Ratio;
pub use world::scheduler::Violation;
pub use world::workload::Arrival;
