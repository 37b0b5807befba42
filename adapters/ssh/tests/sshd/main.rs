//! The crate against OpenSSH's own server, on a loopback port, with a shell script for a runner.

mod commands;
mod faults;
mod identity;
mod keys;
mod runner;
mod support;
