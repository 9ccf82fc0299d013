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
const SAID_EVERY: Duration = Duration::from_secs(60);

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
            | Event::LogRoom(_)
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
    /// How often the kernel had taken the core from the shard by the last look.
    preempted: AtomicU64,
    /// Since the log said something: how many there were, and which was the longest.
    unsaid: AtomicU64,
    worst: AtomicU64,
    worst_us: AtomicU64,
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

    /// Looks how often the kernel has taken the core from this thread, which is the shard's; true
    /// where it has since the last look.
    pub(crate) fn look(&self) -> bool {
        let now = preemptions();
        self.preempted.swap(now, Ordering::Relaxed) != now
    }

    #[cold]
    fn note_stall(&self, shard: usize, work: Work, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.count_stall(work, took_us);
        let now_us = u64::try_from(crate::core::now().0).unwrap_or(0);
        // What others did with the core says nothing about this work.
        let line = if self.look() { None } else { self.line(now_us, work, took_us) };
        if let Some(line) = line {
            log::warn!("shard {shard}: {line}");
        }
    }

    fn count_stall(&self, work: Work, took_us: u64) {
        add(&self.counts[work as usize]);
        if took_us > self.longest(work) {
            self.longest_us[work as usize].store(took_us, Ordering::Relaxed);
        }
    }

    /// What the log says of work that held the core by itself; nothing so soon after it spoke.
    fn line(&self, now_us: u64, work: Work, took_us: u64) -> Option<String> {
        add(&self.unsaid);
        if took_us > self.worst_us.load(Ordering::Relaxed) {
            self.worst_us.store(took_us, Ordering::Relaxed);
            self.worst.store(work as u64, Ordering::Relaxed);
        }
        if now_us < self.next_said_us.load(Ordering::Relaxed) {
            return None;
        }
        let next_us = now_us + u64::try_from(SAID_EVERY.as_micros()).unwrap_or(u64::MAX);
        self.next_said_us.store(next_us, Ordering::Relaxed);
        let times = self.unsaid.swap(0, Ordering::Relaxed);
        let worst = Work::ALL[self.worst.load(Ordering::Relaxed) as usize].name();
        let worst_us = self.worst_us.swap(0, Ordering::Relaxed);
        let max_us = HELD_MAX.as_micros();
        Some(format!(
            "\"{worst}\" held the core for {worst_us} us, and everybody else waited; {times} times more \
             than {max_us} us since this was said last"
        ))
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

/// How often the kernel has taken the core from this thread to give it to another.
fn preemptions() -> u64 {
    // SAFETY: a rusage is numbers, of which zero is one.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one rusage to where one lies.
    let read = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    if read == 0 { u64::try_from(usage.ru_nivcsw).unwrap_or(0) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_work_that_takes_too_long_is_counted() {
        let stalls = Stalls::default();
        stalls.note(0, Work::Ask, Instant::now());
        stalls.note_stall(0, Work::Slice, Duration::from_micros(900));
        stalls.note_stall(0, Work::Slice, Duration::from_micros(700));
        let seen: Vec<u64> = Work::ALL.iter().map(|work| stalls.count(*work)).collect();
        assert_eq!(seen.iter().sum::<u64>(), 2);
        assert_eq!((stalls.count(Work::Slice), stalls.longest(Work::Slice)), (2, 900));
    }

    #[test]
    fn the_worst_is_named_at_once_and_then_once_a_minute() {
        let stalls = Stalls::default();
        let minute_us = u64::try_from(SAID_EVERY.as_micros()).unwrap();
        let first = stalls.line(5, Work::Ask, 600).expect("it is said at once");
        assert!(first.starts_with("\"ask\" held the core for 600 us"), "{first}");
        assert_eq!(stalls.line(6, Work::Slice, 2000), None);
        assert_eq!(stalls.line(minute_us, Work::Reply, 900), None);
        let next = stalls.line(minute_us + 5, Work::Local, 700).expect("a minute is over");
        assert!(next.contains("\"slice\" held the core for 2000 us"), "{next}");
        assert!(next.contains("; 3 times more"), "{next}");
    }

    #[test]
    fn a_core_that_others_took_is_known() {
        let stalls = Stalls::default();
        stalls.look();
        stalls.preempted.fetch_sub(1, Ordering::Relaxed);
        assert!(stalls.look(), "the number has changed");
    }
}
