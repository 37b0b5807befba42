//! The dispatcher's decisions as a pure state machine: timestamped inputs in, commands out.
//!
//! No clock, no socket, no thread, no ambient randomness. Production drives it with real adapters,
//! the simulator with a seeded world, a journal replays it.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod command;
pub mod config;
pub mod ids;
pub mod input;
pub mod resources;
pub mod time;
