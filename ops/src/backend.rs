//! Joins a core's sockets to its shard: what `net` needs, from what `shards` has.
//!
//! *Invariants*: the two know nothing of each other; nothing is decided here but in which phases
//! clients are let in.
//!
//! *Not here*: starting and stopping (`server`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use engram_engine::model::Timestamp;
use engram_engine::phase::Phase;
use engram_engine::request::{Answer, Code, Rejection, Request};
use engram_net::exposition::{Exposition, Kind};
use engram_net::{Backend, Demand, Readiness};
use engram_shards::{Counters, Handle, Stalls, Status, Work};
use serde_json::Value;

use crate::budget::Readings;

/// The server as one core sees it.
#[derive(Clone)]
pub struct Core {
    handle: Handle,
    /// The placement, as `GET /api/v1/topology` shows it.
    topology: Arc<Value>,
    /// What of memory and disk is in use.
    readings: Arc<Readings>,
}

impl Core {
    /// Joins a core's shard to what `net` wants of it.
    pub fn new(handle: Handle, topology: Arc<Value>, readings: Arc<Readings>) -> Self {
        Self { handle, topology, readings }
    }
}

impl Backend for Core {
    fn call(&self, request: Request) -> impl Future<Output = Result<Answer, Rejection>> + 'static {
        self.handle.call(request)
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
            Phase::Starting | Phase::Recovering | Phase::Warming | Phase::Stopped => {
                let detail = format!("the server is {}: ask again in a moment", phase.as_str());
                Err(Rejection::new(Code::Unavailable, detail))
            }
        }
    }

    fn readiness(&self) -> Readiness {
        readiness(self.handle.status())
    }

    fn is_hurried(&self) -> bool {
        self.handle.status().life().is_hurried()
    }

    fn topology(&self) -> Value {
        (*self.topology).clone()
    }

    fn now(&self) -> Timestamp {
        self.handle.now()
    }

    fn metrics(&self, out: &mut Exposition) {
        write_metrics(self.handle.status(), out);
        write_budget(self.handle.status(), &self.readings, out);
    }
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

/// A counter of one shard: its name, what it is, where it stands, and units of it in one of the
/// metric's.
type Row = (&'static str, &'static str, fn(&Counters) -> &AtomicU64, f64);

const COUNTERS: [Row; 11] = [
    (
        "engram_shard_woken_total",
        "Times that a shard slept on work and was woken.",
        |c| &c.woken,
        1.0,
    ),
    (
        "engram_shard_refused_total",
        "Requests refused with 429 because too much was under way.",
        |c| &c.refused,
        1.0,
    ),
    ("engram_shard_requests_total", "Requests whose home a shard was.", |c| &c.requests, 1.0),
    ("engram_log_records_total", "Records appended to the log.", |c| &c.appends, 1.0),
    ("engram_log_written_bytes_total", "Bytes written to the log.", |c| &c.log_written_bytes, 1.0),
    ("engram_log_syncs_total", "Batches made durable.", |c| &c.syncs, 1.0),
    ("engram_log_sync_seconds_total", "Time of writing and syncing.", |c| &c.sync_us, 1e6),
    ("engram_envelopes_total", "Envelopes sent to other shards.", |c| &c.envelopes, 1.0),
    (
        "engram_envelopes_waited_total",
        "Envelopes that found a full mailbox and waited.",
        |c| &c.envelopes_waited,
        1.0,
    ),
    ("engram_record_cache_hits_total", "Records read from memory.", |c| &c.cache_hits, 1.0),
    ("engram_record_cache_misses_total", "Records read from disk.", |c| &c.cache_misses, 1.0),
];

/// What held cores too long, where anything did.
fn write_stalls(status: &Status, out: &mut Exposition) {
    let held = |count: fn(&Stalls, Work) -> u64, out: &mut Exposition, name, unit: f64| {
        for (shard, counters) in status.shards().iter().enumerate() {
            for work in Work::ALL {
                let value = count(&counters.stalls, work) as f64 / unit;
                if value > 0.0 {
                    let labels = [("shard", &*shard.to_string()), ("work", work.name())];
                    out.sample(name, &labels, value);
                }
            }
        }
    };
    let name = "engram_core_held_total";
    let help = "Pieces of work that held their core for more than 500 microseconds.";
    out.family(Kind::Counter, name, help);
    held(Stalls::count, out, name, 1.0);
    let name = "engram_core_held_longest_seconds";
    let help = "The longest that such a piece of work has taken.";
    out.family(Kind::Gauge, name, help);
    held(Stalls::longest, out, name, 1e6);
}

fn write_metrics(status: &Status, out: &mut Exposition) {
    let ready = u8::from(status.life().phase().is_ready());
    out.single(Kind::Gauge, "engram_ready", "1 where traffic should come, else 0.", ready);
    for (name, help, counter, unit) in COUNTERS {
        out.family(Kind::Counter, name, help);
        for (shard, counters) in status.shards().iter().enumerate() {
            let value = counter(counters).load(Ordering::Relaxed) as f64 / unit;
            out.sample(name, &[("shard", &shard.to_string())], value);
        }
    }
    write_stalls(status, out);
    let node = "engram_shard_memory_node";
    let help = "NUMA node on which memory of a shard was found; absent where the kernel is silent.";
    out.family(Kind::Gauge, node, help);
    for (shard, counters) in status.shards().iter().enumerate() {
        if let Some(found) = counters.memory_node.get() {
            out.sample(node, &[("shard", &shard.to_string())], found);
        }
    }
}

fn write_budget(status: &Status, readings: &Readings, out: &mut Exposition) {
    let value = |reading: &AtomicU64| reading.load(Ordering::Relaxed);
    let sum = |counter: fn(&Counters) -> &AtomicU64| -> u64 {
        status.shards().iter().map(|shard| value(counter(shard))).sum()
    };
    let memory = "engram_memory_bytes";
    out.family(Kind::Gauge, memory, "Memory of the process by part; owed is what will be taken.");
    for (part, bytes) in [
        ("heap", value(&readings.heap)),
        ("resident", value(&readings.resident)),
        ("images", value(&readings.images)),
        ("record_cache", sum(|shard| &shard.cache_bytes)),
        ("owed", sum(|shard| &shard.owed_bytes)),
        ("limit", value(&readings.memory_limit)),
    ] {
        out.sample(memory, &[("part", part)], bytes);
    }
    let free = value(&readings.disk_free);
    out.single(Kind::Gauge, "engram_disk_free_bytes", "Free bytes of the data directory.", free);
    let full = "engram_budget_reached";
    out.family(Kind::Gauge, full, "1 where writes are refused with 507 for want of this.");
    out.sample(full, &[("budget", "memory")], value(&readings.memory_full));
    out.sample(full, &[("budget", "disk")], value(&readings.disk_full));
}
