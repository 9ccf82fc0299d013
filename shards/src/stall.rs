//! What held a core for too long, by name.
//!
//! *Invariants*: every piece of work of a shard is timed; one counter a kind of work, written by its
//! own core.
//!
//! *Not here*: turns of connections, which nobody times; a core that does not run at all
//! (`watchdog`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engram_engine::mesh::Message;
use engram_engine::request::Request;
use engram_engine::shard::Event;

/// Longest that one piece of work should hold a core: sockets, messages and files wait meanwhile.
pub const HELD_MAX: Duration = Duration::from_micros(500);
/// The log says at most this often that a core was held.
const SAID_EVERY: Duration = Duration::from_secs(10);

/// Work that runs without a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Work {
    /// The first step of a recall.
    Recall,
    /// The first step of another request.
    Request,
    /// A question of another shard.
    Ask,
    /// An answer of another shard.
    Reply,
    /// News of another shard.
    Tell,
    /// A message of the shard to itself.
    Local,
    /// A batch became durable: writers are answered.
    Durable,
    /// A record was read.
    Fetched,
    /// Deadlines, budgets, and the end of the log.
    Control,
    /// A slice of searching, indexing or associating.
    Slice,
    /// Some records of the log were applied again.
    Replay,
    /// A slice of compacting the log.
    Compaction,
}

impl Work {
    /// Every kind, in order.
    pub const ALL: [Self; 12] = [
        Self::Recall,
        Self::Request,
        Self::Ask,
        Self::Reply,
        Self::Tell,
        Self::Local,
        Self::Durable,
        Self::Fetched,
        Self::Control,
        Self::Slice,
        Self::Replay,
        Self::Compaction,
    ];

    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Recall => "recall",
            Self::Request => "request",
            Self::Ask => "ask",
            Self::Reply => "reply",
            Self::Tell => "tell",
            Self::Local => "local",
            Self::Durable => "durable",
            Self::Fetched => "fetched",
            Self::Control => "control",
            Self::Slice => "slice",
            Self::Replay => "replay",
            Self::Compaction => "compaction",
        }
    }

    /// What a step with this event is.
    pub(crate) fn of(event: &Event) -> Self {
        match event {
            Event::Request { request: Request::Recall { .. }, .. } => Self::Recall,
            Event::Request { .. } => Self::Request,
            Event::Envelope { envelope, .. } => match &envelope.message {
                Message::Ask(..) => Self::Ask,
                Message::Reply(..) => Self::Reply,
                Message::Tell(..) => Self::Tell,
            },
            Event::Durable { .. } => Self::Durable,
            Event::Fetched { .. } | Event::FetchedCold { .. } | Event::StoredCold { .. } => {
                Self::Fetched
            }
            Event::Poisoned
            | Event::Budget(_)
            | Event::Drain
            | Event::Prune
            | Event::Mark
            | Event::Tick => Self::Control,
            Event::Local => Self::Local,
        }
    }
}

/// How often each kind of work held a core too long, and for how long at most.
#[derive(Debug, Default)]
pub struct Stalls {
    counts: [AtomicU64; Work::ALL.len()],
    longest_us: [AtomicU64; Work::ALL.len()],
    since_said: AtomicU64,
    next_said_us: AtomicU64,
}

impl Stalls {
    /// Notes work that began at some time and is over now; says so where it took too long.
    pub(crate) fn note(&self, shard: usize, work: Work, begun: Instant) {
        let took = begun.elapsed();
        if took > HELD_MAX {
            self.note_stall(shard, work, took);
        }
    }

    #[cold]
    fn note_stall(&self, shard: usize, work: Work, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        add(&self.counts[work as usize]);
        if took_us > self.longest(work) {
            self.longest_us[work as usize].store(took_us, Ordering::Relaxed);
        }
        add(&self.since_said);
        let now_us = u64::try_from(crate::core::now().0).unwrap_or(0);
        if now_us >= self.next_said_us.load(Ordering::Relaxed) {
            let next_us = now_us + u64::try_from(SAID_EVERY.as_micros()).unwrap_or(u64::MAX);
            self.next_said_us.store(next_us, Ordering::Relaxed);
            let count = self.since_said.swap(0, Ordering::Relaxed);
            let name = work.name();
            log::debug!(
                "shard {shard}: {name} held the core for {took_us} us ({count} since said)"
            );
        }
    }

    /// How often a kind of work took too long.
    pub fn count(&self, work: Work) -> u64 {
        self.counts[work as usize].load(Ordering::Relaxed)
    }

    /// The longest that a kind of work has taken, in microseconds, where it was too long.
    pub fn longest(&self, work: Work) -> u64 {
        self.longest_us[work as usize].load(Ordering::Relaxed)
    }
}

fn add(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_work_that_takes_too_long_is_named() {
        let stalls = Stalls::default();
        stalls.note(0, Work::Ask, Instant::now());
        stalls.note_stall(0, Work::Slice, Duration::from_micros(900));
        stalls.note_stall(0, Work::Slice, Duration::from_micros(700));
        let seen: Vec<u64> = Work::ALL.iter().map(|work| stalls.count(*work)).collect();
        assert_eq!(seen.iter().sum::<u64>(), 2);
        assert_eq!((stalls.count(Work::Slice), stalls.longest(Work::Slice)), (2, 900));
    }
}
