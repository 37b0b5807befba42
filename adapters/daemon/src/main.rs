//! Dispatches containers to cloud VMs.
fn main() {}
