//! Everything about one container, one instance, or the dispatcher itself.

pub(crate) mod container;
pub(crate) mod health;
pub(crate) mod instance;
