//! Tests of the client against a fake API that records requests, and against the built-in queue.

mod builtin_queue;
mod changes;
mod failures;
mod support;
mod tls;
mod wire;
