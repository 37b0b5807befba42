//! Cloud driver for EC2.
//!
//! The driver makes single calls and converts the results; retries are decided by the core.
//! Exception: a create rejected because of its subnet is immediately tried in the next subnet.
//!
//! - [`Ec2Params`] – parameters.
//! - [`Ec2Cloud`] – the driver.
//! - [`error_codes`] – classification of EC2's error codes.
//! - [`keys`] – key pair and fingerprints of a public key.

mod batch;
mod client;
mod cloud;
pub mod error_codes;
mod from_ec2;
pub mod keys;
mod params;
mod prices;
mod request;
mod sdk_error;
mod subnet_choice;

pub use client::Timeouts;
pub use cloud::Ec2Cloud;
pub use longshore_driver::params::ParamError;
pub use params::{AccessKey, Ec2Params};
