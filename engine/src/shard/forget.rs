//! News of deletions: links to what is gone go with it, wherever they leave from.
//!
//! *Invariants*: other shards hear of a deletion once it is durable, and never of one that a crash
//! would undo; a deletion is acknowledged when they have taken the links away, durably. So what is
//! written after that, on any shard, has nothing to do with it.
//!
//! *Not here*: what goes with a memory on its own shard (`space`), what shards tell each other of
//! deletions after a start (`recovery`).

use std::collections::VecDeque;
use std::sync::Arc;

use crate::key::{MemoryKey, ShardIx};
use crate::mesh::{Ask, OpId, Reply};
use crate::model::{SpaceName, Timestamp};
use crate::request::{Rejection, Wait};

use super::Shard;
use super::home::Then;

/// Who waits for a deletion.
pub(super) struct Deleted {
    to: ShardIx,
    op: OpId,
    reply: Reply,
}

/// Memories that were deleted together, and who waits for that, unless they were told already that
/// the log can't be written.
struct Undurable {
    sequence: u64,
    memories: Vec<(SpaceName, MemoryKey)>,
    waiting: Option<Deleted>,
}

/// Deletions of which other shards have not heard.
#[derive(Default)]
pub(super) struct Forgets {
    undurable: VecDeque<Undurable>,
    being_told: u32,
}

impl Forgets {
    /// Every shard has heard of every deletion.
    pub(super) fn is_over(&self) -> bool {
        self.undurable.is_empty() && self.being_told == 0
    }
}

impl Shard {
    /// Replies to a deletion when it is as durable as was asked for. Where there are other shards it
    /// is durable in any case: before they have heard of it, what is written next could go with it.
    pub(super) fn reply_forgotten(
        &mut self,
        to: ShardIx,
        op: OpId,
        reply: Reply,
        wait: Wait,
        memories: Vec<(SpaceName, MemoryKey)>,
    ) {
        if self.partitioner.shards() == 1 || memories.is_empty() {
            return self.reply_written(to, op, reply, wait);
        }
        let (sequence, waiting) = (self.sequence, Some(Deleted { to, op, reply }));
        self.forgets.undurable.push_back(Undurable { sequence, memories, waiting });
    }

    /// Tells the other shards of deletions that have become durable.
    pub(super) fn tell_forgotten(&mut self) {
        let mut memories: Vec<(SpaceName, Vec<MemoryKey>)> = Vec::new();
        let mut waiting = Vec::new();
        let durable = self.durable;
        while let Some(deletion) =
            self.forgets.undurable.pop_front_if(|deletion| deletion.sequence <= durable)
        {
            for (space, key) in deletion.memories {
                match memories.iter_mut().find(|(name, _)| *name == space) {
                    Some((_, keys)) => keys.push(key),
                    None => memories.push((space, vec![key])),
                }
            }
            waiting.extend(deletion.waiting);
        }
        if memories.is_empty() {
            return;
        }
        let memories = Arc::new(memories);
        let others = (0..self.partitioner.shards()).map(ShardIx).filter(|shard| *shard != self.me);
        let asks = others.map(|shard| (shard, Ask::Forget(memories.clone()))).collect();
        self.forgets.being_told += 1;
        self.start(None, Then::Forgotten(waiting), asks);
    }

    /// The other shards have heard of deletions, or one of them can't make that durable.
    pub(super) fn forgotten(&mut self, deleted: Vec<Deleted>, refused: Option<Rejection>) {
        self.forgets.being_told -= 1;
        for Deleted { to, op, reply } in deleted {
            self.reply(to, op, refused.clone().map_or(Ok(reply), Err));
        }
    }

    /// The log can't be written: who waits is told. Should it be written later, others hear of the
    /// deletions then.
    pub(super) fn refuse_forgets(&mut self, rejection: &Rejection) {
        let undurable = self.forgets.undurable.iter_mut();
        let waiting: Vec<Deleted> = undurable.filter_map(|u| u.waiting.take()).collect();
        for Deleted { to, op, .. } in waiting {
            self.reply(to, op, Err(rejection.clone()));
        }
        if self.poisoned {
            self.forgets.undurable.clear();
        }
    }

    /// Memories of another shard are gone.
    pub(super) fn on_forget(
        &mut self,
        from: ShardIx,
        op: OpId,
        memories: &[(SpaceName, Vec<MemoryKey>)],
    ) {
        let mut is_lost = false;
        for (name, keys) in memories {
            for key in keys {
                // After recovery no link has a time of its own: all that are there go.
                let gone = self.with_space(name, |space, s| space.gone(*key, Timestamp::MAX, s));
                // A space that was dropped meanwhile has no links.
                let lost = gone.unwrap_or_default();
                is_lost |= !lost.is_empty();
                self.append_unlinks(name, lost);
            }
        }
        if is_lost && let Err(rejection) = self.check_writable() {
            return self.reply(from, op, Err(rejection));
        }
        // Also where no link goes now: one may have gone with something that a crash would bring back.
        self.reply_when_durable(from, op, Reply::Done);
    }
}
