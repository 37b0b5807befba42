//! The unmodified core against a seeded world in virtual time.
//!
//! A failing run is one number that anyone can replay. The world mirrors the adapters: it takes the
//! core's commands, changes a truth that the core cannot see, and answers with inputs late, twice,
//! out of order or never.
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
