//! The worker side.
fn main() {}
