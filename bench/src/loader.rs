//! Storing a data set: NDJSON batches over a few connections.
//!
//! *Invariants*: every line's verdict is read; a refused line is counted and shown.
//!
//! *Not here*: measuring latency (`run`).

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::dataset::{Dataset, VectorForm};
use crate::http::Connection;

/// How a data set is stored.
#[derive(Clone, Copy, Debug)]
pub struct Loading {
    /// The server.
    pub address: SocketAddr,
    /// Connections that store at once.
    pub connections: usize,
    /// Lines of one request.
    pub lines: u64,
    /// How vectors travel.
    pub vectors: VectorForm,
    /// CPU that all connections' threads run on.
    pub cpu: Option<usize>,
}

/// What became of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Loaded {
    /// Memories that were stored.
    pub stored: u64,
    /// Memories that were not.
    pub refused: u64,
    /// Bytes of the requests' bodies.
    pub bytes: u64,
    /// Seconds until the last verdict.
    pub seconds: f64,
    /// Seconds more until indexes and associations had caught up.
    pub settled_s: f64,
    /// CPU time of the server until the last verdict, in seconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub server_cpu_s: Option<f64>,
    /// CPU time of the server after it, until it had caught up.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub settled_cpu_s: Option<f64>,
    /// Some of the refusals.
    pub refusals: Vec<String>,
}

impl Loaded {
    /// Memories stored a second, until the last verdict.
    pub fn per_s(&self) -> f64 {
        self.stored as f64 / self.seconds.max(1e-9)
    }

    /// Memories stored a second, until indexes and associations had caught up.
    pub fn settled_per_s(&self) -> f64 {
        self.stored as f64 / (self.seconds + self.settled_s).max(1e-9)
    }
}

/// Stores the whole set; `progress` is told how many are stored, now and then.
///
/// # Errors
/// Those of the connections; an answer without status 2xx.
pub fn load(
    set: &Dataset,
    loading: Loading,
    progress: &(dyn Fn(u64) + Sync),
) -> io::Result<Loaded> {
    let next = AtomicU64::new(0);
    let stored = AtomicU64::new(0);
    let start = Instant::now();
    let parts: Vec<io::Result<Loaded>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..loading.connections.max(1))
            .map(|_| scope.spawn(|| store_batches(set, loading, &next, &stored, progress)))
            .collect();
        workers.into_iter().map(|w| w.join().expect("a loader does not panic")).collect()
    });
    let mut total = Loaded { seconds: start.elapsed().as_secs_f64(), ..Loaded::default() };
    for part in parts {
        let part = part?;
        total.stored += part.stored;
        total.refused += part.refused;
        total.bytes += part.bytes;
        total.refusals.extend(part.refusals);
    }
    total.refusals.truncate(5);
    Ok(total)
}

fn store_batches(
    set: &Dataset,
    loading: Loading,
    next: &AtomicU64,
    stored: &AtomicU64,
    progress: &(dyn Fn(u64) + Sync),
) -> io::Result<Loaded> {
    if let Some(cpu) = loading.cpu {
        crate::client::pin(cpu)?;
    }
    let mut connection = Connection::open(loading.address, Duration::from_secs(120))?;
    let mut part = Loaded::default();
    let mut body = String::new();
    loop {
        let from = next.fetch_add(loading.lines, Ordering::Relaxed);
        if from >= set.memories() {
            return Ok(part);
        }
        let to = (from + loading.lines).min(set.memories());
        body.clear();
        (from..to).for_each(|i| set.push_line(i, loading.vectors, &mut body));
        store_batch(&mut connection, &body, to - from, &mut part)?;
        progress(stored.fetch_add(to - from, Ordering::Relaxed) + to - from);
    }
}

fn store_batch(
    connection: &mut Connection,
    body: &str,
    lines: u64,
    part: &mut Loaded,
) -> io::Result<()> {
    let headers = "content-type: application/x-ndjson\r\n";
    let reply = connection.call_duplex("/api/v1/memories/batch", headers, body.as_bytes())?;
    let text = String::from_utf8_lossy(&reply.body);
    if !(200..300).contains(&reply.status) {
        return Err(io::Error::other(format!("a batch got status {}: {text}", reply.status)));
    }
    let mut verdicts = 0;
    for verdict in text.lines().filter(|line| !line.trim().is_empty()) {
        verdicts += 1;
        if verdict.contains("\"code\":") {
            part.refused += 1;
            part.refusals.push(verdict.to_owned());
            part.refusals.truncate(5);
        } else {
            part.stored += 1;
        }
    }
    part.bytes += body.len() as u64;
    if verdicts == lines {
        Ok(())
    } else {
        Err(io::Error::other(format!("{lines} lines got {verdicts} verdicts: {text:.300}")))
    }
}

/// Waits until the server's indexes and associations have caught up; returns the seconds.
///
/// # Errors
/// Where it is unreachable, or not done after `bound`.
pub fn settle(address: SocketAddr, bound: Duration) -> io::Result<f64> {
    let start = Instant::now();
    let mut connection = Connection::open(address, Duration::from_secs(30))?;
    loop {
        let reply = connection.call("GET", "/api/v1/stats", "", b"")?;
        let stats = reply.json().map_err(io::Error::other)?;
        let backlog = |name: &str| stats[name].as_u64().unwrap_or(0);
        let left = backlog("index_backlog") + backlog("association_backlog");
        if left == 0 {
            return Ok(start.elapsed().as_secs_f64());
        }
        if start.elapsed() > bound {
            return Err(io::Error::other(format!("{left} memories are still not indexed")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
