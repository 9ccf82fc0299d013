//! Sockets, connections and their life.
//!
//! *Invariants*: one task a connection and none a request; whatever stands still is ended.
//!
//! *Not here*: what requests mean (`api`).

pub mod addresses;
pub mod descriptors;
pub mod entrance;
mod peer;
pub mod port;
pub mod refused;
pub mod reply;
pub mod serve;
pub mod stream;
pub mod watch;
