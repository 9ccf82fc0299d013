//! Which of some memories that say the same are merged into which.
//!
//! *Invariants*: the earliest of those that say the same stays, unless another of them has merged
//! memories already; nothing is merged into what does not say the same itself, or is merged.
//!
//! *Not here*: who says the same (`life::likeness`).

use crate::key::{KeyMap, MemoryKey};
use crate::life::likeness;
use crate::model::{Memory, MemoryId, Timestamp};

/// What counts when one of two memories has to go.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub key: MemoryKey,
    pub id: MemoryId,
    pub created_at: Timestamp,
    pub version: Timestamp,
    /// Others were merged into it.
    pub is_target: bool,
}

impl Member {
    /// The least of some stays.
    fn order(&self) -> (bool, Timestamp, MemoryKey) {
        (!self.is_target, self.created_at, self.key)
    }
}

/// Of two memories that may be merged: the one that stays, and the one that goes.
pub(super) fn staying<'a>(one: &'a Member, other: &'a Member) -> (&'a Member, &'a Member) {
    if one.order() <= other.order() { (one, other) } else { (other, one) }
}

/// Whether `gone` says nothing that `stays` does not: in words, metadata and links, and for as long.
pub(super) fn may_merge(stays: &Memory, gone: &Memory) -> bool {
    let lasts = match (stays.expires_at, gone.expires_at) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(stays), Some(gone)) => stays >= gone,
    };
    let links = |memory: &Memory| memory.links.clone().unwrap_or_default();
    let kept = links(stays);
    let keeps = |link: &crate::model::LinkView| {
        kept.iter().any(|k| k.to == link.to && k.kind == link.kind) || link.to == stays.id
    };
    let says_the_same = match (&stays.content, &gone.content) {
        (Some(stays), Some(gone)) => likeness::say_the_same(stays, gone),
        (Some(_) | None, _) => false,
    };
    lasts
        && says_the_same
        && gone.merged.is_empty()
        && likeness::is_part_of(&gone.metadata, &stays.metadata)
        && links(gone).iter().all(keeps)
}

/// What is to be merged: (goes, stays). Memories whose partner goes itself are in `left`: they are to
/// be looked at again.
pub(super) struct Plan {
    pub merges: Vec<(MemoryKey, MemoryKey)>,
    pub left: Vec<MemoryKey>,
}

/// Plans for pairs that may be merged, (stays, goes) each.
pub(super) fn plan(pairs: &[(MemoryKey, MemoryKey)], members: &KeyMap<Member>) -> Plan {
    let mut goes: KeyMap<Vec<&Member>> = KeyMap::default();
    for (stays, gone) in pairs {
        goes.entry(gone.0).or_default().push(&members[&stays.0]);
    }
    let mut order: Vec<&Member> = goes.keys().map(|key| &members[key]).collect();
    order.sort_unstable_by_key(|member| member.order());
    let mut gone: KeyMap<()> = KeyMap::default();
    let mut plan = Plan { merges: Vec::new(), left: Vec::new() };
    for member in order {
        let stay = goes[&member.key.0].iter().filter(|other| !gone.contains_key(&other.key.0));
        match stay.min_by_key(|other| other.order()) {
            Some(first) => {
                gone.insert(member.key.0, ());
                plan.merges.push((member.key, first.key));
            }
            None => plan.left.push(member.key),
        }
    }
    plan
}
