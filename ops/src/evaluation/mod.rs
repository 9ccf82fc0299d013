//! Quality of recall on a set of queries with known answers: reading sets and computing measures.
//!
//! *Invariants*: pure but for reading files; measures are averages over queries.
//!
//! *Not here*: asking a server (`commands::evaluate`).

mod measures;
mod npy;
mod set;

pub use measures::{Measures, Percentiles};
pub use set::{Query, Set, Sources, StoredMemory};
