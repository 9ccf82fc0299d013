//! From a request to its answer.
//!
//! *Invariants*: every request is answered once; a refusal is a problem of the table in `error`.
//!
//! *Not here*: sockets and connections (`server`), JSON (`json`).

pub mod body;
pub mod call;
mod compaction;
mod consolidate;
pub mod forget;
pub mod health;
pub mod idempotency;
pub mod ndjson;
pub mod openapi;
pub mod operations;
pub mod route;
pub mod service;
pub mod slice;
pub mod snapshots;
pub mod together;
pub mod uri;
pub mod uuid;
