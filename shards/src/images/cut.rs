//! How shards agree on one moment of which all of them make an image.
//!
//! *Invariants*: shards stand still only after two rounds in a row in which every one of them was
//! quiet and as many tells had been heard as told (Mattern, 1987): then nothing is under way; a
//! shard goes on only after every shard has taken its picture, or none will.
//!
//! A lock is taken here, by shards that stand still, a thousand times a second for the moment that
//! this takes; no request waits for it.
//!
//! *Not here*: files (`store`), what standing still means (`engram_engine::shard`).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use engram_engine::shard::Settled;

/// What all shards share.
#[derive(Debug)]
pub(crate) struct Cut {
    shards: usize,
    /// The set that is wanted; changes when a cut begins.
    wanted: AtomicU64,
    urgent: AtomicBool,
    /// The last set of all; [`NOT_OVER`] while there may be others, [`NO_LAST`] where there is none.
    last: AtomicU64,
    /// The cut under way is given up.
    pub given_up: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    before: Vec<Option<Settled>>,
    now: Vec<Option<Settled>>,
    still: bool,
    taken: usize,
    written: usize,
    finished: usize,
}

const NOT_OVER: u64 = 0;
const NO_LAST: u64 = 1;

/// How a process ends its sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Last {
    /// It is not decided.
    NotYet,
    /// None is made.
    Nothing,
    /// This one.
    Set(u64),
}

/// What became of a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Shards are still at it.
    UnderWay,
    /// Every shard has written its image.
    Whole,
    /// Some did not.
    GivenUp,
}

impl Cut {
    pub fn new(shards: u16) -> Self {
        Self {
            shards: usize::from(shards),
            wanted: AtomicU64::new(0),
            urgent: AtomicBool::new(false),
            last: AtomicU64::new(NOT_OVER),
            given_up: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a cut for a set; an urgent one goes on while writes wait.
    pub fn begin(&self, set: u64, urgent: bool) {
        assert!(set > self.wanted(), "sets are numbered upwards");
        let none = vec![None; self.shards];
        *self.state() = State { before: none.clone(), now: none, ..State::default() };
        self.given_up.store(false, Ordering::Relaxed);
        self.urgent.store(urgent, Ordering::Relaxed);
        self.wanted.store(set, Ordering::Release);
    }

    /// The set that was wanted last; 0: none yet.
    pub fn wanted(&self) -> u64 {
        self.wanted.load(Ordering::Acquire)
    }

    pub fn is_urgent(&self) -> bool {
        self.urgent.load(Ordering::Relaxed)
    }

    /// No set will be wanted any more but this one, which begins.
    pub fn end(&self, last: Option<u64>) {
        self.last.store(last.unwrap_or(NO_LAST), Ordering::Release);
        if let Some(set) = last {
            self.begin(set, true);
        }
    }

    /// Whether a set is the last one, or whether there will be none.
    pub fn last(&self) -> Last {
        match self.last.load(Ordering::Acquire) {
            NOT_OVER => Last::NotYet,
            NO_LAST => Last::Nothing,
            set => Last::Set(set),
        }
    }

    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    pub fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// A shard says how far it has settled; whether all stand still.
    pub fn settle(&self, shard: usize, settled: Settled) -> bool {
        let mut state = self.state();
        if state.still {
            return true;
        }
        state.now[shard].get_or_insert(settled);
        if state.now.iter().any(Option::is_none) {
            return false;
        }
        let none = vec![None; self.shards];
        let now = std::mem::replace(&mut state.now, none);
        state.still = state.before == now && is_balanced(&now);
        state.before = now;
        state.still
    }

    /// A shard has taken its picture.
    pub fn take(&self) {
        self.state().taken += 1;
    }

    /// Every shard has taken its picture.
    pub fn are_taken(&self) -> bool {
        self.state().taken == self.shards
    }

    /// A shard is at the end of it, with a file or without.
    pub fn finish(&self, written: bool) {
        let mut state = self.state();
        state.finished += 1;
        state.written += usize::from(written);
    }

    pub fn outcome(&self) -> Outcome {
        let state = self.state();
        match (state.finished == self.shards, state.written == self.shards) {
            (false, _) => Outcome::UnderWay,
            (true, true) => Outcome::Whole,
            (true, false) => Outcome::GivenUp,
        }
    }
}

fn is_balanced(round: &[Option<Settled>]) -> bool {
    let all = || round.iter().flatten();
    let told: u64 = all().map(|settled| settled.told).sum();
    let heard: u64 = all().map(|settled| settled.heard).sum();
    told == heard && all().all(|settled| settled.quiet)
}
