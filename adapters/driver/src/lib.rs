//! Interface of all cloud drivers, code shared by the drivers, and the conformance suite.
//!
//! A driver changes only instances of its own [instance set](CloudSettings::instance_set_id) and
//! instances passed to a destroy call. A driver never retries and never delays a call: retries and
//! rates belong to the core. Every error of the provider becomes exactly one [`CloudError`].
//!
//! - [`driver`] – the [`Cloud`] trait.
//! - [`instance`] – create requests and listed instances.
//! - [`tags`] – tag names, and instance ownership by tags.
//! - [`error`] – conversion of provider errors to [`CloudError`].
//! - [`layer`] – wrappers for any driver: [`Deadlines`] and [`Instrument`].
//! - [`conformance`] – test suite for drivers.

pub mod conformance;
pub mod driver;
pub mod error;
pub mod instance;
pub mod layer;
pub mod params;
pub mod tags;

pub use crate::driver::{Cloud, SharedCloud};
pub use crate::error::{ErrorClass, ProviderError};
pub use crate::instance::{CreateSpec, HostKeyCheck, Instance, PricePoint};
pub use crate::layer::{
    Answer, Call, CallObserver, CallOutcome, CallRecord, Deadlines, Instrument, Layer, Layered,
    Operation,
};
pub use crate::tags::{CloudSettings, OwnTags, tag};
pub use longshore_core::input::{CapacityScope, CloudError};
