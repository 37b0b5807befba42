//! Tests of the driver on an emulated EC2, behind a proxy for fault injection.

mod conformance;
mod errors;
mod keys;
mod lifecycle;
mod malformed_responses;
mod policy;
mod prices;
mod subnets;
mod support;
mod wire;
