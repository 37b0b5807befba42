//! Test support without an EC2 client: emulator, proxy and VMs.

pub(crate) mod moto;
pub(crate) mod proxy;
pub(crate) mod vm;
