//! Rents VMs from EC2.
//!
//! The driver makes single calls and translates: what is tried again, and when, is decided by the
//! core. The one exception is a create that is refused for its subnet: the next subnet is tried at
//! once.
//!
//! - [`Ec2Params`]: what an operator can set.
//! - [`Ec2Cloud`]: the driver.
//! - [`errors`]: what EC2's codes mean. [`keys`]: how it knows our public key.

mod batch;
mod client;
mod cloud;
pub mod errors;
mod failure;
pub mod keys;
mod params;
mod places;
mod prices;
mod request;
mod seen;

pub use client::Timeouts;
pub use cloud::Ec2Cloud;
pub use longshore_driver::params::ParamError;
pub use params::{AccessKey, Ec2Params};
