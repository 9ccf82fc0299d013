//! HTTP for Engram: listeners, routes, JSON, errors, health and metrics, one of each on each core.
//!
//! *Invariants*: nothing here knows shards or machines; all that is asked of the server goes
//! through [`Backend`].
//!
//! *Not here*: what a memory is (`engine`), executors and files (`shards`), the command (`ops`).

mod backend;
pub mod exposition;

pub use backend::{Backend, Phase, Readiness};
