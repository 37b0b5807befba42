//! Decisions of the dispatcher as a pure state machine: timestamped inputs in, commands out.
//!
//! No clock, no socket, no thread, no ambient randomness. Production drives the core with real
//! adapters, the simulator with a seeded world, and a journal of inputs replays every decision.
//!
//! ```
//! use longshore_core::{Dispatcher, config::Config, input::Input, time::Timestamp};
//!
//! let now = Timestamp::from_nanos(1);
//! let mut core = Dispatcher::new(Config::default(), [7; 32], now);
//! core.handle_input(now, Input::Leadership { held: true });
//! core.handle_timeout(now);
//! let first = core.poll_command().expect("the queue is read first");
//! assert_eq!(first.id.0, 1);
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod backoff;
mod cancel_reason;
mod capacity;
pub mod command;
pub mod config;
mod container_class;
mod dispatcher;
pub mod event;
mod explain;
mod fleet;
mod hash;
pub mod ids;
pub mod input;
pub mod mutants;
mod outbox;
mod placement;
mod queue;
mod ranked_types;
pub mod resources;
mod signals;
pub mod time;
mod timers;
mod unordered_map;
pub mod view;
mod wait_reason;

pub use cancel_reason::CancelReason;
pub use capacity::CreateBlocked;
pub use capacity::budgets::BudgetLeft;
pub use container_class::{IneligibleType, ResourceKind, Shortfall};
pub use dispatcher::Dispatcher;
pub use dispatcher::memory_stats::MemoryStats;
pub use explain::container::{ContainerExplanation, Eligible, Fallback, PendingInstance};
pub use explain::health::HealthProblem;
pub use explain::instance::{
    InstanceExplanation, OnInstance, Origin, PlannedTermination, Unschedulable,
};
pub use fleet::vm::{BehaviorCause, Phase, RunnerPhase, ShutdownReason};
pub use signals::{StopReason, StopStage};
pub use timers::TimeoutReason;
pub use wait_reason::WaitReason;
