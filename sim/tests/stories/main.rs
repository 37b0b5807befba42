//! The rules of the dispatcher, told as stories in a simulated world.

mod breaker;
mod breaking;
mod capacity;
mod creating;
mod disappearing;
mod explaining;
mod identity;
mod idling;
mod leading;
mod limiting;
mod operating;
mod placing;
mod probing;
mod queueing;
mod reloading;
mod restarting;
mod running;
mod spending;
mod spot;
mod starting;
mod stopping;
mod world;
