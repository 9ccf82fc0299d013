//! The BM25 index: a dictionary, postings, and what each node holds.
//!
//! *Invariants*: statistics are exact at any time, also after removals; a score depends on the
//! document and the query alone; a term's number is free again once no document holds it.
//!
//! *Not here*: the sum of statistics over shards (the coordinator), pruning (`search`).

use hashbrown::HashTable;

use super::analysis::{Analyzed, TermKey};
use super::postings::{Decoder, Posting, Postings, encode_all};
use super::search::{Contribution, QueryTerm, Running, Scratch, intersection, score, step};
use crate::image::{Part, Reader, Unsound, Writer, ensure};
use crate::node::{self, NodeIx};
use crate::vector::Progress;

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

/// The index of one space on one shard.
#[derive(Default)]
pub struct TextIndex {
    /// Numbers of terms by the hash of their keys.
    numbers: HashTable<u32>,
    /// By number of a term.
    terms: Vec<Term>,
    /// Numbers of terms that no document holds.
    free: Vec<u32>,
    /// By node: the length of its document plus one, 0 where there is none.
    lengths: Vec<u32>,
    /// By node: the terms of its document, encoded as postings of term numbers.
    held: Vec<Box<[u8]>>,
    documents: u64,
    total_length: u64,
}

struct Term {
    key: TermKey,
    df: u32,
    postings: Postings,
}

impl Part for TextIndex {
    const NAME: &'static str = "text index";
    const VERSION: u32 = 1;

    fn write(&self, out: &mut Writer<'_>) {
        let Self { numbers: _, terms, free, lengths, held, documents, total_length } = self;
        out.count(terms.len());
        for Term { key, df, postings } in terms {
            out.u64(key.0);
            out.u32(*df);
            postings.write(out);
        }
        out.pods(free);
        out.pods(lengths);
        out.lists(held.iter().map(|held| &**held));
        out.u64(*documents);
        out.u64(*total_length);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Unsound> {
        let count = input.count()?;
        let mut terms: Vec<Term> = input.room(count);
        for _ in 0..count {
            let (key, df) = (TermKey(input.u64()?), input.u32()?);
            terms.push(Term { key, df, postings: Postings::read(input)? });
        }
        let free: Vec<u32> = input.pods()?;
        let lengths = input.pods()?;
        let held = input.lists(Reader::boxed_bytes)?;
        let numbers = HashTable::new();
        let (documents, total_length) = (input.u64()?, input.u64()?);
        let mut index = Self { numbers, terms, free, lengths, held, documents, total_length };
        index.check()?;
        index.number_terms();
        Ok(index)
    }
}

impl TextIndex {
    /// What was read from an image names no term and no document that is not there.
    fn check(&self) -> Result<(), Unsound> {
        let (terms, nodes) = (self.terms.len(), self.lengths.len());
        ensure(self.held.len() == nodes, "the documents of the text index")?;
        ensure(self.free.iter().all(|&number| (number as usize) < terms), "a free term")?;
        let within = |node: u32| self.lengths.get(node as usize).is_some_and(|&length| length > 0);
        ensure(self.terms.iter().all(|term| term.postings.all_within(&within)), "a posting")?;
        let known = |held: &[u8]| Decoder::new(0, held).all(|p| (p.number as usize) < terms);
        ensure(self.held.iter().all(|held| known(held)), "a document of the text index")
    }

    fn number_terms(&mut self) {
        let (terms, numbers) = (&self.terms, &mut self.numbers);
        let hash = |&number: &u32| terms[number as usize].key.0;
        numbers.reserve(terms.len(), hash);
        for (number, term) in (0u32..).zip(terms).filter(|(_, term)| term.df > 0) {
            numbers.insert_unique(term.key.0, number, hash);
        }
    }

    /// An index without documents.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a document; the node holds none yet. A document without terms counts as one, too.
    pub fn insert(&mut self, node: NodeIx, analyzed: &Analyzed) {
        let at = node.index();
        node::reach(&mut self.lengths, node, || 0);
        node::reach(&mut self.held, node, Box::default);
        assert!(self.lengths[at] == 0, "a node is inserted once");
        self.lengths[at] = analyzed.length + 1;
        let mut held: Vec<Posting> = analyzed
            .terms
            .iter()
            .map(|&(key, frequency)| Posting { number: self.number_of(key), frequency })
            .collect();
        for posting in &held {
            let term = &mut self.terms[posting.number as usize];
            let lengths = &self.lengths;
            let posting = Posting { number: node.0, frequency: posting.frequency };
            term.postings.insert(posting, &|number| lengths[number as usize] - 1);
            term.df += 1;
        }
        held.sort_unstable_by_key(|posting| posting.number);
        self.held[at] = encode_all(0, &held).into_boxed_slice();
        self.documents += 1;
        self.total_length += u64::from(analyzed.length);
    }

    /// The number of a term, given to it where it has none.
    fn number_of(&mut self, key: TermKey) -> u32 {
        let (numbers, terms) = (&mut self.numbers, &mut self.terms);
        if let Some(&number) = numbers.find(key.0, |&number| terms[number as usize].key == key) {
            return number;
        }
        let term = Term { key, df: 0, postings: Postings::Empty };
        let number = if let Some(number) = self.free.pop() {
            terms[number as usize] = term;
            number
        } else {
            terms.push(term);
            u32::try_from(terms.len() - 1).expect("terms are fewer than postings fit in memory")
        };
        numbers.insert_unique(key.0, number, |&number| terms[number as usize].key.0);
        number
    }

    /// Removes the document of a node, if it has one.
    pub fn remove(&mut self, node: NodeIx) {
        let at = node.index();
        let length = self.lengths.get(at).copied().unwrap_or_default();
        if length == 0 {
            return;
        }
        let held = std::mem::take(&mut self.held[at]);
        for posting in Decoder::new(0, &held) {
            self.remove_posting(posting.number, node);
        }
        self.lengths[at] = 0;
        self.total_length -= u64::from(length - 1);
        self.documents -= 1;
    }

    fn remove_posting(&mut self, number: u32, node: NodeIx) {
        let term = &mut self.terms[number as usize];
        let lengths = &self.lengths;
        term.postings.remove(node.0, &|number| lengths[number as usize] - 1);
        term.df -= 1;
        if term.df == 0 {
            let hash = term.key.0;
            let entry = self.numbers.find_entry(hash, |&other| other == number);
            entry.expect("a held term is in the dictionary").remove();
            self.free.push(number);
        }
    }

    fn term(&self, key: TermKey) -> Option<(u32, &Term)> {
        let same = |&number: &u32| self.terms[number as usize].key == key;
        let number = *self.numbers.find(key.0, same)?;
        Some((number, &self.terms[number as usize]))
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
        self.term(term).map_or(0, |(_, term)| u64::from(term.df))
    }

    /// The `k` best documents: higher scores first, then lower keys.
    pub fn search(&self, query: &Bm25Query<'_>, scratch: &mut Scratch) -> Vec<(NodeIx, f32)> {
        let mut running = Running::default();
        let progress = self.step(query, scratch, &mut running, usize::MAX);
        assert!(progress == Progress::Done, "no search is as long as that");
        running.finish(|_, _| true)
    }

    /// Goes on with a search, within about `work` postings. What is written between two steps may
    /// be found or not; what was there before the first and is there after the last is.
    pub fn step(
        &self,
        query: &Bm25Query<'_>,
        scratch: &mut Scratch,
        running: &mut Running,
        work: usize,
    ) -> Progress {
        let known = self.known(query);
        let terms: Vec<QueryTerm<'_>> = known
            .iter()
            .map(|&(number, weight, times)| QueryTerm {
                postings: &self.terms[number as usize].postings,
                weight,
                times,
            })
            .collect();
        step(query, &terms, &self.lengths, scratch, running, work)
    }

    /// Whether a node has a document.
    pub fn contains(&self, node: NodeIx) -> bool {
        self.lengths.get(node.index()).is_some_and(|length| *length > 0)
    }

    /// The terms of a query that some document holds: (number, weight, times), by number.
    fn known(&self, query: &Bm25Query<'_>) -> Vec<(u32, f32, u64)> {
        let number = |&(key, weight): &(TermKey, f32)| Some((self.term(key)?.0, weight, 1));
        let mut known: Vec<(u32, f32, u64)> = query.terms.iter().filter_map(number).collect();
        known.sort_unstable_by_key(|&(number, _, _)| number);
        known.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            kept.2 += u64::from(same);
            same
        });
        known
    }

    /// The scores of given nodes, in their order; 0 for one that holds no term of the query.
    pub fn score_nodes(&self, query: &Bm25Query<'_>, nodes: &[NodeIx]) -> Vec<f32> {
        let known = self.known(query);
        let contribution = Contribution::new(query.average_length);
        nodes.iter().map(|node| self.score_node(&known, contribution, *node)).collect()
    }

    fn score_node(&self, known: &[(u32, f32, u64)], each: Contribution, node: NodeIx) -> f32 {
        let mut sum = 0;
        self.meet(known, node, |&(_, weight, times), frequency| {
            sum += times * each.of(weight, frequency, self.lengths[node.index()] - 1);
        });
        score(sum)
    }

    /// Calls `each` with the terms of `known` (by number) that the node holds, and how often.
    fn meet<T>(
        &self,
        known: &[(u32, f32, T)],
        node: NodeIx,
        mut each: impl FnMut(&(u32, f32, T), u32),
    ) {
        let held = self.held.get(node.index()).map_or(&[][..], |held| held);
        let mut left = known;
        for posting in Decoder::new(0, held) {
            while let [first, rest @ ..] = left
                && first.0 < posting.number
            {
                left = rest;
            }
            match left.first() {
                Some(term) if term.0 == posting.number => each(term, posting.frequency),
                Some(_) => {}
                None => return,
            }
        }
    }

    /// For each of `nodes` a bit for each of the first 64 of `terms`: the node holds the term.
    pub fn held_terms(&self, terms: &[TermKey], nodes: &[NodeIx]) -> Vec<u64> {
        let bit = |(at, &key): (usize, &TermKey)| Some((self.term(key)?.0, 0.0, 1u64 << at));
        let mut known: Vec<_> = terms.iter().take(64).enumerate().filter_map(bit).collect();
        known.sort_unstable_by_key(|&(number, _, _)| number);
        known.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            kept.2 |= if same { next.2 } else { 0 };
            same
        });
        let held = |&node: &NodeIx| {
            let mut bits = 0;
            self.meet(&known, node, |&(_, _, bit), _| bits |= bit);
            bits
        };
        nodes.iter().map(held).collect()
    }

    /// The nodes that hold every one of `terms`, ascending; none for no terms.
    pub fn candidates_with_all(&self, terms: &[TermKey]) -> Vec<NodeIx> {
        let found: Option<Vec<&Term>> =
            terms.iter().map(|&key| self.term(key).map(|(_, term)| term)).collect();
        let Some(mut found) = found else { return Vec::new() };
        found.sort_unstable_by_key(|term| term.df);
        let lists: Vec<&Postings> = found.iter().map(|term| &term.postings).collect();
        intersection(&lists).into_iter().map(NodeIx).collect()
    }

    /// Bytes by part.
    pub fn memory_bytes(&self) -> [(&'static str, u64); 3] {
        let postings: usize = self.terms.iter().map(|term| term.postings.heap_bytes()).sum();
        let dictionary = self.terms.capacity() * size_of::<Term>()
            + self.free.capacity() * 4
            + self.numbers.allocation_size();
        let held: usize = self.held.iter().map(|held| held.len()).sum();
        let by_node = self.held.capacity() * size_of::<Box<[u8]>>() + self.lengths.capacity() * 4;
        [
            ("text_postings", postings as u64),
            ("text_dictionary", dictionary as u64),
            ("text_documents", (held + by_node) as u64),
        ]
    }
}
