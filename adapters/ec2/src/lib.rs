//! Rents VMs from EC2.
