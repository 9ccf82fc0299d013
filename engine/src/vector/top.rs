//! The best of what a search met.
//!
//! *Invariants*: the order is score descending, then key ascending, then node, so that the answer
//! does not depend on the order in which candidates came, nor on the shard that holds them.
//!
//! *Not here*: where candidates come from (`exact`, `graph`).

use std::cmp::Ordering;

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

/// The best `k` so far: up to twice as many are kept until they are cut.
#[derive(Clone, Debug, Default)]
pub struct Top {
    k: usize,
    kept: Vec<Ranked>,
    /// Score of the worst of `k` that were kept at the last cut.
    worst: Option<f32>,
}

impl Top {
    /// Empties it and sets how many it keeps.
    pub fn reset(&mut self, k: usize) {
        self.k = k;
        self.kept.clear();
        self.worst = None;
    }

    /// How many were kept.
    pub fn len(&self) -> usize {
        self.kept.len().min(self.k)
    }

    /// Whether a score could still enter; the key may decide against it.
    #[inline]
    pub fn admits(&self, score: f32) -> bool {
        self.worst.is_none_or(|worst| score >= worst)
    }

    /// Takes a candidate in, if it is among the best `k`.
    pub fn push(&mut self, score: f32, key: u64, node: NodeIx) {
        if !self.admits(score) {
            return;
        }
        self.kept.push(Ranked { score, key, node });
        if self.kept.len() >= 2 * self.k.max(KEPT_MIN) {
            self.cut();
        }
    }

    /// Lets go of all but the best `k`.
    fn cut(&mut self) {
        if self.k == 0 || self.kept.len() <= self.k {
            self.kept.truncate(self.k);
            return;
        }
        let (_, worst, _) = self.kept.select_nth_unstable(self.k - 1);
        self.worst = Some(worst.score);
        self.kept.truncate(self.k);
    }

    /// Takes over what another kept.
    pub fn absorb(&mut self, other: &mut Self) {
        if self.kept.is_empty() && self.k == other.k {
            return std::mem::swap(self, other);
        }
        for Ranked { score, key, node } in other.kept.drain(..) {
            self.push(score, key, node);
        }
    }

    /// What was kept, best first; empty afterwards.
    pub fn drain(&mut self) -> Vec<Hit> {
        self.cut();
        self.kept.sort_unstable();
        self.worst = None;
        self.kept.drain(..).map(|r| Hit { node: r.node, score: r.score }).collect()
    }
}

/// Fewer than twice this are never cut: sorting them once is cheaper.
const KEPT_MIN: usize = 32;
