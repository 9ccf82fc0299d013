//! The cold tier: objects in a folder or in S3, behind limits that keep its troubles away from the
//! rest of the server.
//!
//! *Invariants*: an object is written whole and once, or not at all; whoever waits for the tier
//! waits for a bounded time; a tier that fails is left alone for a while.
//!
//! *Not here*: what objects hold (`engram-engine`, `engram-shards`).

mod breaker;
mod error;
mod file;
mod s3;
mod tier;
pub mod tls;
mod url;
mod workers;

pub use error::ColdError;
pub use s3::Variables;
pub use tier::{Limits, Measures, Object, Put, Tier};
pub use url::ColdUrl;
pub use workers::{Busy, Workers};
