//! The shadow model: what each memory and each link may read as, given what was asked and answered.
//!
//! *Invariants*: a write that was acknowledged before a read began hides every write that was
//! answered before that write began; a durable one does so across crashes too. What overlaps may be
//! seen in either order.
//!
//! *Not here*: what is asked (`workload`), how answers are compared (`check`).

use std::fmt::Debug;

/// A moment of the run: each is later than the one before.
pub type Moment = u64;

/// How far a write has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nobody knows whether it happened.
    Open,
    /// It was answered before it was durable.
    Applied(Moment),
    /// It was answered as durable.
    Durable(Moment),
}

impl Stage {
    fn end(self) -> Option<Moment> {
        match self {
            Self::Open => None,
            Self::Applied(end) | Self::Durable(end) => Some(end),
        }
    }
}

#[derive(Clone, Debug)]
struct Write<V> {
    operation: u64,
    value: Option<V>,
    begin: Moment,
    stage: Stage,
}

/// What one memory or link may be; `None`: it does not exist.
#[derive(Clone, Debug)]
pub struct Register<V> {
    writes: Vec<Write<V>>,
}

impl<V: Clone + PartialEq + Debug> Default for Register<V> {
    fn default() -> Self {
        let nothing = Write { operation: 0, value: None, begin: 0, stage: Stage::Durable(0) };
        Self { writes: vec![nothing] }
    }
}

impl<V: Clone + PartialEq + Debug> Register<V> {
    /// An operation begins that may write this.
    pub fn begin(&mut self, operation: u64, value: Option<V>, now: Moment) {
        self.writes.push(Write { operation, value, begin: now, stage: Stage::Open });
    }

    /// It ended, and has written.
    pub fn written(&mut self, operation: u64, durable: bool, now: Moment) {
        let stage = if durable { Stage::Durable(now) } else { Stage::Applied(now) };
        let own = self.writes.iter_mut().filter(|w| w.operation == operation);
        own.for_each(|write| write.stage = stage);
    }

    /// It ended, and has not written.
    pub fn refused(&mut self, operation: u64) {
        self.writes.retain(|write| write.operation != operation);
    }

    /// Whether it may read as `value` between two moments.
    pub fn may_be(&self, value: Option<&V>, from: Moment, to: Moment) -> bool {
        self.seen(from, to).any(|write| write.value.as_ref() == value)
    }

    /// Whether it may exist between two moments.
    pub fn may_be_any(&self, from: Moment, to: Moment) -> bool {
        self.seen(from, to).any(|write| write.value.is_some())
    }

    /// Whether it may be something of a kind between two moments.
    pub fn may_be_one(&self, from: Moment, to: Moment, of: impl Fn(&V) -> bool) -> bool {
        self.seen(from, to).any(|write| write.value.as_ref().is_some_and(&of))
    }

    /// What a read between two moments may see.
    fn seen(&self, from: Moment, to: Moment) -> impl Iterator<Item = &Write<V>> {
        let over = self.writes.iter().filter(|w| w.stage.end().is_some_and(|end| end < from));
        let hiding = over.map(|w| w.begin).max().unwrap_or(0);
        let begun = self.writes.iter().filter(move |w| w.begin <= to);
        begun.filter(move |w| w.stage.end().is_none_or(|end| end >= hiding))
    }

    /// The machine crashed: what no durable write hides may be what is there now.
    pub fn crash(&mut self, now: Moment) {
        let durable = self.writes.iter().filter(|w| matches!(w.stage, Stage::Durable(_)));
        let newest = durable.map(|w| w.begin).max().unwrap_or(0);
        self.writes.retain(|write| write.stage.end().is_none_or(|end| end >= newest));
        self.writes.iter_mut().for_each(|write| write.stage = Stage::Durable(now));
    }

    /// It is this, and nothing that was begun before can change it any more.
    pub fn settle(&mut self, value: Option<V>, now: Moment) {
        self.writes.clear();
        let stage = Stage::Durable(now);
        self.writes.push(Write { operation: 0, value, begin: now, stage });
    }

    /// Forgets what no read can return any more, given when the oldest operation that is under way
    /// began.
    pub fn forget_hidden(&mut self, oldest: Moment) {
        let durable = self.writes.iter().filter(|write| match write.stage {
            Stage::Durable(end) => end < oldest,
            Stage::Open | Stage::Applied(_) => false,
        });
        let Some(hiding) = durable.map(|write| write.begin).max() else { return };
        self.writes.retain(|write| write.stage.end().is_none_or(|end| end >= hiding));
    }

    /// What it may be, for messages.
    pub fn describe(&self) -> String {
        format!("{:?}", self.writes)
    }
}
