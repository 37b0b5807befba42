//! Client of the containers API, and the cluster configuration file.
//!
//! - [`config`]: reads the `config.yml` that operators already have, and says everything that is
//!   wrong with it at once.
//! - [`client`]: one call, one answer. It never tries again by itself: the core decides.

pub mod client;
pub mod config;
