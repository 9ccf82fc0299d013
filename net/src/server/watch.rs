//! What is known of each connection of a core, and the sweep that ends those that stand still.
//!
//! *Invariants*: one sweep a core replaces a timer a request; a connection that makes no progress
//! in head, body or answer is ended within its timeout and one sweep.
//!
//! *Not here*: reading and writing (`stream`), the loop of a connection (`serve`).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

/// How often connections are looked at.
pub const SWEEP_INTERVAL: Duration = Duration::from_millis(250);

/// How many connections are looked at to find one that makes room: enough to find a bad one among
/// many, few enough that a flood of connections costs little.
const SAMPLE: usize = 64;

/// How many connections are looked at, and how many ended, before others of the core have their
/// turn: attackers come together, so they are due together, and each that is ended is a task to run.
const LOOKED_AT_MAX: usize = 512;
const ENDED_MAX: usize = 16;

/// How long a connection may stand still.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// From the first byte of a head to its last.
    pub head: Duration,
    /// Between requests.
    pub idle: Duration,
    /// For a body, beside the time that [`Self::bytes_per_second_min`] gives it; and between two
    /// lines of a stream.
    pub body: Duration,
    /// For what is sent and not taken, beside the same.
    pub send: Duration,
    /// The slowest client that is waited for.
    pub bytes_per_second_min: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            body: Duration::from_secs(15),
            send: Duration::from_secs(15),
            bytes_per_second_min: 16 << 10,
        }
    }
}

impl Timeouts {
    fn with_bytes(&self, base: Duration, bytes: u64) -> Duration {
        base + Duration::from_secs(bytes / self.bytes_per_second_min.max(1))
    }
}

/// Where a connection is between its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing has come of the next request.
    Idle,
    /// Part of a head has come.
    Head,
    /// A request is being answered.
    Busy,
}

/// Why a connection is ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its head took too long: 408.
    SlowHead,
    /// It was idle too long.
    Idle,
    /// It makes room for another.
    Evicted,
    /// It does not take what is sent to it.
    SlowReader,
}

/// One connection, shared by its stream, its requests and the sweep.
#[derive(Debug)]
pub struct Watched {
    turn: Cell<Turn>,
    since: Cell<Instant>,
    requests: Cell<u64>,
    body: Cell<Option<Waiting>>,
    body_late: Cell<bool>,
    blocked: Cell<Option<Waiting>>,
    end: Cell<Option<End>>,
    unread: Cell<bool>,
    waker: RefCell<Waker>,
    clock: Rc<Cell<Instant>>,
}

/// A direction that waits: since when, and what has passed meanwhile.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    since: Instant,
    bytes: u64,
}

impl Watched {
    fn new(clock: Rc<Cell<Instant>>) -> Self {
        Self {
            turn: Cell::new(Turn::Idle),
            since: Cell::new(clock.get()),
            requests: Cell::new(0),
            body: Cell::new(None),
            body_late: Cell::new(false),
            blocked: Cell::new(None),
            end: Cell::new(None),
            unread: Cell::new(false),
            waker: RefCell::new(Waker::noop().clone()),
            clock,
        }
    }

    /// Remembers whom to wake.
    pub fn polled_by(&self, waker: &Waker) {
        self.waker.borrow_mut().clone_from(waker);
    }

    /// Bytes came from the client.
    pub fn received(&self) {
        if self.turn.get() == Turn::Idle {
            self.enter(Turn::Head);
        }
    }

    /// A head was read and its request begins.
    pub fn begin(&self) {
        self.requests.set(self.requests.get() + 1);
        self.enter(Turn::Busy);
    }

    /// The answer has left, or at least its last byte was handed over.
    pub fn finish(&self) {
        self.enter(Turn::Idle);
    }

    /// The request waits for its body from now on.
    pub fn body_begins(&self) {
        self.body.set(Some(Waiting { since: self.clock.get(), bytes: 0 }));
    }

    /// Part of the body came.
    pub fn body_came(&self, bytes: usize) {
        if let Some(mut waiting) = self.body.get() {
            waiting.bytes += bytes as u64;
            self.body.set(Some(waiting));
        }
    }

    /// The body is over, or nobody waits for it now.
    pub fn body_ends(&self) {
        self.body.set(None);
    }

    /// The body took too long; says so once.
    pub fn take_body_late(&self) -> bool {
        self.body_late.take()
    }

    /// The socket takes no more.
    pub fn send_blocks(&self) {
        if self.blocked.get().is_none() {
            self.blocked.set(Some(Waiting { since: self.clock.get(), bytes: 0 }));
        }
    }

    /// The socket took some of what was to be sent, or all of it.
    pub fn sent(&self, bytes: usize, all: bool) {
        if let Some(mut waiting) = self.blocked.get() {
            waiting.bytes += bytes as u64;
            // Bytes may be on their way to the kernel for a moment: that is no wait.
            let waited = self.clock.get().saturating_duration_since(waiting.since);
            self.blocked.set((!all && waited > SWEEP_INTERVAL).then_some(waiting));
        }
    }

    /// The client is still sending what nobody will read.
    pub fn leave_unread(&self) {
        self.unread.set(true);
    }

    /// Something is left unread, so that closing at once could lose the answer.
    pub fn is_unread(&self) -> bool {
        self.unread.get()
    }

    /// A request has come on it.
    pub fn has_asked(&self) -> bool {
        self.requests.get() > 0
    }

    /// Nothing has come on it for that long.
    pub fn is_silent_for(&self, time: Duration) -> bool {
        let since = self.clock.get().saturating_duration_since(self.since.get());
        self.turn.get() == Turn::Idle && since >= time
    }

    /// Why it is to be ended, if it is.
    pub fn ended(&self) -> Option<End> {
        self.end.get()
    }

    fn enter(&self, turn: Turn) {
        self.turn.set(turn);
        self.since.set(self.clock.get());
    }

    fn stop(&self, end: End) {
        self.end.set(Some(end));
        self.wake();
    }

    fn wake(&self) {
        self.waker.borrow().wake_by_ref();
    }

    /// Ends it where it stands still; true where that is so.
    fn sweep(&self, now: Instant, timeouts: &Timeouts) -> bool {
        let passed = |since: Instant| now.saturating_duration_since(since);
        if let Some(Waiting { since, bytes }) = self.blocked.get()
            && passed(since) > timeouts.with_bytes(timeouts.send, bytes)
        {
            self.stop(End::SlowReader);
            return true;
        }
        if let Some(Waiting { since, bytes }) = self.body.get()
            && passed(since) > timeouts.with_bytes(timeouts.body, bytes)
        {
            self.body.set(None);
            self.body_late.set(true);
            self.wake();
            return true;
        }
        let end = match self.turn.get() {
            Turn::Idle if passed(self.since.get()) > timeouts.idle => End::Idle,
            Turn::Head if passed(self.since.get()) > timeouts.head => End::SlowHead,
            Turn::Idle | Turn::Head | Turn::Busy => return false,
        };
        self.stop(end);
        true
    }
}

/// The connections of one core.
#[derive(Debug)]
pub struct Connections {
    slots: RefCell<Vec<Option<Rc<Watched>>>>,
    free: RefCell<Vec<usize>>,
    open: Cell<usize>,
    sampled: Cell<usize>,
    clock: Rc<Cell<Instant>>,
}

impl Connections {
    /// None yet.
    pub fn new() -> Self {
        Self {
            slots: RefCell::default(),
            free: RefCell::default(),
            open: Cell::new(0),
            sampled: Cell::new(0),
            clock: Rc::new(Cell::new(Instant::now())),
        }
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.open.get()
    }

    /// Watches one more; the number is for [`Self::remove`].
    pub fn add(&self) -> (usize, Rc<Watched>) {
        let watched = Rc::new(Watched::new(Rc::clone(&self.clock)));
        let mut slots = self.slots.borrow_mut();
        let slot = self.free.borrow_mut().pop().unwrap_or(slots.len());
        if slot == slots.len() {
            slots.push(None);
        }
        assert!(slots[slot].is_none(), "a slot belongs to one connection");
        slots[slot] = Some(Rc::clone(&watched));
        self.open.set(self.open.get() + 1);
        (slot, watched)
    }

    /// Forgets one.
    pub fn remove(&self, slot: usize) {
        let removed = self.slots.borrow_mut()[slot].take();
        assert!(removed.is_some(), "a connection ends once");
        self.free.borrow_mut().push(slot);
        self.open.set(self.open.get() - 1);
    }

    /// Ends one of the connections that wait between their requests: of a sample, the one that has
    /// asked nothing yet, or else waits longest. False where all of the sample are busy.
    pub fn make_room(&self) -> bool {
        let slots = self.slots.borrow();
        let begin = self.sampled.get() % slots.len().max(1);
        self.sampled.set(begin + SAMPLE);
        let (before, after) = slots.split_at(begin);
        let sample = after.iter().chain(before).take(SAMPLE).flatten();
        let waiting = sample.filter(|one| one.turn.get() != Turn::Busy && one.end.get().is_none());
        let worst = waiting.min_by_key(|one| (one.requests.get() > 0, one.since.get()));
        if let Some(worst) = worst {
            worst.stop(End::Evicted);
        }
        worst.is_some()
    }

    /// Advances the clock and ends what stands still, looking at some connections from a slot on;
    /// where to go on, if that were not all.
    pub fn sweep(&self, from: usize, timeouts: &Timeouts) -> Option<usize> {
        let now = Instant::now();
        self.clock.set(now);
        let slots = self.slots.borrow();
        let mut ended = 0;
        for (slot, watched) in slots.iter().enumerate().skip(from) {
            if slot == from + LOOKED_AT_MAX || ended == ENDED_MAX {
                return Some(slot);
            }
            ended += usize::from(watched.as_ref().is_some_and(|one| one.sweep(now, timeouts)));
        }
        None
    }

    /// Wakes every connection, so that it sees what has changed for all.
    pub fn wake_all(&self) {
        for watched in self.slots.borrow().iter().flatten() {
            watched.wake();
        }
    }
}
