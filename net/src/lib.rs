//! HTTP for Engram: listeners, routes, JSON, errors, health and metrics, one of each on each core.
//!
//! *Invariants*: nothing here knows shards or machines; all that is asked of the server goes
//! through [`Backend`].
//!
//! *Not here*: what a memory is (`engine`), executors and files (`shards`), the command (`ops`).

mod api;
pub mod auth;
mod backend;
pub mod error;
pub mod exposition;
pub mod json;
mod metrics;
pub mod rates;
mod server;
pub mod tls;
pub mod trace;

pub use backend::{Backend, Demand, Readiness, SnapshotAsk};
pub use metrics::Registry;
pub use server::addresses::Addresses;
pub use server::descriptors::connections_per_core;
pub use server::entrance::Entrance;
pub use server::port::{BindError, Doors, Port};
pub use server::serve::{Drained, Options, serve};
pub use server::watch::Timeouts;
