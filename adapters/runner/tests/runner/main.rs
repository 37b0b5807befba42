//! Tests of the runner binary against a small containers API, one module per area.

mod command_line;
mod killing;
mod lifecycle;
mod listing;
mod logging;
mod starting;
mod support;
mod trouble;
