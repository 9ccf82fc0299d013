//! Tests of the measuring tools against a server that misbehaves on demand.
//!
//! *Invariants*: port 0, loopback only, each test has its own server.
//!
//! *Not here*: the real server.

mod fake;
mod load;
