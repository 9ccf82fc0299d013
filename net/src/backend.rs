//! What `net` needs of the server behind it: one trait, implemented where `shards` are joined in.
//!
//! *Invariants*: a backend belongs to one core; its futures never leave that core's executor.
//!
//! *Not here*: the shards that answer (`shards`), the routes that ask (`routes`).

use std::future::Future;
use std::time::Duration;

use engram_engine::model::{SpaceName, Timestamp};
use engram_engine::phase::Phase;
use engram_engine::request::{Answer, Rejection, Request};
use engram_engine::trace::Trace;

use crate::exposition::Exposition;

/// The server behind the listeners, as seen from one core.
pub trait Backend: Clone + 'static {
    /// Performs a request with this core's shard as its home.
    ///
    /// Dropping the future gives up on the answer; a write that is under way may still happen.
    fn call(&self, request: Request) -> impl Future<Output = Result<Answer, Rejection>> + 'static;

    /// The same, and what it asked of the shards.
    fn call_traced(
        &self,
        request: Request,
    ) -> impl Future<Output = (Result<Answer, Rejection>, Option<Trace>)> + 'static;

    /// A recall of this JSON was answered: the next life may begin with it.
    fn note_recall(&self, space: &SpaceName, body: &[u8]);

    /// Lets a request of a client in, or says why not now; asked for each of them before its body is
    /// read, so that saying no costs little.
    ///
    /// # Errors
    /// While the server reads its data or warms up, and where [`Backend::call`] would refuse what
    /// asks for this, whatever it is.
    fn admit(&self, demand: Demand) -> Result<(), Rejection>;

    /// Does something about snapshots; the answer is JSON as clients see it.
    fn snapshots(
        &self,
        ask: SnapshotAsk,
    ) -> impl Future<Output = Result<serde_json::Value, Rejection>> + 'static;

    /// Has every shard compact its log where `start` says so; how far that is, as JSON as clients
    /// see it.
    fn compaction(&self, start: bool) -> serde_json::Value;

    /// Where the server is in its life.
    fn readiness(&self) -> Readiness;

    /// Draining has to end now, whatever is under way.
    fn is_hurried(&self) -> bool;

    /// Which shard sits where, as `GET /api/v1/topology` answers it.
    fn topology(&self) -> serde_json::Value;

    /// The time, from which ids and default times are made.
    fn now(&self) -> Timestamp;

    /// Appends the metrics of everything behind this trait to those of `net`.
    fn metrics(&self, out: &mut Exposition);
}

/// What a request asks for, as far as its head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// A recall.
    Recall,
    /// Something that makes the server hold more.
    Growth,
    /// Anything else.
    Other,
}

/// What is asked about snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotAsk {
    /// Take one.
    Start {
        /// Its name; made by the server where none is given.
        name: Option<String>,
        /// How many are kept, this one included; `None`: all.
        keep: Option<u64>,
        /// It is read back before older ones are removed.
        verify: bool,
    },
    /// All of them.
    List,
    /// One of them.
    Read(String),
    /// Remove one.
    Delete(String),
}

/// Where the server is in its life, and whether traffic should come.
#[derive(Clone, Debug, PartialEq)]
pub struct Readiness {
    /// The phase.
    pub phase: Phase,
    /// How much of the phase is done, 0 to 1.
    pub progress: f32,
    /// How long the phase has lasted.
    pub lasted: Duration,
    /// One sentence where it is not ready; else empty.
    pub reason: String,
    /// Recovery is over (`/health/startup`).
    pub started: bool,
}
