//! What a request asked of the shards, and when they replied: for traces, of requests that are traced.
//!
//! *Invariants*: what is noted changes no answer; nothing is noted of a request that is not traced.
//!
//! *Not here*: spans and how they leave the process (`net`, `ops`).

use std::collections::HashMap;

use crate::key::ShardIx;
use crate::model::Timestamp;
use crate::shard::Ticket;

/// What one request asked of the shards, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// One after the other.
    pub steps: Vec<Step>,
}

/// One round of questions to shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What they were asked.
    pub name: &'static str,
    /// When.
    pub asked_at: Timestamp,
    /// What came back, in the order in which it came.
    pub replies: Vec<Replied>,
}

/// A shard replied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replied {
    /// Which.
    pub shard: ShardIx,
    /// When that reached the home of the request.
    pub at: Timestamp,
    /// How long the reply waited for stable storage, in microseconds.
    pub synced_us: u32,
}

/// The requests of one shard that are traced.
#[derive(Debug, Default)]
pub(crate) struct Traces(HashMap<u64, Trace>);

impl Traces {
    pub(crate) fn begin(&mut self, ticket: Ticket) {
        self.0.insert(ticket.0, Trace::default());
    }

    pub(crate) fn end(&mut self, ticket: Ticket) -> Option<Trace> {
        if self.0.is_empty() { None } else { self.0.remove(&ticket.0) }
    }

    pub(crate) fn asked(&mut self, ticket: Option<Ticket>, name: &'static str, at: Timestamp) {
        if let Some(trace) = self.of(ticket) {
            trace.steps.push(Step { name, asked_at: at, replies: Vec::new() });
        }
    }

    pub(crate) fn replied(&mut self, ticket: Option<Ticket>, reply: Replied) {
        if let Some(step) = self.of(ticket).and_then(|trace| trace.steps.last_mut()) {
            step.replies.push(reply);
        }
    }

    fn of(&mut self, ticket: Option<Ticket>) -> Option<&mut Trace> {
        if self.0.is_empty() { None } else { self.0.get_mut(&ticket?.0) }
    }
}
