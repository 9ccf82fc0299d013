//! What `net` needs of the server behind it: one trait, implemented where `shards` are joined in.
//!
//! *Invariants*: a backend belongs to one core; its futures never leave that core's executor.
//!
//! *Not here*: the shards that answer (`shards`), the routes that ask (`routes`).

use std::future::Future;

use engram_engine::model::Timestamp;
use engram_engine::request::{Answer, Rejection, Request};

use crate::exposition::Exposition;

/// The server behind the listeners, as seen from one core.
pub trait Backend: Clone + 'static {
    /// Performs a request with this core's shard as its home.
    ///
    /// Dropping the future gives up on the answer; a write that is under way may still happen.
    fn call(&self, request: Request) -> impl Future<Output = Result<Answer, Rejection>> + 'static;

    /// Where the server is in its life.
    fn readiness(&self) -> Readiness;

    /// Which shard sits where, as `GET /api/v1/topology` answers it.
    fn topology(&self) -> serde_json::Value;

    /// The time, from which ids and default times are made.
    fn now(&self) -> Timestamp;

    /// Appends the metrics of everything behind this trait to those of `net`.
    fn metrics(&self, out: &mut Exposition);
}

/// A phase of the server's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not yet reading its data.
    Starting,
    /// Reading its log.
    Recovering,
    /// Filling its caches.
    Warming,
    /// Serving.
    Running,
    /// Serving, and consolidating.
    Consolidating,
    /// Finishing what is under way; nothing new.
    Draining,
    /// About to be gone.
    Stopped,
    /// Reads only, since the log could not be written.
    Poisoned,
}

impl Phase {
    /// The phase as it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Recovering => "recovering",
            Self::Warming => "warming",
            Self::Running => "running",
            Self::Consolidating => "consolidating",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
            Self::Poisoned => "poisoned",
        }
    }
}

/// Where the server is in its life, and whether traffic should come.
#[derive(Clone, Debug, PartialEq)]
pub struct Readiness {
    /// The phase.
    pub phase: Phase,
    /// How much of the phase is done, 0 to 1.
    pub progress: f32,
    /// One sentence where it is not ready; else empty.
    pub reason: String,
    /// Recovery is over (`/health/startup`).
    pub started: bool,
    /// Traffic should come (`/health/ready`).
    pub ready: bool,
}
