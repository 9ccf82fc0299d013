//! Memories that may say the same, and which of them are merged into which.
//!
//! *Invariants*: each goes into the earliest that says all that it says; what others were merged
//! into stays, so nothing goes into what goes itself; the order is that of their making, so that
//! looking at what stays of a group once more changes nothing.
//!
//! *Not here*: who comes into a group (`run`), which words say the same (`life::likeness`).

use std::collections::VecDeque;

use crate::key::MemoryKey;
use crate::life::likeness;
use crate::model::{LinkView, Memory, Timestamp};

use super::owner::cosine;

/// Memories of a group that are read at once.
const READ_AT_ONCE: usize = 16;
/// Memories of a large group whose age is asked for at once.
const RANKED_AT_ONCE: usize = 256;
/// Memories of one group that stay and that others are compared with.
const KEEPERS_MAX: usize = 64;
/// Vectors that are less like each other than this are of different memories: a cosine.
pub(super) const SIMILARITY_MIN: f64 = 0.95;

/// A memory of a group as it was read.
pub(super) struct Candidate {
    pub key: MemoryKey,
    pub memory: Memory,
    /// Others were merged into it: it never goes.
    pub is_target: bool,
}

/// What becomes of a memory.
pub(super) enum Decision {
    /// It stays.
    Stays,
    /// It is merged into another.
    Goes { goes: Box<Candidate>, into: MemoryKey },
}

/// What has to be read before a group is decided.
pub(super) enum Wanted {
    /// When these were made.
    Ages(Vec<MemoryKey>),
    /// All of these.
    Whole(Vec<MemoryKey>),
}

/// Memories that may say the same.
pub(super) struct Group {
    unranked: Vec<MemoryKey>,
    ranked: Vec<(Timestamp, MemoryKey)>,
    unread: VecDeque<MemoryKey>,
    read: VecDeque<Candidate>,
    keepers: Vec<Candidate>,
}

impl Group {
    pub(super) fn new(keys: Vec<MemoryKey>) -> Self {
        let (ranked, read, keepers) = (Vec::new(), VecDeque::new(), Vec::new());
        if keys.len() <= READ_AT_ONCE {
            return Self { unranked: Vec::new(), ranked, unread: keys.into(), read, keepers };
        }
        Self { unranked: keys, ranked, unread: VecDeque::new(), read, keepers }
    }

    /// What is to be read next; `None` where nothing is left of the group.
    pub(super) fn wanted(&mut self) -> Option<Wanted> {
        assert!(self.read.is_empty(), "what was read is decided first");
        if !self.unranked.is_empty() {
            let rest = self.unranked.len().saturating_sub(RANKED_AT_ONCE);
            return Some(Wanted::Ages(self.unranked.split_off(rest)));
        }
        if !self.ranked.is_empty() {
            self.ranked.sort_unstable();
            self.unread.extend(self.ranked.drain(..).map(|(_, key)| key));
        }
        let count = self.unread.len().min(READ_AT_ONCE);
        (count > 0).then(|| Wanted::Whole(self.unread.drain(..count).collect()))
    }

    /// When some of its memories were made.
    pub(super) fn rank(&mut self, ages: impl Iterator<Item = (Timestamp, MemoryKey)>) {
        self.ranked.extend(ages);
    }

    /// Some of its memories were read.
    pub(super) fn take(&mut self, mut read: Vec<Candidate>) {
        read.sort_unstable_by_key(|one| (one.memory.created_at, one.key));
        self.read.extend(read);
    }

    /// Decides on the next memory that was read; `None` where none was.
    pub(super) fn decide(&mut self) -> Option<Decision> {
        self.read.pop_front().map(|member| settle(&mut self.keepers, member))
    }

    /// A memory that stays, as it was read.
    pub(super) fn keeper(&self, key: MemoryKey) -> Option<&Candidate> {
        self.keepers.iter().find(|keeper| keeper.key == key)
    }

    /// Those that others were merged into.
    pub(super) fn targets(&self) -> impl Iterator<Item = MemoryKey> + '_ {
        self.keepers.iter().filter(|keeper| keeper.is_target).map(|keeper| keeper.key)
    }
}

/// One more memory, made after those that stay: it goes into one of them, or stays too.
fn settle(keepers: &mut Vec<Candidate>, member: Candidate) -> Decision {
    if let Some(keeper) = keepers.iter_mut().find(|keeper| may_merge(keeper, &member)) {
        keeper.is_target = true;
        return Decision::Goes { into: keeper.key, goes: Box::new(member) };
    }
    if keepers.len() < KEEPERS_MAX {
        keepers.push(member);
    }
    Decision::Stays
}

/// Whether `goes` says nothing that `stays` does not: in words, metadata and links, and for as long.
fn may_merge(stays: &Candidate, goes: &Candidate) -> bool {
    if goes.is_target {
        return false;
    }
    let (stays, goes) = (&stays.memory, &goes.memory);
    let lasts = match (stays.expires_at, goes.expires_at) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(stays), Some(goes)) => stays >= goes,
    };
    lasts
        && likeness::is_part_of(&goes.metadata, &stays.metadata)
        && has_links_of(stays, goes)
        && are_near(stays, goes)
        && match (&stays.content, &goes.content) {
            (Some(stays), Some(goes)) => likeness::say_the_same(stays, goes),
            (Some(_) | None, _) => false,
        }
}

fn has_links_of(stays: &Memory, goes: &Memory) -> bool {
    let kept = stays.links.as_deref().unwrap_or_default();
    let keeps = |link: &LinkView| {
        kept.iter().any(|k| k.to == link.to && k.kind == link.kind) || link.to == stays.id
    };
    goes.links.as_deref().unwrap_or_default().iter().all(keeps)
}

/// Both have vectors near each other, or neither has one.
fn are_near(one: &Memory, other: &Memory) -> bool {
    match (&one.embedding, &other.embedding) {
        (Some(one), Some(other)) => {
            one.len() == other.len() && cosine(one, other) >= SIMILARITY_MIN
        }
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}
