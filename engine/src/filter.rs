//! Filters over metadata, in the shape that users of Qdrant know.
//!
//! *Invariants*: an empty filter lets everything through; conditions and depth are bounded.
//!
//! *Not here*: the index that finds what a filter lets through (`metadata`).

use crate::model::MemoryId;

/// `must` all, `must_not` none, and at least one of `should` where there are any.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// All of these hold.
    pub must: Vec<Condition>,
    /// At least one of these holds, where there are any.
    pub should: Vec<Condition>,
    /// None of these holds.
    pub must_not: Vec<Condition>,
}

impl Filter {
    /// Lets everything through.
    pub fn is_empty(&self) -> bool {
        self.must.is_empty() && self.should.is_empty() && self.must_not.is_empty()
    }
}

/// One condition; a key is a path into the metadata, its parts joined by dots.
///
/// An array on the way or at the end stands for each of its elements: a condition holds where it
/// holds for any of them. `created_at` and `expires_at` are the memory's own times and hide
/// metadata of that name; a string of theirs is read as RFC 3339.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// The value at `key` is one of `values`; numbers are equal where their values are (1 is 1.0).
    Any {
        /// Path into the metadata.
        key: String,
        /// Strings, integers, floats or booleans.
        values: Vec<serde_json::Value>,
    },
    /// A string, number or boolean is at `key` and is none of `values`.
    Except {
        /// Path into the metadata.
        key: String,
        /// Strings, integers, floats or booleans.
        values: Vec<serde_json::Value>,
    },
    /// The string at `key` contains all words of `text`, compared after folding, without stemming.
    Text {
        /// Path into the metadata.
        key: String,
        /// Words in any order.
        text: String,
    },
    /// The number at `key` lies in the range; times (RFC 3339 strings) are in microseconds.
    Range {
        /// Path into the metadata, or `created_at`, `expires_at`.
        key: String,
        /// Above this.
        gt: Option<f64>,
        /// This or above.
        gte: Option<f64>,
        /// Below this.
        lt: Option<f64>,
        /// This or below.
        lte: Option<f64>,
    },
    /// There is nothing at `key`, or `null`, or an empty array.
    IsEmpty {
        /// Path into the metadata.
        key: String,
    },
    /// The id is one of these.
    HasId(Vec<MemoryId>),
    /// A filter within the filter.
    Nested(Filter),
}
