//! Black-box tests of the driver and its VMs, with real processes and a real SSH client.

mod commands;
mod conformance;
mod defects;
mod instances;
mod support;
