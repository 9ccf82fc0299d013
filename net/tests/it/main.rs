//! Tests of `net` through real sockets, with a backend that keeps memories in a map.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod bad_input;
mod client;
mod contract;
mod cores;
mod fake;
mod hostile;
mod rates;
mod server;
