//! VMs on this host: a real SSH server each, running real processes.
