//! The queue of memories to associate, and the sequences kept here.
//!
//! *Invariants*: a memory stands in the queue once; the texts kept for it are bounded in bytes.
//!
//! *Not here*: which names a text mentions (`names`), who asks whom (`shard::associate`).

use crate::fixed;
use crate::key::MemoryKey;
use crate::mesh::{AutomaticKind, Member, Tell};
use crate::node::NodeIx;
use crate::text::TermKey;

use super::{Space, Surroundings};

/// New names whose mentioners are looked for in one slice.
const MENTIONERS_PER_SLICE: usize = 4;
/// Normal forms kept for association, in bytes; past it they are read back from the log.
const ASSOCIATION_TEXT_BYTES_MAX: usize = 8 << 20;
/// Places in the queue that are kept while nothing waits.
const QUEUE_KEPT: usize = 64;

impl Space {
    /// Queues a memory for association; a cold one keeps the links that it has.
    pub fn enqueue(&mut self, node: NodeIx, text: Option<String>) {
        let key = self.graph.key(node).0;
        if self.cold.address(MemoryKey(key)).is_some() {
            return;
        }
        if let Some(text) = text
            && self.text_bytes + text.len() <= ASSOCIATION_TEXT_BYTES_MAX
        {
            self.text_bytes += text.len();
            self.texts.insert(key, text);
        }
        if self.entries[node.index()].is_some() && self.queued.insert(node) {
            self.to_associate.push_back(node);
        }
    }

    /// Takes the next memory to associate, with its text in normal form where that is at hand.
    pub fn next_to_associate(&mut self) -> Option<(NodeIx, Option<String>)> {
        while let Some(node) = self.to_associate.pop_front() {
            if !self.queued.remove(&node) {
                continue;
            }
            let text = self.forget_text(node);
            return Some((node, text));
        }
        self.to_associate.shrink_to(QUEUE_KEPT);
        self.queued.shrink_to(QUEUE_KEPT);
        None
    }

    pub(super) fn forget_text(&mut self, node: NodeIx) -> Option<String> {
        let text = self.texts.remove(&self.graph.key(node).0)?;
        self.text_bytes -= text.len();
        Some(text)
    }

    /// Notes names whose mentioners are to be looked for.
    pub fn named(&mut self, phrases: Vec<Vec<TermKey>>) {
        self.phrases.extend(phrases);
    }

    /// Queues the memories whose content may hold the next new names; false where none is left.
    pub fn look_for_mentioners(&mut self) -> bool {
        for found in 0..MENTIONERS_PER_SLICE {
            let Some(phrase) = self.phrases.pop_front() else { return found > 0 };
            for node in self.text.candidates_with_all(&phrase) {
                self.enqueue(node, None);
            }
        }
        true
    }

    /// Queues memories by key.
    pub fn reassociate(&mut self, keys: &[MemoryKey]) {
        for key in keys {
            if let Some(node) = self.graph.find(*key).filter(|n| self.graph.is_memory(*n)) {
                self.enqueue(node, None);
            }
        }
    }

    pub(super) fn tell_membership(&self, node: NodeIx, s: &mut Surroundings<'_>) {
        if let Some((sequence, member)) = self.membership(node) {
            let keeper = s.partitioner.shard_of(sequence);
            s.tells.push((keeper, Tell::SequenceJoin { sequence, member }));
        }
    }

    pub(super) fn membership(&self, node: NodeIx) -> Option<(u64, Member)> {
        let entry = self.entries[node.index()].as_deref()?;
        let member = Member {
            created_at: entry.created_at,
            arrived_at: entry.arrived_at,
            key: self.graph.key(node),
        };
        entry.sequence.map(|sequence| (sequence.get(), member))
    }

    /// A memory joins or leaves a sequence kept here; its neighbours hear of it.
    pub fn change_sequence(
        &mut self,
        sequence: u64,
        member: Member,
        joins: bool,
        s: &mut Surroundings<'_>,
    ) {
        let members = self.sequences.entry(sequence).or_default();
        let place = members.binary_search(&member);
        let at = match (place, joins) {
            (Err(at), true) => {
                members.insert(at, member);
                at
            }
            (Ok(at), false) => {
                members.remove(at);
                at
            }
            (Ok(_), true) | (Err(_), false) => return,
        };
        let touched = at.saturating_sub(2)..(at + 3).min(members.len());
        let updates: Vec<_> =
            touched.map(|i| (members[i].key, sequence_links(members, i))).collect();
        if members.is_empty() {
            self.sequences.remove(&sequence);
        }
        if !joins {
            s.tell_owner(member.key, Tell::SequenceLinks { of: member.key, links: Vec::new() });
        }
        for (of, links) in updates {
            s.tell_owner(of, Tell::SequenceLinks { of, links });
        }
    }
}

fn sequence_links(members: &[Member], i: usize) -> Vec<(MemoryKey, AutomaticKind, u16)> {
    let near = fixed::weight_units(0.5);
    let at = |offset: isize| i.checked_add_signed(offset).and_then(|j| members.get(j));
    let places = [
        (-2, AutomaticKind::Near, near),
        (-1, AutomaticKind::Previous, fixed::WEIGHT_ONE),
        (1, AutomaticKind::Next, fixed::WEIGHT_ONE),
        (2, AutomaticKind::Near, near),
    ];
    let links = places.into_iter().filter_map(|(o, kind, w)| at(o).map(|m| (m.key, kind, w)));
    links.collect()
}
