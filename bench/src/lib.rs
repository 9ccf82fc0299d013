//! Measuring Engram from outside: load over HTTP, histograms, comparisons, reports.
//!
//! *Invariants*: a server is reached through the network only, its parts are called only by `micro`,
//! `mailbox` and `scale`; no failure is left out of a result.
//!
//! *Not here*: the server; the `engram` command, which shares this library for `benchmark`.

pub mod child;
pub mod client;
pub mod compare;
pub mod conditions;
pub mod dataset;
pub mod hdr;
pub mod http;
pub mod idle;
pub mod loader;
pub mod machine;
pub mod mailbox;
pub mod micro;
pub mod operations;
pub mod outcome;
pub mod pages;
pub mod pieces;
pub mod plot;
pub mod random;
pub mod report;
pub mod result;
pub mod run;
pub mod scale;
pub mod schedule;
pub mod session;
pub mod truth;
pub mod workload;
