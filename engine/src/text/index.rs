//! The BM25 index: postings, lengths and what each node holds.
//!
//! *Invariants*: statistics are exact at any time, also after removals; a score depends on the
//! document and the query alone.
//!
//! *Not here*: the sum of statistics over shards (the coordinator).

use hashbrown::HashMap;

use super::analysis::{Analyzed, TermKey};
use crate::node::NodeIx;

/// Saturation of term frequency.
const K1: f64 = 1.2;
/// How much length counts.
const B: f64 = 0.75;
/// Contributions are integers of this fraction of 1, so that their sum has no order.
const CONTRIBUTION_ONE: f64 = (1u64 << 24) as f64;

/// Weight of a term that `df` of `documents` documents hold.
pub fn idf(documents: u64, df: u64) -> f32 {
    let (documents, df) = (documents as f64, df as f64);
    (1.0 + (documents - df + 0.5) / (df + 0.5)).ln() as f32
}

/// A query with the statistics of the whole space.
#[derive(Clone, Copy)]
pub struct Bm25Query<'a> {
    /// Terms and their weights; a repeated term counts as often as it is repeated.
    pub terms: &'a [(TermKey, f32)],
    /// Average length over the space, in terms.
    pub average_length: f64,
    /// How many come back.
    pub k: usize,
    /// Order among equal scores, ascending, by node number.
    pub keys: &'a [u64],
    /// Which nodes may come back; `None`: all.
    pub accept: Option<&'a dyn Fn(NodeIx) -> bool>,
}

/// Working memory of a search, kept between searches.
#[derive(Default)]
pub struct Scratch {
    sums: HashMap<u32, u64>,
}

/// The index of one space on one shard.
#[derive(Default)]
pub struct TextIndex {
    postings: HashMap<TermKey, Vec<(NodeIx, u32)>>,
    lengths: Vec<u32>,
    forward: Vec<Box<[TermKey]>>,
    documents: u64,
    total_length: u64,
}

impl TextIndex {
    /// An index without documents.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a document; the node holds none yet. A document without terms counts as one, too.
    pub fn insert(&mut self, node: NodeIx, analyzed: &Analyzed) {
        let at = node.index();
        if self.forward.len() <= at {
            self.forward.resize_with(at + 1, Box::default);
            self.lengths.resize(at + 1, 0);
        }
        assert!(self.lengths[at] == 0, "a node is inserted once");
        for &(term, tf) in &analyzed.terms {
            self.postings.entry(term).or_default().push((node, tf));
        }
        self.forward[at] = analyzed.terms.iter().map(|&(term, _)| term).collect();
        self.lengths[at] = analyzed.length + 1;
        self.documents += 1;
        self.total_length += u64::from(analyzed.length);
    }

    /// Removes the document of a node, if it has one.
    pub fn remove(&mut self, node: NodeIx) {
        let at = node.index();
        let Some(length) = self.lengths.get_mut(at).filter(|length| **length > 0) else { return };
        self.total_length -= u64::from(*length - 1);
        self.documents -= 1;
        *length = 0;
        for term in std::mem::take(&mut self.forward[at]) {
            let list = self.postings.get_mut(&term).expect("the node's terms have postings");
            list.retain(|&(other, _)| other != node);
            if list.is_empty() {
                self.postings.remove(&term);
            }
        }
    }

    /// Number of documents.
    pub fn documents(&self) -> u64 {
        self.documents
    }

    /// Sum of the documents' lengths, in terms.
    pub fn total_length(&self) -> u64 {
        self.total_length
    }

    /// Number of documents that hold `term`.
    pub fn df(&self, term: TermKey) -> u64 {
        self.postings.get(&term).map_or(0, |list| list.len() as u64)
    }

    /// The `k` best documents: higher scores first, then lower keys.
    pub fn search(&self, query: &Bm25Query<'_>, scratch: &mut Scratch) -> Vec<(NodeIx, f32)> {
        scratch.sums.clear();
        for &(term, weight) in query.terms {
            for &(node, tf) in self.postings.get(&term).map_or(&[][..], Vec::as_slice) {
                *scratch.sums.entry(node.0).or_default() +=
                    contribution(weight, tf, self.lengths[node.index()] - 1, query.average_length);
            }
        }
        let mut found: Vec<(NodeIx, f32)> = scratch
            .sums
            .iter()
            .map(|(&node, &sum)| (NodeIx(node), score(sum)))
            .filter(|&(node, _)| query.accept.is_none_or(|accept| accept(node)))
            .collect();
        found.sort_unstable_by(|a, b| {
            b.1.total_cmp(&a.1).then(query.keys[a.0.index()].cmp(&query.keys[b.0.index()]))
        });
        found.truncate(query.k);
        found
    }

    /// The scores of given nodes, in their order; 0 for one that holds no term of the query.
    pub fn score_nodes(&self, query: &Bm25Query<'_>, nodes: &[NodeIx]) -> Vec<f32> {
        let mut sums = vec![0u64; nodes.len()];
        for &(term, weight) in query.terms {
            let Some(list) = self.postings.get(&term) else { continue };
            for (sum, node) in sums.iter_mut().zip(nodes) {
                if let Some(&(_, tf)) = list.iter().find(|(other, _)| other == node) {
                    let length = self.lengths[node.index()] - 1;
                    *sum += contribution(weight, tf, length, query.average_length);
                }
            }
        }
        sums.into_iter().map(score).collect()
    }

    /// For each of `nodes` a bit for each of the first 64 of `terms`: the node holds the term.
    pub fn held_terms(&self, terms: &[TermKey], nodes: &[NodeIx]) -> Vec<u64> {
        let held = |node: &NodeIx| {
            let document = self.forward.get(node.index()).map_or(&[][..], |terms| terms);
            let bit = |(at, term)| u64::from(document.contains(term)) << at;
            terms.iter().take(64).enumerate().map(bit).sum()
        };
        nodes.iter().map(held).collect()
    }

    /// The nodes that hold every one of `terms`, ascending; none for no terms.
    pub fn candidates_with_all(&self, terms: &[TermKey]) -> Vec<NodeIx> {
        let Some((first, rest)) = terms.split_first() else { return Vec::new() };
        let mut nodes: Vec<NodeIx> = self
            .postings
            .get(first)
            .map_or(&[][..], Vec::as_slice)
            .iter()
            .map(|&(node, _)| node)
            .filter(|node| rest.iter().all(|term| self.forward[node.index()].contains(term)))
            .collect();
        nodes.sort_unstable();
        nodes
    }

    /// Bytes by part.
    pub fn memory_bytes(&self) -> [(&'static str, u64); 3] {
        let postings = self.postings.values().map(|list| list.capacity() as u64 * 8 + 40).sum();
        let forward = self.forward.iter().map(|terms| terms.len() as u64 * 8 + 16).sum();
        [
            ("text_postings", postings),
            ("text_forward", forward),
            ("text_lengths", self.lengths.capacity() as u64 * 4),
        ]
    }
}

fn contribution(weight: f32, tf: u32, length: u32, average_length: f64) -> u64 {
    let norm = K1 * (1.0 - B + B * f64::from(length) / average_length);
    let tf = f64::from(tf);
    (f64::from(weight) * (K1 + 1.0) * tf / (tf + norm) * CONTRIBUTION_ONE).round() as u64
}

fn score(sum: u64) -> f32 {
    (sum as f64 / CONTRIBUTION_ONE) as f32
}
