//! Text into terms: words without stop words, English ones by their stem, counted.
//!
//! *Invariants*: the same text gives the same terms on every shard and in every version of the
//! image format; `length` counts every term, repeated ones too.
//!
//! *Not here*: what a word is (`words`), postings (`index`).

use rust_stemmers::{Algorithm, Stemmer};

use super::hash::hash_bytes;
use super::words::{fold, for_each_word, is_stop_word};

/// A term: the hash of its stem.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, bytemuck::Pod, bytemuck::Zeroable,
)]
#[repr(transparent)]
pub struct TermKey(pub u64);

/// The terms of one content, made once and handed to the index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Analyzed {
    /// Each distinct term and how often it occurs, in the order of the keys.
    pub terms: Vec<(TermKey, u32)>,
    /// Number of terms, repeated ones counted each time.
    pub length: u32,
}

/// Slots of the cache of stems; a power of two.
const STEM_CACHE_SLOTS: usize = 1 << 14;

/// Turns text into terms; one a shard, for the cache of stems that it holds (256 KiB).
pub struct Analyzer {
    stemmer: Stemmer,
    /// (hash of the word, its term) at the slot of the hash; stop words hold [`STOP`].
    cache: Box<[(u64, TermKey)]>,
}

/// Stands for a stop word in the cache.
const STOP: TermKey = TermKey(0);

impl Default for Analyzer {
    fn default() -> Self {
        Self::new()
    }
}

impl Analyzer {
    /// An analyzer with an empty cache.
    pub fn new() -> Self {
        Self {
            stemmer: Stemmer::create(Algorithm::English),
            cache: vec![(0, STOP); STEM_CACHE_SLOTS].into_boxed_slice(),
        }
    }

    /// The terms of a content.
    pub fn analyze(&mut self, content: &str) -> Analyzed {
        let mut terms: Vec<(TermKey, u32)> = Vec::with_capacity(content.len() / 8 + 1);
        self.for_each_term(&fold(content), |term| terms.push((term, 1)));
        let length = u32::try_from(terms.len()).expect("content is bounded in bytes");
        terms.sort_unstable();
        terms.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            kept.1 += u32::from(same);
            same
        });
        Analyzed { terms, length }
    }

    /// The terms of a cue in order; one that is repeated comes, and counts, more than once.
    pub fn query(&mut self, text: &str) -> Vec<TermKey> {
        let mut terms = Vec::with_capacity(text.len() / 8 + 1);
        self.for_each_term(&fold(text), |term| terms.push(term));
        terms
    }

    fn for_each_term(&mut self, folded: &str, mut each: impl FnMut(TermKey)) {
        for_each_word(folded, |word| {
            let term = self.term(word);
            if term != STOP {
                each(term);
            }
        });
    }

    fn term(&mut self, word: &str) -> TermKey {
        let hash = hash_bytes(word.as_bytes());
        let slot = hash as usize & (STEM_CACHE_SLOTS - 1);
        if self.cache[slot].0 == hash {
            return self.cache[slot].1;
        }
        let term = if is_stop_word(word) { STOP } else { self.stemmed(word) };
        self.cache[slot] = (hash, term);
        term
    }

    fn stemmed(&self, word: &str) -> TermKey {
        let stemmed = word.is_ascii().then(|| self.stemmer.stem(word));
        let stem = stemmed.as_deref().unwrap_or(word);
        TermKey(hash_bytes(stem.as_bytes()).max(1))
    }
}
