//! A filter made ready for one index: keys and strings replaced by their numbers.
//!
//! *Invariants*: a compiled filter keeps its source, so that it stays exact when strings come and go
//! in the index while it is in use.
//!
//! *Not here*: the walk over a memory's values (`metadata`).

use crate::filter::{Condition, Filter};
use crate::metadata::interner::Interner;
use crate::metadata::value::{Coded, time_of};
use crate::metadata::{CREATED_AT, EXPIRES_AT};
use crate::text::{fold, for_each_word, hash_bytes};

/// A filter made ready by [`super::MetadataIndex::compile`].
pub struct Compiled {
    pub(super) source: Filter,
    pub(super) group: Group,
    /// Versions of the keys and of the strings whose numbers stand in `group`.
    pub(super) versions: (u64, u64),
}

impl Compiled {
    /// Lets everything through.
    pub fn is_empty(&self) -> bool {
        self.source.is_empty()
    }
}

/// What a [`Filter`] becomes.
pub(super) struct Group {
    pub(super) must: Box<[Test]>,
    pub(super) should: Box<[Test]>,
    pub(super) must_not: Box<[Test]>,
}

/// What a [`Condition`] becomes.
pub(super) enum Test {
    Any { key: Key, values: Values },
    Except { key: Key, values: Values },
    Text { key: Key, words: Box<[Box<str>]> },
    Range { key: Key, range: Range },
    IsEmpty { key: Key },
    HasId(Box<[u64]>),
    Nested(Group),
}

/// A path, its number where any memory has it, and whether it is one of the memory's own times.
pub(super) struct Key {
    pub(super) name: Box<str>,
    pub(super) number: Option<u32>,
    pub(super) own_time: bool,
}

/// The values of a condition: as codes, and the strings once more as they are.
pub(super) struct Values {
    pub(super) codes: Box<[Coded]>,
    pub(super) texts: Box<[Box<str>]>,
}

/// Bounds on the line of numbers and times.
#[derive(Clone, Copy)]
pub(super) struct Range {
    gt: Option<f64>,
    gte: Option<f64>,
    lt: Option<f64>,
    lte: Option<f64>,
}

impl Range {
    /// `place` lies within.
    pub(super) fn contains(self, place: f64) -> bool {
        self.gt.is_none_or(|bound| place > bound)
            && self.gte.is_none_or(|bound| place >= bound)
            && self.lt.is_none_or(|bound| place < bound)
            && self.lte.is_none_or(|bound| place <= bound)
    }

    /// Where places that lie within begin and end.
    pub(super) fn ends(self) -> Ends {
        let lower = |bound: Option<f64>| bound.unwrap_or(f64::NEG_INFINITY);
        let upper = |bound: Option<f64>| bound.unwrap_or(f64::INFINITY);
        let (gt, gte) = (lower(self.gt), lower(self.gte));
        let (lt, lte) = (upper(self.lt), upper(self.lte));
        Ends {
            from: gt.max(gte),
            from_excluded: self.gt.is_some() && gt >= gte,
            to: lt.min(lte),
            to_excluded: self.lt.is_some() && lt <= lte,
        }
    }
}

/// The two ends of a range.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    pub(super) from: f64,
    pub(super) from_excluded: bool,
    pub(super) to: f64,
    pub(super) to_excluded: bool,
}

impl Ends {
    /// One place alone.
    pub(super) fn at(place: f64) -> Self {
        Self { from: place, from_excluded: false, to: place, to_excluded: false }
    }
}

/// Replaces keys and strings by the numbers that they have in `keys` and `strings`.
pub(super) fn compile(filter: &Filter, keys: &Interner, strings: &Interner) -> Compiled {
    let versions = (keys.version(), strings.version());
    Compiled { source: filter.clone(), group: Compiler { keys, strings }.group(filter), versions }
}

struct Compiler<'a> {
    keys: &'a Interner,
    strings: &'a Interner,
}

impl Compiler<'_> {
    fn group(&self, filter: &Filter) -> Group {
        let tests = |conditions: &[Condition]| conditions.iter().map(|c| self.test(c)).collect();
        Group {
            must: tests(&filter.must),
            should: tests(&filter.should),
            must_not: tests(&filter.must_not),
        }
    }

    fn test(&self, condition: &Condition) -> Test {
        match condition {
            Condition::Any { key, values } => {
                let key = self.key(key);
                Test::Any { values: self.values(&key, values), key }
            }
            Condition::Except { key, values } => {
                let key = self.key(key);
                Test::Except { values: self.values(&key, values), key }
            }
            Condition::Text { key, text } => {
                Test::Text { key: self.key(key), words: distinct_words(text) }
            }
            &Condition::Range { ref key, gt, gte, lt, lte } => {
                Test::Range { key: self.key(key), range: Range { gt, gte, lt, lte } }
            }
            Condition::IsEmpty { key } => Test::IsEmpty { key: self.key(key) },
            Condition::HasId(ids) => {
                let mut hashes: Vec<u64> =
                    ids.iter().map(|id| hash_bytes(id.as_str().as_bytes())).collect();
                hashes.sort_unstable();
                Test::HasId(hashes.into())
            }
            Condition::Nested(filter) => Test::Nested(self.group(filter)),
        }
    }

    /// Qdrant marks arrays on the way by `[]`; here every array is passed through unmarked.
    fn key(&self, name: &str) -> Key {
        let name = name.replace("[]", "");
        let own_time = name == CREATED_AT || name == EXPIRES_AT;
        Key { number: self.keys.find(&name), own_time, name: name.into() }
    }

    fn values(&self, key: &Key, values: &[serde_json::Value]) -> Values {
        let mut codes = Vec::with_capacity(values.len());
        let mut texts: Vec<Box<str>> = Vec::new();
        for value in values {
            match value {
                serde_json::Value::Bool(boolean) => codes.push(Coded::boolean(*boolean)),
                serde_json::Value::Number(number) => codes.push(Coded::number(number)),
                serde_json::Value::String(text) if key.own_time => {
                    codes.extend(time_of(text).map(Coded::time));
                }
                serde_json::Value::String(text) => {
                    codes.extend(self.strings.find(text).map(Coded::text));
                    texts.push(text.as_str().into());
                }
                serde_json::Value::Null
                | serde_json::Value::Array(_)
                | serde_json::Value::Object(_) => {}
            }
        }
        codes.sort_unstable();
        codes.dedup();
        texts.sort_unstable();
        Values { codes: codes.into(), texts: texts.into() }
    }
}

fn distinct_words(text: &str) -> Box<[Box<str>]> {
    let mut words: Vec<Box<str>> = Vec::new();
    for_each_word(&fold(text), |word| {
        if !words.iter().any(|known| &**known == word) {
            words.push(word.into());
        }
    });
    words.into()
}
