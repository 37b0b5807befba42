//! The queue server over real HTTP on 127.0.0.1.

mod bad_input;
mod events;
mod invariants;
mod lists;
mod logs;
mod operation;
mod requeue;
mod roles;
mod routes;
mod support;
mod transitions;
