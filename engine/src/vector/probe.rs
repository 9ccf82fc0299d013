//! A search that runs in steps, so that it never holds the core for long.
//!
//! *Invariants*: a memory that had a vector from the first step to the last is looked at at least
//! once, whatever is written between the steps; the hits carry the scores of the vectors that are
//! there at the end.
//!
//! *Not here*: the order of hits (`top`).

use super::codec::Pivot;
use super::top::{Hit, Top};
use super::{Progress, VectorIndex, Work};
use crate::node::NodeIx;

/// What a search may find.
#[derive(Clone, Copy)]
pub enum Accept<'a> {
    /// Every memory.
    All,
    /// These: each of them is compared.
    Only(&'a [NodeIx]),
    /// Those that pass a test.
    Where {
        /// The test; the same answer for the same node during one search.
        test: &'a dyn Fn(NodeIx) -> bool,
        /// About how many memories pass it: it decides what is faster, never what is found.
        estimate: usize,
    },
}

impl Accept<'_> {
    #[inline]
    pub(super) fn passes(&self, node: NodeIx) -> bool {
        match self {
            Self::All | Self::Only(_) => true,
            Self::Where { test, .. } => test(node),
        }
    }
}

/// What every step of a search is told anew.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    /// By node: what orders memories of equal score on every shard alike (a hash of the id).
    pub keys: &'a [u64],
    /// What may be found; the same in every step of one search.
    pub accept: Accept<'a>,
}

/// A search under way.
#[derive(Clone, Debug)]
pub struct Probe {
    query: Pivot,
    top: Top,
    /// Nodes, or places in the list of accepted ones, below this were looked at.
    cursor: usize,
}

impl Probe {
    pub(super) fn exact(query: Pivot, k: usize) -> Self {
        let mut top = Top::default();
        top.reset(k);
        Self { query, top, cursor: 0 }
    }

    /// Looks on, within about `work`.
    pub fn step(&mut self, index: &VectorIndex, scope: &Scope<'_>, work: Work) -> Progress {
        let total = match scope.accept {
            Accept::Only(nodes) => nodes.len(),
            Accept::All | Accept::Where { .. } => index.slots.node_bound() as usize,
        };
        let end = total.min(self.cursor.saturating_add(work.0 as usize));
        while self.cursor < end {
            let node = match scope.accept {
                Accept::Only(nodes) => nodes[self.cursor],
                Accept::All | Accept::Where { .. } => NodeIx(self.cursor as u32),
            };
            self.look_at(index, scope, node);
            self.cursor += 1;
        }
        if self.cursor < total { Progress::More } else { Progress::Done }
    }

    /// The hits, best first.
    pub fn finish(mut self, index: &VectorIndex, keys: &[u64]) -> Vec<Hit> {
        let met = self.top.drain();
        for hit in met {
            if let Some(slot) = index.slots.slot_of(hit.node) {
                let closeness = index.vectors.closeness(&index.codec, &self.query, slot);
                self.top.push(index.codec.score(closeness), keys[hit.node.index()], hit.node);
            }
        }
        self.top.drain()
    }

    fn look_at(&mut self, index: &VectorIndex, scope: &Scope<'_>, node: NodeIx) {
        let Some(slot) = index.slots.slot_of(node) else { return };
        if !scope.accept.passes(node) {
            return;
        }
        let score = index.codec.score(index.vectors.closeness(&index.codec, &self.query, slot));
        if self.top.admits(score) {
            self.top.push(score, scope.keys[node.index()], node);
        }
    }
}
