//! The unmodified core against a seeded world in virtual time.
//!
//! A failing run is one number that anyone can replay. The world mirrors the adapters: it takes the
//! core's commands, changes a truth that the core cannot see, and answers with inputs late, twice,
//! out of order or never.
//!
//! ```
//! use longshore_sim::{Plan, Profile, Verdict, run};
//!
//! let report = run(&Plan::draw(1, Profile::Lite), false);
//! assert_eq!(report.verdict, Verdict::Ok, "{:?}", report.violations);
//! ```
#![forbid(unsafe_code)]

mod batch;
mod chance;
pub mod cli;
mod cloud;
mod faults;
#[cfg(feature = "plan")]
mod forecast;
mod knobs;
mod leaving;
mod losses;
mod marks;
mod minimize;
pub mod naive;
mod operator;
mod oracle;
mod process;
mod profile;
mod queue;
mod reasons;
mod recorded;
mod replay;
mod rest;
mod rules;
mod run;
mod runner;
mod stage;
pub mod story;
mod table;
mod tamper;
mod thrift;
mod trace;
mod turns;
mod users;
mod validity;
mod vigil;
mod vm;
mod watch;
mod workload;
mod world;

pub use chance::Ratio;
pub use faults::{Fault, FaultPlan};
pub use marks::Mark;
pub use minimize::{Minimized, minimize};
pub use profile::{Plan, Profile};
pub use recorded::{WorkloadError, read_workload};
pub use replay::{ReplayError, replay};
pub use run::{Report, Verdict, run};
pub use stage::Violation;
pub use tamper::Hand;
pub use workload::Arrival;
pub use world::World;
