//! Tests against the server of OpenSSH on a loopback port, with a shell script as the runner.

mod commands;
mod faults;
mod identity;
mod keys;
mod runner;
mod support;
