//! What every core may know of every shard: phase and counters, for health and metrics.
//!
//! *Invariants*: each value is written by its own shard only and read with relaxed order, so that
//! nothing waits on it; no request depends on it.
//!
//! *Not here*: HTTP (`engram-net`).

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::ShardsError;

/// Where a shard is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ShardPhase {
    /// Its executor starts.
    Starting = 0,
    /// It reads its log and hears from the others.
    Recovering = 1,
    /// It makes its associations again.
    Warming = 2,
    /// It serves.
    Running = 3,
    /// It finishes what is under way.
    Draining = 4,
    /// Its log is closed.
    Stopped = 5,
    /// It reads only.
    Poisoned = 6,
}

const PHASES: [ShardPhase; 7] = [
    ShardPhase::Starting,
    ShardPhase::Recovering,
    ShardPhase::Warming,
    ShardPhase::Running,
    ShardPhase::Draining,
    ShardPhase::Stopped,
    ShardPhase::Poisoned,
];

/// Counters of one shard, alone on its cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    phase: AtomicU8,
    /// Share of the phase that is done, in units of 1/1000.
    pub progress: AtomicU64,
    /// Records appended.
    pub appends: AtomicU64,
    /// Bytes written to the log, padding included.
    pub log_written_bytes: AtomicU64,
    /// Batches synced.
    pub syncs: AtomicU64,
    /// Time spent writing and syncing batches, in microseconds.
    pub sync_us: AtomicU64,
    /// Envelopes sent to other shards.
    pub envelopes: AtomicU64,
    /// Envelopes that found a full mailbox and waited.
    pub envelopes_waited: AtomicU64,
    /// Records read from memory.
    pub cache_hits: AtomicU64,
    /// Records read from the disk.
    pub cache_misses: AtomicU64,
    /// Slices of background work.
    pub slices: AtomicU64,
    /// Bytes of the log on disk.
    pub log_bytes: AtomicU64,
    /// Bytes of records kept in memory.
    pub cache_bytes: AtomicU64,
    /// Bytes that memories stored already will take once they are associated and indexed.
    pub owed_bytes: AtomicU64,
    /// Bytes of records that wait for the disk.
    pub log_waiting_bytes: AtomicU64,
    /// Requests that were refused because too much was under way.
    pub refused: AtomicU64,
    /// Requests that this shard was home of.
    pub requests: AtomicU64,
}

impl Counters {
    /// Adds to a counter of this shard's own.
    pub fn add(counter: &AtomicU64, count: u64) {
        counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }

    /// Where the shard is in its life.
    pub fn phase(&self) -> ShardPhase {
        PHASES[usize::from(self.phase.load(Ordering::Acquire)).min(PHASES.len() - 1)]
    }

    pub(crate) fn enter(&self, phase: ShardPhase) {
        self.phase.store(phase as u8, Ordering::Release);
    }
}

/// Counters of every shard.
#[derive(Debug)]
pub struct Status {
    shards: Box<[Counters]>,
    failure: Mutex<Option<ShardsError>>,
    failed: AtomicBool,
}

impl Status {
    pub(crate) fn new(shards: u16) -> Self {
        let shards = (0..shards).map(|_| Counters::default()).collect();
        Self { shards, failure: Mutex::default(), failed: AtomicBool::new(false) }
    }

    /// A shard could not start: the others wait for it until they are told to stop.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    pub(crate) fn fail(&self, error: ShardsError) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
        drop(failure);
        self.failed.store(true, Ordering::Release);
    }

    pub(crate) fn take_failure(&self) -> Option<ShardsError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Bytes of records that wait for the disk, at the shard with the most of them.
    pub fn log_waiting_bytes(&self) -> u64 {
        let waiting = self.shards.iter().map(|s| s.log_waiting_bytes.load(Ordering::Relaxed));
        waiting.max().unwrap_or(0)
    }

    /// Counters by shard.
    pub fn shards(&self) -> &[Counters] {
        &self.shards
    }

    /// The phase of the server: that of the shard which is furthest behind; poisoned if any is.
    pub fn phase(&self) -> ShardPhase {
        let phases = || self.shards.iter().map(Counters::phase);
        if phases().any(|phase| phase == ShardPhase::Poisoned) {
            return ShardPhase::Poisoned;
        }
        phases().min().unwrap_or(ShardPhase::Starting)
    }

    /// Share of the phase that is done, 0 to 1, of the shard that is furthest behind.
    pub fn progress(&self) -> f32 {
        let phase = self.phase();
        let behind = self.shards.iter().filter(|s| s.phase() == phase);
        let least = behind.map(|s| s.progress.load(Ordering::Relaxed)).min().unwrap_or(0);
        least as f32 / 1000.0
    }
}
