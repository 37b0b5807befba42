//! The client against an API that writes down each byte, and against the built-in queue.

mod builtin_queue;
mod changes;
mod failures;
mod support;
mod tls;
mod wire;
