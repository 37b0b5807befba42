//! Commands and events of a run so far.

use longshore_core::command::Action;
use longshore_core::event::Event;
use longshore_core::time::Timestamp;

/// Commands and events so far, each with its time.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) commands: Vec<(Timestamp, Action)>,
    pub(crate) events: Vec<(Timestamp, Event)>,
}
