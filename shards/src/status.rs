//! What every core may know of every shard: phase and counters, for health and metrics.
//!
//! *Invariants*: each value is written by its own shard only and read with relaxed order, so that
//! nothing waits on it; no request depends on it.
//!
//! *Not here*: which phase follows which (`life`), HTTP (`engram-net`).

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use engram_engine::key::ShardIx;
use engram_engine::phase::Phase;

use crate::life::Life;
use crate::memory_node::MemoryNode;
use crate::meters::Meters;
use crate::stall::Stalls;

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
    /// Where its memory is.
    pub memory_node: MemoryNode,
    /// Requests that this shard was home of.
    pub requests: AtomicU64,
    /// Events and slices that it has done.
    pub steps: AtomicU64,
    /// 1 while operations are under way.
    pub busy: AtomicU64,
    /// Times that it slept on work and was woken.
    pub woken: AtomicU64,
    /// What held its core too long.
    pub stalls: Stalls,
    /// Latencies, sizes and what the shard holds.
    pub meters: Meters,
    /// Images written.
    pub images_written: AtomicU64,
    /// Images that a start refused.
    pub images_refused: AtomicU64,
    /// Bytes of the newest image.
    pub image_bytes: AtomicU64,
    /// Longest time that writes waited for an image, in microseconds.
    pub image_pause_us_max: AtomicU64,
    /// What the shard started from: 0 its log, else one more than an `ImageTier`.
    pub image_tier: AtomicU64,
    /// What its log found for its next segment: 0 room, 1 none, 2 none for the next record.
    pub log_room: AtomicU64,
    /// Segments of its log.
    pub log_segments: AtomicU64,
    /// Bytes of records in its log that are needed.
    pub log_live_bytes: AtomicU64,
    /// Sealed segments that hold what was forgotten.
    pub forgetting_segments: AtomicU64,
    /// Sealed segments that can't be read.
    pub damaged_segments: AtomicU64,
    /// Bytes of sealed segments whose checksums were proven.
    pub scrubbed_bytes: AtomicU64,
    /// Segments that were made from others.
    pub compactions: AtomicU64,
    /// Bytes of these segments.
    pub compacted_bytes: AtomicU64,
    /// Bytes that the others had more.
    pub compaction_freed_bytes: AtomicU64,
    /// The last request to compact everything that it has obeyed.
    pub compacted_request: AtomicU64,
}

impl Counters {
    /// Adds to a counter of this shard's own.
    pub fn add(counter: &AtomicU64, count: u64) {
        counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }

    /// Where the shard is in its life.
    pub fn phase(&self) -> Phase {
        Phase::of(self.phase.load(Ordering::Acquire))
    }
}

/// Counters of every shard, and the life that they make.
#[derive(Debug)]
pub struct Status {
    shards: Box<[Counters]>,
    life: Life,
    compaction_wanted: AtomicU64,
    /// Bytes of memory that are left before writes are refused, as was seen last.
    memory_left_bytes: AtomicU64,
    /// Bytes of it that are lent.
    memory_lent_bytes: AtomicU64,
}

/// Memory that background work may take for a while.
#[derive(Debug)]
pub(crate) struct Loan<'a> {
    status: &'a Status,
    bytes: u64,
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        self.status.memory_lent_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl Status {
    pub(crate) fn new(shards: u16) -> Self {
        let counters = (0..shards).map(|_| Counters::default()).collect();
        Self {
            shards: counters,
            life: Life::new(shards),
            compaction_wanted: AtomicU64::new(0),
            memory_left_bytes: AtomicU64::new(u64::MAX),
            memory_lent_bytes: AtomicU64::new(0),
        }
    }

    /// So many bytes of memory are left before writes are refused; without that there is no bound.
    pub fn note_memory_left(&self, bytes: u64) {
        self.memory_left_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Lends memory to background work; `None` where that would take more than is left. What is lent
    /// and in use already counts twice: rather too little is lent than too much.
    pub(crate) fn lend_memory(&self, bytes: u64) -> Option<Loan<'_>> {
        let loan = Loan { status: self, bytes };
        let lent = self.memory_lent_bytes.fetch_add(bytes, Ordering::AcqRel);
        (lent.saturating_add(bytes) <= self.memory_left_bytes.load(Ordering::Relaxed))
            .then_some(loan)
    }

    /// The last request to compact everything.
    pub fn compaction_wanted(&self) -> u64 {
        self.compaction_wanted.load(Ordering::Acquire)
    }

    /// Every shard is to compact its log now.
    pub(crate) fn want_compaction(&self) {
        self.compaction_wanted.fetch_add(1, Ordering::AcqRel);
    }

    /// Every shard has compacted its log since that was wanted last.
    pub fn is_compacted(&self) -> bool {
        let wanted = self.compaction_wanted();
        self.shards.iter().all(|shard| shard.compacted_request.load(Ordering::Acquire) >= wanted)
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

    /// Where the server is in its life.
    pub fn life(&self) -> &Life {
        &self.life
    }

    /// A shard goes on to its next phase, with nothing of it done.
    pub(crate) fn enter(&self, shard: ShardIx, phase: Phase) {
        let counters = &self.shards[shard.index()];
        counters.progress.store(0, Ordering::Relaxed);
        counters.phase.store(phase as u8, Ordering::Release);
        self.life.enter(shard, phase);
    }

    /// Share of the phase that is done, 0 to 1, of the shard that is furthest behind.
    pub fn progress(&self) -> f32 {
        let least = self.shards.iter().map(Counters::phase).min();
        let behind = self.shards.iter().filter(|shard| Some(shard.phase()) == least);
        let done = behind.map(|shard| shard.progress.load(Ordering::Relaxed)).min().unwrap_or(0);
        done as f32 / 1000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_memory_is_lent_than_is_left() {
        let status = Status::new(2);
        assert!(status.lend_memory(1 << 40).is_some(), "nobody says that there is a bound");
        status.note_memory_left(100);
        let first = status.lend_memory(60).expect("it is there");
        assert!(status.lend_memory(60).is_none());
        assert!(status.lend_memory(40).is_some());
        drop(first);
        assert!(status.lend_memory(100).is_some(), "all was given back");
        status.note_memory_left(0);
        assert!(status.lend_memory(1).is_none());
    }
}
