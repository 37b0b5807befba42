//! What of this directory needs no client of EC2: the emulator, its proxy and its machines.

pub(crate) mod moto;
pub(crate) mod proxy;
pub(crate) mod vm;
