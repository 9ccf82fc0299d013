//! Standing still for an image: changes wait, reads go on, and once no shard has anything under way
//! that would change another, all of them are a picture of one moment.
//!
//! *Invariants*: what waits is done later in the order in which it came; between [`Shard::hold`]
//! and [`Shard::thaw`] nothing changes a space; an image holds only what the log holds durably.
//!
//! *Not here*: who decides that all shards are quiet, and files (`shards`).

use std::collections::VecDeque;

use crate::key::ShardIx;
use crate::mesh::{Ask, Message};
use crate::request::{Code, Rejection};

use super::Shard;
use super::budget::{LogRoom, no_room};
use super::image::ShardImage;

/// What may change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Motion {
    /// Everything.
    #[default]
    Free,
    /// Only what follows from changes that were made before.
    Settling,
    /// Nothing.
    Still,
}

/// What a shard does while it stands still.
#[derive(Default)]
pub(super) struct Freeze {
    motion: Motion,
    held: VecDeque<(ShardIx, Message)>,
    told: u64,
    heard: u64,
}

/// What others need to know of a shard that comes to a standstill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// It has nothing under way that changes anything, and all it did is durable.
    pub quiet: bool,
    /// Tells that it ever sent to other shards.
    pub told: u64,
    /// Tells that it ever got from them.
    pub heard: u64,
}

impl Freeze {
    /// Whether a message has to wait.
    fn holds(&self, message: &Message) -> bool {
        match (self.motion, message) {
            (Motion::Free, _) | (_, Message::Reply(..)) => false,
            // They follow tells, or changes that were made before.
            (motion, Message::Ask(_, Ask::Barrier | Ask::Forget(_))) => motion == Motion::Still,
            (Motion::Settling | Motion::Still, Message::Ask(_, ask)) => changes(ask),
            (motion, Message::Tell(..)) => motion == Motion::Still,
        }
    }

    pub(super) fn is_free(&self) -> bool {
        self.motion == Motion::Free
    }

    pub(super) fn count_told(&mut self, message: &Message) {
        self.told += u64::from(matches!(message, Message::Tell(..)));
    }

    pub(super) fn count_heard(&mut self, message: &Message) {
        self.heard += u64::from(matches!(message, Message::Tell(..)));
    }

    /// Keeps a message that has to wait; gives back one that has not.
    pub(super) fn pass(&mut self, from: ShardIx, message: Message) -> Option<Message> {
        if self.holds(&message) {
            self.held.push_back((from, message));
            return None;
        }
        Some(message)
    }
}

impl Shard {
    /// From now on changes wait, until [`Shard::thaw`].
    pub fn freeze(&mut self) {
        assert!(self.freeze.is_free(), "a shard stands still for one image at a time");
        self.freeze.motion = Motion::Settling;
    }

    /// How far it has come to a standstill.
    pub fn settled(&self) -> Settled {
        let quiet = !self.freeze.is_free()
            && self.is_recovered()
            && self.local.is_empty()
            && self.associations == 0
            && !self.is_patching()
            && (self.poisoned || self.is_stuck() || self.durable == self.sequence)
            && (self.is_stuck() || self.forgets.is_over());
        Settled { quiet, told: self.freeze.told, heard: self.freeze.heard }
    }

    /// Changes wait for the image, those of clients among them.
    pub fn holds_changes(&self) -> bool {
        !self.freeze.held.is_empty()
    }

    /// Records wait for room on the disk.
    fn is_stuck(&self) -> bool {
        self.log_room == LogRoom::None && self.durable < self.sequence
    }

    /// Every shard is quiet: nothing changes from now on, and this is what there is.
    ///
    /// # Errors
    /// [`Code::Poisoned`], [`Code::DiskBudget`]: what is in memory may not be what is in the log.
    pub fn hold(&mut self) -> Result<ShardImage, Rejection> {
        assert!(self.settled().quiet, "only a quiet shard is a picture of one moment");
        if self.poisoned {
            return Err(Rejection::new(Code::Poisoned, "the log could not be written"));
        }
        if self.is_stuck() {
            return Err(no_room());
        }
        for vectors in self.spaces.values_mut().filter_map(|space| space.vectors.as_mut()) {
            vectors.settle();
        }
        self.freeze.motion = Motion::Still;
        Ok(self.image())
    }

    /// Nobody holds the image any more: what waited is done.
    pub fn thaw(&mut self) {
        self.freeze.motion = Motion::Free;
        self.local.append(&mut self.freeze.held);
    }

    /// Nothing but reads is done now.
    pub(super) fn stands_still(&self) -> bool {
        !self.freeze.is_free()
    }
}

/// The request changes what a shard holds.
fn changes(ask: &Ask) -> bool {
    match ask {
        Ask::Store { .. }
        | Ask::Patch { .. }
        | Ask::Delete { .. }
        | Ask::Link { .. }
        | Ask::Unlink { .. }
        | Ask::PutSpace { .. }
        | Ask::EnsureSpace { .. }
        | Ask::DropSpace { .. }
        | Ask::Forget(_)
        | Ask::Reinforce(..)
        | Ask::Demote { .. }
        | Ask::Expire
        | Ask::Rewrite { .. } => true,
        Ask::Consolidate(_, ask) => ask.changes(),
        Ask::Read { .. }
        | Ask::Links { .. }
        | Ask::List { .. }
        | Ask::Count { .. }
        | Ask::Barrier
        | Ask::Echo
        | Ask::Spaces { .. }
        | Ask::Stats
        | Ask::Names { .. }
        | Ask::Fetch { .. }
        // What it would promote stays cold meanwhile.
        | Ask::FetchCold { .. }
        | Ask::ColdUse
        | Ask::Probe(_)
        | Ask::Lexical(..)
        | Ask::Hop(..)
        | Ask::Terms { .. }
        | Ask::Score(..)
        | Ask::Mentions { .. } => false,
    }
}
