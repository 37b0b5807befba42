//! The decisions of the dispatcher.
