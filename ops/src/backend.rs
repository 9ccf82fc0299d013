//! Joins a core's sockets to its shard: what `net` needs, from what `shards` has.
//!
//! *Invariants*: the two know nothing of each other; nothing is decided here but in which phases
//! clients are let in.
//!
//! *Not here*: starting and stopping (`server`).

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engram_engine::model::{SpaceName, Timestamp};
use engram_engine::phase::Phase;
use engram_engine::request::{Answer, Code, Rejection, Request};
use engram_engine::trace::Trace;
use engram_net::exposition::Exposition;
use engram_net::trace::TraceCounts;
use engram_net::{Backend, Demand, Readiness, SnapshotAsk};
use engram_shards::{Counters, Handle, Status, Wanted};
use serde_json::{Value, json};

use crate::budget::Readings;
use crate::cold;
use crate::metrics;
use crate::warm::{self, HotCues};

/// What the cores of one server share, beside their shards.
#[derive(Debug)]
pub struct Shared {
    /// The placement, as `GET /api/v1/topology` shows it.
    pub topology: Value,
    /// What of memory and disk is in use.
    pub readings: Arc<Readings>,
    /// How many traces there are, where somebody wants them.
    pub traces: Option<Arc<TraceCounts>>,
}

/// The server as one core sees it.
#[derive(Clone)]
pub struct Core {
    handle: Handle,
    shared: Arc<Shared>,
    cues: Rc<HotCues>,
    opening: Rc<Opening>,
}

/// How many clients are let in while a core opens.
#[derive(Default)]
struct Opening {
    since: Cell<Option<Instant>>,
    turn: Cell<u32>,
}

impl Opening {
    /// A tenth at first, then more and more.
    fn lets_in(&self) -> bool {
        let Some(since) = self.since.get() else { return false };
        let share = 0.1 + since.elapsed().as_secs_f64() / warm::OPENING.as_secs_f64();
        // Steps of the golden ratio spread any share evenly, without a generator of chance.
        let turn = self.turn.get().wrapping_add(0x9e37_79b9);
        self.turn.set(turn);
        f64::from(turn) < share * f64::from(u32::MAX)
    }
}

impl Core {
    /// Joins a core's shard to what `net` wants of it.
    pub fn new(handle: Handle, shared: Arc<Shared>, cues: Rc<HotCues>) -> Self {
        Self { handle, shared, cues, opening: Rc::default() }
    }
}

impl Core {
    /// Warms up, lets more and more clients in, and then all of them.
    pub async fn open(self, cues_path: PathBuf, time: Duration) {
        if !self.handle.wait_until_warming().await {
            return;
        }
        if let Some(warmed) = warm::warm_up(&self.handle, &self.cues, &cues_path, time).await {
            log::info!(
                "shard {} asked itself {} cues of its last life; {:.0} % of the records came from \
                 memory",
                self.handle.shard().0,
                warmed.cues,
                warmed.hit_rate * 100.0
            );
            self.handle.wait_until_associated().await;
            self.opening.since.set(Some(Instant::now()));
            glommio::timer::sleep(warm::OPENING).await;
        }
        self.handle.open();
    }
}

impl Backend for Core {
    fn call(&self, request: Request) -> impl Future<Output = Result<Answer, Rejection>> + 'static {
        if let Request::DropSpace { space } = &request {
            self.cues.forget(space);
        }
        self.handle.call(request)
    }

    fn call_traced(
        &self,
        request: Request,
    ) -> impl Future<Output = (Result<Answer, Rejection>, Option<Trace>)> + 'static {
        self.handle.call_traced(request)
    }

    fn note_recall(&self, space: &SpaceName, body: &[u8]) {
        self.cues.note(space, body);
    }

    fn admit(&self, demand: Demand) -> Result<(), Rejection> {
        let phase = self.handle.status().life().phase();
        match phase {
            Phase::Running | Phase::Consolidating | Phase::Draining | Phase::Poisoned => {
                match demand {
                    Demand::Recall => self.handle.admits_recall(),
                    Demand::Growth => self.handle.admits_growth(),
                    Demand::Other => Ok(()),
                }
            }
            Phase::Warming if self.opening.lets_in() => Ok(()),
            Phase::Starting | Phase::Recovering | Phase::Warming | Phase::Stopped => {
                let detail = format!("the server is {}: ask again in a moment", phase.as_str());
                Err(Rejection::new(Code::Unavailable, detail))
            }
        }
    }

    fn snapshots(
        &self,
        ask: SnapshotAsk,
    ) -> impl Future<Output = Result<Value, Rejection>> + 'static {
        let handle = self.handle.clone();
        async move {
            match ask {
                SnapshotAsk::Start { name, keep, verify } => {
                    let keep = keep.map(|keep| usize::try_from(keep).unwrap_or(usize::MAX));
                    handle.start_snapshot(Wanted { name, keep, verify }).await
                }
                SnapshotAsk::List => handle.list_snapshots().await,
                SnapshotAsk::Read(name) => handle.read_snapshot(name).await,
                SnapshotAsk::Delete(name) => handle.remove_snapshot(name).await,
            }
        }
    }

    fn compaction(&self, start: bool) -> Value {
        let status = self.handle.status();
        if start {
            self.handle.want_compaction();
        }
        compaction(status)
    }

    fn readiness(&self) -> Readiness {
        readiness(self.handle.status())
    }

    fn is_hurried(&self) -> bool {
        self.handle.status().life().is_hurried()
    }

    fn topology(&self) -> Value {
        self.shared.topology.clone()
    }

    fn now(&self) -> Timestamp {
        self.handle.now()
    }

    fn metrics(&self, out: &mut Exposition) {
        metrics::write(self.handle.status(), &self.shared, out);
        cold::write(self.handle.cold(), out);
    }
}

/// What all logs hold, and what compaction has done since the server started.
fn compaction(status: &Status) -> Value {
    let sum = |counter: fn(&Counters) -> &AtomicU64| -> u64 {
        status.shards().iter().map(|shard| counter(shard).load(Ordering::Relaxed)).sum()
    };
    json!({
        "state": if status.is_compacted() { "done" } else { "running" },
        "log_bytes": sum(|shard| &shard.log_bytes),
        "live_bytes": sum(|shard| &shard.log_live_bytes),
        "segments": sum(|shard| &shard.log_segments),
        "compactions": sum(|shard| &shard.compactions),
        "freed_bytes": sum(|shard| &shard.compaction_freed_bytes),
        "damaged_segments": sum(|shard| &shard.damaged_segments),
    })
}

fn readiness(status: &Status) -> Readiness {
    let stage = status.life().stage();
    let reason = match stage.phase {
        Phase::Starting => "the shards start",
        Phase::Recovering => "the log is read",
        Phase::Warming => "associations are made again and caches are filled",
        Phase::Running | Phase::Consolidating => "",
        Phase::Draining => "the server was told to stop",
        Phase::Stopped => "the server has stopped",
        Phase::Poisoned => "the log could not be written: reads go on, writes are refused",
    };
    let started = status.shards().iter().all(|shard| shard.phase() >= Phase::Warming);
    Readiness {
        phase: stage.phase,
        progress: if stage.phase.is_ready() { 1.0 } else { status.progress() },
        lasted: stage.lasted,
        reason: reason.to_owned(),
        started,
    }
}
