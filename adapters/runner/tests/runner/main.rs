//! The real runner against a small containers API: one module for each face of the program.

mod command_line;
mod killing;
mod lifecycle;
mod listing;
mod logging;
mod starting;
mod support;
mod trouble;
