//! The driver and its VMs from outside: real processes, a real SSH client.

mod commands;
mod conformance;
mod instances;
mod support;
mod wrong;
