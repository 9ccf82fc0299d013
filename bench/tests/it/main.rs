//! Tests of the measuring tools against a server that misbehaves on demand.
//!
//! *Invariants*: port 0, loopback only, each test has its own server.
//!
//! *Not here*: the real server.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod fake;
mod load;
mod pages;
mod python;
mod session;
