//! The built-in queue: the containers API on SQLite.
