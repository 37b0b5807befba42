//! Hook on the core: a change to each dispatcher of a run before its first input.

use std::fmt;
use std::sync::Arc;

use longshore_core::Dispatcher;

/// Function called on each dispatcher of a run before its first input.
pub type CoreHook = dyn Fn(&mut Dispatcher) + Send + Sync;

/// Hook of a plan, if any. Equal only to itself.
#[derive(Clone, Default)]
pub(crate) struct OptionalHook(pub(crate) Option<Arc<CoreHook>>);

impl OptionalHook {
    pub(crate) fn apply(&self, core: &mut Dispatcher) {
        if let Some(hook) = &self.0 {
            hook(core);
        }
    }
}

impl fmt::Debug for OptionalHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "hooked" } else { "none" })
    }
}

impl PartialEq for OptionalHook {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(one), Some(two)) => Arc::ptr_eq(one, two),
            _ => false,
        }
    }
}

impl Eq for OptionalHook {}
