//! The face every cloud driver has, the plumbing that they share, and the suite that proves them.
//!
//! A driver touches only instances that bear its [instance set](CloudSettings::instance_set_id), or
//! that it is told to destroy; it never retries and never waits for its turn by itself (the core
//! decides, and keeps the rates); and it turns every error of its cloud into exactly one
//! [`CloudError`].
//!
//! - [`driver`]: what a driver must do. [`instance`]: what is asked for and what is shown.
//! - [`tags`]: whose an instance is, and our tags among others.
//! - [`error`]: from a cloud's own words to a [`CloudError`].
//! - [`layer`]: what can be put around any driver: [`Deadlines`] and [`Instrument`].
//! - [`conformance`]: the suite that proves a driver right.

pub mod conformance;
pub mod driver;
pub mod error;
pub mod instance;
pub mod layer;
pub mod params;
pub mod tags;

pub use crate::driver::{Cloud, SharedCloud};
pub use crate::error::{ErrorClass, Said};
pub use crate::instance::{CreateSpec, HostKeyCheck, Instance, PricePoint};
pub use crate::layer::{
    Answer, Call, CallEnd, Called, Deadlines, Instrument, Layer, Layered, Operation, Watch,
};
pub use crate::tags::{CloudSettings, OwnTags, tag};
pub use longshore_core::input::{CapacityScope, CloudError};
