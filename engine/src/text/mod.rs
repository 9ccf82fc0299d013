//! Lexical search: words, terms and a BM25 index for one space on one shard.
//!
//! *Invariants*: statistics of a space (number of documents, average length, document frequencies)
//! are passed in with each query, so that a score is the same to the bit whatever shard holds the
//! document.
//!
//! *Not here*: names and phrases (`crate::names`), shared terms (`crate::terms`), the sum of the
//! shards' statistics (the coordinator of a recall).

mod analysis;
mod hash;
mod index;
mod postings;
mod search;
mod words;

pub use analysis::{Analyzed, Analyzer, TermKey};
pub use hash::{hash_bytes, hash_next};
pub use index::{Bm25Query, TextIndex, idf};
pub use search::{Running, Scratch};
pub use words::{fold, for_each_word, is_stop_word, is_unspaced};
