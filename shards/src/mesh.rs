//! Mailboxes between shards.
//!
//! *Invariants*: one bounded inbox a shard; sending never waits; what finds a full inbox queues at
//! its sender, in order, and nothing is dropped.
//!
//! *Not here*: what the envelopes say (`engram_engine::mesh`).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::Instant;

use engram_engine::key::ShardIx;
use engram_engine::mesh::Envelope;
use flume::{Receiver, Sender, TrySendError};

/// Envelopes that wait in one inbox.
pub const INBOX_ENVELOPES_MAX: usize = 4096;

/// An envelope with its sender.
pub struct Delivery {
    /// The shard that sent it.
    pub from: ShardIx,
    /// What it sent.
    pub envelope: Envelope,
    /// When.
    pub sent: Instant,
}

/// The inboxes of all shards: senders, and each shard's receiver once.
pub fn inboxes(shards: u16) -> (Vec<Sender<Delivery>>, Vec<Receiver<Delivery>>) {
    (0..shards).map(|_| flume::bounded(INBOX_ENVELOPES_MAX)).unzip()
}

/// The way to every other shard.
pub struct Outbox {
    me: ShardIx,
    senders: Vec<Sender<Delivery>>,
    waiting: RefCell<Vec<VecDeque<Delivery>>>,
}

impl Outbox {
    /// The outbox of shard `me`.
    pub fn new(me: ShardIx, senders: Vec<Sender<Delivery>>) -> Self {
        let waiting = RefCell::new(senders.iter().map(|_| VecDeque::new()).collect());
        Self { me, senders, waiting }
    }

    /// Sends an envelope; false where it has to wait for room.
    pub fn send(&self, to: ShardIx, envelope: Envelope) -> bool {
        let delivery = Delivery { from: self.me, envelope, sent: Instant::now() };
        let mut waiting = self.waiting.borrow_mut();
        let queue = &mut waiting[to.index()];
        if queue.is_empty() {
            match self.senders[to.index()].try_send(delivery) {
                Ok(()) => return true,
                Err(TrySendError::Full(delivery)) => queue.push_back(delivery),
                // The other shard is gone: the process is on its way out.
                Err(TrySendError::Disconnected(_)) => return true,
            }
        } else {
            queue.push_back(delivery);
        }
        false
    }

    /// Tries again what waits; false where something still does.
    pub fn retry(&self) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        let mut empty = true;
        for (queue, sender) in waiting.iter_mut().zip(&self.senders) {
            while let Some(delivery) = queue.pop_front() {
                if let Err(TrySendError::Full(delivery)) = sender.try_send(delivery) {
                    queue.push_front(delivery);
                    empty = false;
                    break;
                }
            }
        }
        empty
    }
}
