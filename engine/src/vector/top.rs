//! The best of what a search met.
//!
//! *Invariants*: the order is score descending, then key ascending, then node, so that the answer
//! does not depend on the order in which candidates came, nor on the shard that holds them.
//!
//! *Not here*: where candidates come from (`exact`, `graph`).

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::node::NodeIx;

/// A memory that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Which.
    pub node: NodeIx,
    /// How near, by the metric: cosine, inner product, or negated Euclidean distance.
    pub score: f32,
}

/// A hit with what its order depends on; greater is worse.
#[derive(Clone, Copy, Debug)]
struct Ranked {
    score: f32,
    key: u64,
    node: NodeIx,
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_score = other.score.total_cmp(&self.score);
        by_score.then(self.key.cmp(&other.key)).then(self.node.cmp(&other.node))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ranked {}

/// The best `k` so far.
#[derive(Clone, Debug, Default)]
pub struct Top {
    k: usize,
    heap: BinaryHeap<Ranked>,
}

impl Top {
    /// Empties it and sets how many it keeps.
    pub fn reset(&mut self, k: usize) {
        self.k = k;
        self.heap.clear();
    }

    /// How many were kept.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether a score could still enter; the key may decide against it.
    #[inline]
    pub fn admits(&self, score: f32) -> bool {
        self.heap.len() < self.k || self.heap.peek().is_some_and(|worst| score >= worst.score)
    }

    /// Takes a candidate in, if it is among the best `k`.
    pub fn push(&mut self, score: f32, key: u64, node: NodeIx) {
        let ranked = Ranked { score, key, node };
        if self.heap.len() < self.k {
            self.heap.push(ranked);
            return;
        }
        if let Some(mut worst) = self.heap.peek_mut()
            && ranked < *worst
        {
            *worst = ranked;
        }
    }

    /// What was kept, best first; empty afterwards.
    pub fn drain(&mut self) -> Vec<Hit> {
        let mut ranked = std::mem::take(&mut self.heap).into_vec();
        ranked.sort_unstable();
        let hits = ranked.iter().map(|r| Hit { node: r.node, score: r.score }).collect();
        ranked.clear();
        self.heap = ranked.into();
        hits
    }
}
