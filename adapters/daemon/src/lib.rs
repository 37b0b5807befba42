//! Dispatches containers to cloud VMs.
