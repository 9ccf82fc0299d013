//! The links of a node in one list of words: how many leave it, these, then who links to it.
//!
//! *Invariants*: a link that leaves takes two words, whoever links to the node one, however many
//! links that are; the order of either means nothing.
//!
//! *Not here*: that both ends of a link know of it (`super`).

use thin_vec::ThinVec;

use super::{Edge, EdgeName};
use crate::node::NodeIx;

const EDGE_WORDS: usize = size_of::<Edge>() / size_of::<u32>();

/// The links of one node; nothing is allocated before the first.
#[derive(Clone, Debug, Default)]
pub(super) struct Lists {
    words: ThinVec<u32>,
}

impl Lists {
    /// From words that were written; `None` where they are no such list.
    pub(super) fn from_words(words: ThinVec<u32>) -> Option<Self> {
        let lists = Self { words };
        let is_whole = lists.words.is_empty() || lists.end() <= lists.words.len();
        is_whole.then_some(lists)
    }

    /// As [`Self::from_words`] takes them.
    pub(super) fn words(&self) -> &[u32] {
        &self.words
    }

    /// Nothing leaves, nobody links here.
    pub(super) fn is_empty(&self) -> bool {
        self.words.len() <= 1
    }

    /// Links that leave.
    #[inline]
    pub(super) fn out(&self) -> &[Edge] {
        match self.words.split_first() {
            Some((count, rest)) => bytemuck::cast_slice(&rest[..EDGE_WORDS * *count as usize]),
            None => &[],
        }
    }

    /// The same, to be changed.
    pub(super) fn out_mut(&mut self) -> &mut [Edge] {
        match self.words.split_first_mut() {
            Some((count, rest)) => {
                bytemuck::cast_slice_mut(&mut rest[..EDGE_WORDS * *count as usize])
            }
            None => &mut [],
        }
    }

    /// Who links here, each once.
    #[inline]
    pub(super) fn sources(&self) -> &[NodeIx] {
        match self.words.is_empty() {
            true => &[],
            false => bytemuck::cast_slice(&self.words[self.end()..]),
        }
    }

    /// Adds a link that leaves.
    pub(super) fn push_out(&mut self, edge: Edge) {
        self.make_room(EDGE_WORDS);
        let (end, length) = (self.end(), self.words.len());
        self.words.extend([0; EDGE_WORDS]);
        // The first sources make room for it and become the last.
        let moved = (length - end).min(EDGE_WORDS);
        let to = self.words.len() - moved;
        self.words.copy_within(end..end + moved, to);
        let words: &[u32] = bytemuck::cast_slice(std::slice::from_ref(&edge));
        self.words[end..end + EDGE_WORDS].copy_from_slice(words);
        self.words[0] += 1;
    }

    /// Takes a link that leaves, if it is there.
    pub(super) fn take_out(&mut self, to: NodeIx, name: EdgeName) -> bool {
        let out = self.out_mut();
        let Some(at) = out.iter().position(|e| e.node == to && e.name() == name) else {
            return false;
        };
        let last = out.len() - 1;
        out.swap(at, last);
        let (end, length) = (self.end(), self.words.len());
        let moved = (length - end).min(EDGE_WORDS);
        self.words.copy_within(length - moved..length, end - EDGE_WORDS);
        self.words.truncate(length - EDGE_WORDS);
        self.words[0] -= 1;
        true
    }

    /// Adds somebody who links here.
    pub(super) fn push_source(&mut self, from: NodeIx) {
        self.make_room(1);
        self.words.push(from.0);
    }

    /// Takes somebody away who linked here.
    pub(super) fn take_source(&mut self, from: NodeIx) -> bool {
        let Some(at) = self.sources().iter().position(|source| *source == from) else {
            return false;
        };
        let at = self.end() + at;
        self.words.swap_remove(at);
        true
    }

    /// Where its words begin, for the processor to fetch.
    #[inline]
    pub(super) fn start(&self) -> *const u32 {
        self.words.as_ptr()
    }

    /// Bytes held, with what the allocation says of itself.
    pub(super) fn bytes(&self) -> usize {
        match self.words.capacity() {
            0 => 0,
            words => 2 * size_of::<usize>() + words * size_of::<u32>(),
        }
    }

    /// Where the links that leave end.
    #[inline]
    fn end(&self) -> usize {
        1 + EDGE_WORDS * self.words[0] as usize
    }

    /// Grows by a quarter, since most lists stay short.
    fn make_room(&mut self, more: usize) {
        let wanted = self.words.len() + more + usize::from(self.words.is_empty());
        if wanted > self.words.capacity() {
            let length = self.words.len();
            self.words.reserve_exact((length / 4).max(wanted - length));
        }
        if self.words.is_empty() {
            self.words.push(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::KindIx;

    #[test]
    fn both_lists_hold_what_was_put_into_each() {
        let name = EdgeName { kind: KindIx(1), automatic: false };
        let (mut lists, mut out, mut sources) = (Lists::default(), Vec::new(), Vec::new());
        let mut draw = 7_u64;
        for _ in 0..5_000 {
            draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let node = NodeIx((draw >> 40) as u32 % 40);
            let known = |list: &[NodeIx]| list.contains(&node);
            match (draw >> 20) % 4 {
                0 if !known(&out) => {
                    lists.push_out(Edge::new(node, 5, name, true));
                    out.push(node);
                }
                1 if !known(&sources) => {
                    lists.push_source(node);
                    sources.push(node);
                }
                2 => {
                    assert_eq!(lists.take_out(node, name), known(&out));
                    out.retain(|other| *other != node);
                }
                3 => {
                    assert_eq!(lists.take_source(node), known(&sources));
                    sources.retain(|other| *other != node);
                }
                _ => {}
            }
            let sorted = |mut list: Vec<NodeIx>| {
                list.sort_unstable();
                list
            };
            let left: Vec<NodeIx> = lists.out().iter().map(|edge| edge.node).collect();
            assert_eq!(sorted(left), sorted(out.clone()));
            assert_eq!(sorted(lists.sources().to_vec()), sorted(sources.clone()));
            assert!(lists.out().iter().all(|edge| edge.weight == 5 && edge.is_live()));
            assert_eq!(lists.is_empty(), out.is_empty() && sources.is_empty());
            assert!(Lists::from_words(lists.words().into()).is_some());
        }
    }
}
