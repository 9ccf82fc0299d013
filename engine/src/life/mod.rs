//! How memories live: what use adds to them, and how that fades.
//!
//! *Invariants*: fading is computed when a memory is looked at, from time that the server lived
//! through; nothing here sweeps, and nothing falls below what a memory is worth unused.
//!
//! *Not here*: who reinforces what (`shard::reinforce`), what scores do with it (`fuse`).

mod clock;
pub mod likeness;
pub mod run;
mod trace;

pub use clock::{Lived, LivedClock};
pub use trace::{HalfLife, Lift, Outcome, Trace};
