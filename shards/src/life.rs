//! The life of the shards and of the server that they make: every transition goes through here.
//!
//! *Invariants*: a transition is one that `engine::phase` allows, is logged and counted; being told
//! to stop, or that a shard failed, is said once and never taken back; the lock is taken at
//! transitions and by scrapes, never by a request.
//!
//! *Not here*: what has to be done in a phase (`run`).

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engram_engine::key::ShardIx;
use engram_engine::phase::Phase;
use flume::{Receiver, RecvTimeoutError, Sender};

use crate::error::ShardsError;

/// How often each phase was followed by each other one, by their numbers.
pub type Transitions = [[u64; Phase::ALL.len()]; Phase::ALL.len()];

/// Where the server is in its life, and since when.
#[derive(Clone, Copy, Debug)]
pub struct Stage {
    /// The phase.
    pub phase: Phase,
    /// How long it has lasted.
    pub lasted: Duration,
}

/// The life of the shards of one server.
#[derive(Debug)]
pub struct Life {
    server: AtomicU8,
    told_to_stop: AtomicBool,
    hurried: AtomicBool,
    stopped: Receiver<()>,
    past: Mutex<Past>,
}

#[derive(Debug)]
struct Past {
    shards: Box<[(Phase, Instant)]>,
    server_since: Instant,
    of_shards: Transitions,
    of_server: Transitions,
    /// Dropped to wake whoever waits for the end.
    stop: Option<Sender<()>>,
    failure: Option<ShardsError>,
}

impl Life {
    pub(crate) fn new(shards: u16) -> Self {
        let (stop, stopped) = flume::bounded(0);
        let now = Instant::now();
        let past = Past {
            shards: vec![(Phase::Starting, now); usize::from(shards)].into(),
            server_since: now,
            of_shards: Transitions::default(),
            of_server: Transitions::default(),
            stop: Some(stop),
            failure: None,
        };
        Self {
            server: AtomicU8::new(Phase::Starting as u8),
            told_to_stop: AtomicBool::new(false),
            hurried: AtomicBool::new(false),
            stopped,
            past: Mutex::new(past),
        }
    }

    /// The phase of the server.
    pub fn phase(&self) -> Phase {
        Phase::of(self.server.load(Ordering::Acquire))
    }

    /// The phase of the server, and since when.
    pub fn stage(&self) -> Stage {
        let past = self.past();
        Stage { phase: self.phase(), lasted: past.server_since.elapsed() }
    }

    /// Transitions of the server, and those of all shards together.
    pub fn transitions(&self) -> (Transitions, Transitions) {
        let past = self.past();
        (past.of_server, past.of_shards)
    }

    /// Tells every core to stop: the server is not ready from now on. Again: nothing changes.
    pub fn stop(&self) {
        let mut past = self.past();
        self.told_to_stop.store(true, Ordering::Release);
        self.follow(&mut past);
        drop(past.stop.take());
    }

    /// Asks whoever drains to be done with it.
    pub fn hurry(&self) {
        self.hurried.store(true, Ordering::Release);
    }

    /// Draining has to end now.
    pub fn is_hurried(&self) -> bool {
        self.hurried.load(Ordering::Acquire)
    }

    /// The server was told to stop, or a shard failed.
    pub fn is_told_to_stop(&self) -> bool {
        self.told_to_stop.load(Ordering::Acquire)
    }

    /// Waits for so long, or until the server is told to stop: then true. Blocks.
    pub fn is_told_to_stop_within(&self, time: Duration) -> bool {
        matches!(self.stopped.recv_timeout(time), Err(RecvTimeoutError::Disconnected))
    }

    /// Ready once the server was told to stop.
    pub async fn told_to_stop(&self) {
        // Nothing is ever sent: the sender is dropped.
        let _disconnected = self.stopped.recv_async().await;
    }

    /// A shard can't go on: nor can the server.
    pub(crate) fn fail(&self, error: ShardsError) {
        self.past().failure.get_or_insert(error);
        self.stop();
    }

    /// A shard can't go on.
    pub(crate) fn has_failed(&self) -> bool {
        self.past().failure.is_some()
    }

    /// The first error that ended a shard.
    pub(crate) fn take_failure(&self) -> Option<ShardsError> {
        self.past().failure.take()
    }

    /// A shard goes on to its next phase.
    pub(crate) fn enter(&self, shard: ShardIx, next: Phase) {
        let mut past = self.past();
        let (before, since) = past.shards[shard.index()];
        count(&mut past.of_shards, "a shard", before, next);
        past.shards[shard.index()] = (next, Instant::now());
        log::debug!(
            "shard {}: {} after {} ms {}",
            shard.0,
            next.as_str(),
            since.elapsed().as_millis(),
            before.as_str()
        );
        self.follow(&mut past);
    }

    /// The server's phase follows those of its shards.
    fn follow(&self, past: &mut Past) {
        let before = self.phase();
        let shards = past.shards.iter().map(|(phase, _)| *phase);
        let next = Phase::of_server(before, self.is_told_to_stop(), shards);
        if next == before {
            return;
        }
        count(&mut past.of_server, "a server", before, next);
        let lasted = std::mem::replace(&mut past.server_since, Instant::now()).elapsed();
        self.server.store(next as u8, Ordering::Release);
        log::info!("{} after {} ms {}", next.as_str(), lasted.as_millis(), before.as_str());
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Checks a transition and counts it.
fn count(transitions: &mut Transitions, of: &str, before: Phase, next: Phase) {
    let (from, to) = (before.as_str(), next.as_str());
    assert!(before.may_become(next), "{of} that is {from} never gets {to}");
    transitions[before as usize][next as usize] += 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_told_to_stop_drains_and_ends_with_its_last_shard() {
        let life = Life::new(2);
        for phase in [Phase::Recovering, Phase::Warming, Phase::Running] {
            life.enter(ShardIx(0), phase);
        }
        assert_eq!(life.phase(), Phase::Starting, "the other shard has not begun");
        life.enter(ShardIx(1), Phase::Recovering);
        assert_eq!(life.phase(), Phase::Recovering);
        life.stop();
        life.stop();
        assert_eq!(life.phase(), Phase::Draining);
        for shard in [ShardIx(1), ShardIx(0)] {
            life.enter(shard, Phase::Draining);
            life.enter(shard, Phase::Stopped);
        }
        assert_eq!(life.phase(), Phase::Stopped);
        let (server, shards) = life.transitions();
        assert_eq!(server[Phase::Recovering as usize][Phase::Draining as usize], 1);
        assert_eq!(shards[Phase::Draining as usize][Phase::Stopped as usize], 2);
    }

    #[test]
    #[should_panic(expected = "a shard that is starting never gets running")]
    fn a_shard_that_skips_a_phase_is_a_bug() {
        Life::new(1).enter(ShardIx(0), Phase::Running);
    }
}
