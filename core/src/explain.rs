//! Explanations of a container, of an instance and of the health of the dispatcher.

pub(crate) mod container;
pub(crate) mod health;
pub(crate) mod instance;
