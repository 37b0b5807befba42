//! The driver against a foreign EC2 behind a proxy that makes it fail.

mod conformance;
mod errors;
mod garbage;
mod keys;
mod life;
mod places;
mod policy;
mod prices;
mod support;
mod wire;
