//! The metadata index against a plain evaluator, and its promises one by one.

mod naive;

use engram_engine::filter::{Condition, Filter};
use engram_engine::limits;
use engram_engine::metadata::MetadataIndex;
use engram_engine::model::{MemoryId, Metadata, Timestamp};
use engram_engine::node::NodeIx;
use engram_engine::request::Code;
use naive::{Plain, written};
use serde_json::{Value, json};

const KEYS: [&str; 9] =
    ["a", "b", "a.b", "c.a", "c.b.a", "tags", "when", "created_at", "expires_at"];
const TEXTS: [&str; 8] = [
    "red",
    "Red Fox",
    "the fox is RED",
    "",
    "blue",
    "2026-01-01T00:00:00Z",
    "1",
    "2026-06-01T12:00:00.5+02:00",
];

/// A small stream of numbers that is the same for a seed everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        ((mixed ^ (mixed >> 27)) >> 16) as usize % bound
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    fn scalar(&mut self) -> Value {
        match self.below(10) {
            0 => Value::Null,
            1 => json!(self.below(2) == 0),
            2 | 3 => json!(self.below(4) as i64 - 1),
            4 => json!(self.below(4) as f64 - 1.0),
            5 => json!(self.below(4) as f64 / 2.0),
            6 => self.pick(&[json!(u64::MAX), json!(i64::MIN), json!(1.8e19), json!(-0.0)]).clone(),
            _ => json!(self.pick(&TEXTS)),
        }
    }

    fn value(&mut self, depth: usize) -> Value {
        match self.below(if depth == 0 { 3 } else { 5 }) {
            0..=2 => self.scalar(),
            3 => (0..self.below(3)).map(|_| self.value(depth - 1)).collect(),
            _ => Value::Object(self.object(depth - 1)),
        }
    }

    fn object(&mut self, depth: usize) -> Metadata {
        let keys = ["a", "b", "c", "a.b", "tags", "when", "created_at"];
        (0..self.below(4)).map(|_| ((*self.pick(&keys)).to_owned(), self.value(depth))).collect()
    }

    fn time(&mut self) -> Timestamp {
        Timestamp(1_767_225_600_000_000 + self.below(4) as i64 * 500_000)
    }

    fn memory(&mut self) -> Plain {
        Plain {
            id: id(self.below(40)),
            metadata: self.object(3),
            created_at: self.time(),
            expires_at: (self.below(2) == 0).then(|| self.time()),
        }
    }

    fn bound(&mut self) -> Option<f64> {
        match self.below(4) {
            0 => Some(self.below(5) as f64 / 2.0 - 1.0),
            1 => Some(self.time().0 as f64),
            _ => None,
        }
    }

    fn matched(&mut self) -> Value {
        match self.below(4) {
            0 => json!(written(self.time())),
            _ => self.scalar(),
        }
    }

    fn condition(&mut self, depth: usize) -> Condition {
        let key = (*self.pick(&KEYS)).to_owned();
        let values = |dice: &mut Self| (0..dice.below(4)).map(|_| dice.matched()).collect();
        match self.below(if depth == 0 { 6 } else { 7 }) {
            0 => Condition::Any { key, values: values(self) },
            1 => Condition::Except { key, values: values(self) },
            2 => Condition::Text { key, text: (*self.pick(&TEXTS)).to_owned() },
            3 => Condition::Range {
                key,
                gt: self.bound(),
                gte: self.bound(),
                lt: self.bound(),
                lte: self.bound(),
            },
            4 => Condition::IsEmpty { key },
            5 => Condition::HasId((0..self.below(6)).map(|_| id(self.below(50))).collect()),
            _ => Condition::Nested(self.filter(depth - 1)),
        }
    }

    fn filter(&mut self, depth: usize) -> Filter {
        let conditions = |dice: &mut Self, most: usize| {
            (0..dice.below(most)).map(|_| dice.condition(depth)).collect()
        };
        Filter {
            must: conditions(self, 3),
            should: conditions(self, 3),
            must_not: conditions(self, 2),
        }
    }
}

fn id(number: usize) -> MemoryId {
    MemoryId::new(&format!("memory {number}")).expect("a valid id")
}

/// The index and the model side by side.
#[derive(Default)]
struct Pair {
    index: MetadataIndex,
    model: Vec<Option<Plain>>,
}

impl Pair {
    fn insert(&mut self, memory: Plain) {
        let same = |known: &Option<Plain>| known.as_ref().is_some_and(|k| k.id == memory.id);
        if let Some(at) = self.model.iter().position(same) {
            self.remove(at);
        }
        let at = self.model.iter().position(Option::is_none).unwrap_or(self.model.len());
        let Plain { id, metadata, created_at, expires_at } = &memory;
        self.index.insert(NodeIx(at as u32), id, metadata, *created_at, *expires_at);
        if at == self.model.len() {
            self.model.push(None);
        }
        self.model[at] = Some(memory);
    }

    fn remove(&mut self, at: usize) {
        self.index.remove(NodeIx(at as u32));
        self.model[at] = None;
    }

    fn expected(&self, filter: &Filter) -> Vec<NodeIx> {
        let passes =
            |(_, m): &(usize, &Option<Plain>)| m.as_ref().is_some_and(|m| m.passes(filter));
        self.model.iter().enumerate().filter(passes).map(|(at, _)| NodeIx(at as u32)).collect()
    }
}

fn check(pair: &Pair, compiled: &engram_engine::metadata::Compiled, filter: &Filter, seed: u64) {
    let expected = pair.expected(filter);
    let (index, from, mut found) = (&pair.index, NodeIx(0), Vec::new());
    let next = index.scan(compiled, from, 3, &mut found);
    if let Some(next) = next {
        assert_eq!(index.scan(compiled, next, usize::MAX, &mut found), None, "seed {seed}");
    }
    assert_eq!(found, expected, "seed {seed}: matches of {filter:?}");
    assert_eq!(index.count(compiled), expected.len(), "seed {seed}: count of {filter:?}");
    assert!(index.estimate(compiled) >= expected.len(), "seed {seed}: estimate of {filter:?}");
    if let Some(nodes) = index.candidates(compiled, usize::MAX) {
        assert_eq!(nodes, expected, "seed {seed}: candidates of {filter:?}");
    }
}

#[test]
fn the_index_agrees_with_a_plain_evaluator() {
    let mut selective = 0;
    for seed in 0..400 {
        let mut dice = Dice(seed);
        let mut pair = Pair::default();
        for _ in 0..dice.below(60) {
            match dice.below(4) {
                0 if !pair.model.is_empty() => pair.remove(dice.below(pair.model.len())),
                _ => pair.insert(dice.memory()),
            }
        }
        for _ in 0..40 {
            let filter = dice.filter(2);
            let compiled = pair.index.compile(&filter);
            check(&pair, &compiled, &filter, seed);
            selective += usize::from(pair.index.candidates(&compiled, 8).is_some());
        }
    }
    assert!(selective > 1000, "an index leads to few nodes often enough: {selective}");
}

#[test]
fn a_compiled_filter_stays_exact_while_memories_come_and_go() {
    for seed in 0..100 {
        let mut dice = Dice(seed);
        let mut pair = Pair::default();
        (0..20).for_each(|_| pair.insert(dice.memory()));
        let filter = dice.filter(2);
        let compiled = pair.index.compile(&filter);
        for _ in 0..40 {
            match dice.below(2) {
                0 => pair.remove(dice.below(pair.model.len())),
                _ => pair.insert(dice.memory()),
            }
            check(&pair, &compiled, &filter, seed);
        }
    }
}

#[test]
fn an_index_gives_back_what_it_took() {
    let mut dice = Dice(7);
    let mut pair = Pair::default();
    let mut bytes_after_round = Vec::new();
    for _ in 0..6 {
        (0..200).for_each(|_| pair.insert(dice.memory()));
        (0..pair.model.len()).for_each(|at| pair.remove(at));
        bytes_after_round.push(pair.index.memory_bytes()[0].1);
    }
    assert_eq!(pair.index.count(&pair.index.compile(&Filter::default())), 0);
    assert!(
        bytes_after_round[5] <= bytes_after_round[1] * 2,
        "what is left does not grow with every round: {bytes_after_round:?}"
    );
}

#[test]
fn keys_beyond_the_bound_are_refused_with_the_reason() {
    let mut index = MetadataIndex::new();
    let keys = |from: usize, to: usize| -> Metadata {
        (from..to).map(|at| (format!("key{at}"), Value::Bool(true))).collect()
    };
    let most = limits::METADATA_KEYS_PER_SPACE_MAX - 1;
    index.insert(NodeIx(0), &id(0), &keys(0, most), Timestamp(0), None);
    assert_eq!(index.admit(&keys(0, most)), Ok(()));
    let refused = index.admit(&keys(most, most + 1)).unwrap_err();
    assert_eq!(refused.code, Code::LimitExceeded);
    index.remove(NodeIx(0));
    assert_eq!(index.admit(&keys(most, most + 1)), Ok(()));
}

/// Whether a memory with this metadata passes a filter with one condition.
fn passes(metadata: Value, condition: Condition) -> bool {
    let Value::Object(metadata) = metadata else { panic!("metadata is an object") };
    let mut index = MetadataIndex::new();
    index.insert(NodeIx(3), &id(3), &metadata, Timestamp(5), None);
    let compiled = index.compile(&Filter { must: vec![condition], ..Filter::default() });
    index.matches(&compiled, NodeIx(3))
}

fn any(key: &str, value: Value) -> Condition {
    Condition::Any { key: key.into(), values: vec![value] }
}

fn except(key: &str, value: Value) -> Condition {
    Condition::Except { key: key.into(), values: vec![value] }
}

fn text(key: &str, text: &str) -> Condition {
    Condition::Text { key: key.into(), text: text.into() }
}

#[test]
fn each_condition_means_what_it_says() {
    let empty = |key: &str| Condition::IsEmpty { key: key.into() };
    let cases = [
        (json!({"n": 1}), any("n", json!(1.0)), true),
        (json!({"n": 1}), any("n", json!("1")), false),
        (json!({"n": [1, 2]}), any("n", json!(2)), true),
        (json!({"n": u64::MAX}), any("n", json!(u64::MAX - 1)), false),
        (json!({"city": [{"name": "Bonn"}]}), any("city[].name", json!("Bonn")), true),
        (json!({"city": [{"name": "Bonn"}]}), any("city.name", json!("Bonn")), true),
        (json!({"n": 1}), except("n", json!(2)), true),
        (json!({"n": 1}), except("n", json!(1)), false),
        (json!({"n": [1, 2]}), except("n", json!(1)), true),
        (json!({}), except("n", json!(1)), false),
        (json!({"t": "Ein alter Hund"}), text("t", "HUND ein"), true),
        (json!({"t": "Ein alter Hund"}), text("t", "Hunde"), false),
        (json!({}), empty("t"), true),
        (json!({"t": null}), empty("t"), true),
        (json!({"t": []}), empty("t"), true),
        (json!({"t": {}}), empty("t"), false),
        (json!({"t": ""}), empty("t"), false),
        (json!({"created_at": "mine"}), any("created_at", json!("mine")), false),
        (json!({}), any("created_at", json!("1970-01-01T00:00:00.000005Z")), true),
        (json!({}), empty("expires_at"), true),
        (json!({}), Condition::HasId(vec![id(3)]), true),
        (json!({}), Condition::HasId(vec![id(4)]), false),
    ];
    for (metadata, condition, expected) in cases {
        let said = format!("{metadata} under {condition:?}");
        assert_eq!(passes(metadata, condition), expected, "{said}");
    }
}

#[test]
fn times_written_differently_lie_in_one_range() {
    let from_noon = |key: &str| Condition::Range {
        key: key.into(),
        gt: None,
        gte: Some(1_780_308_000_000_000.0),
        lt: Some(1_780_308_001_000_000.0),
        lte: None,
    };
    assert!(passes(json!({"at": "2026-06-01T10:00:00Z"}), from_noon("at")));
    assert!(passes(json!({"at": "2026-06-01T12:00:00.5+02:00"}), from_noon("at")));
    assert!(!passes(json!({"at": "2026-06-01T12:00:00Z"}), from_noon("at")));
    assert!(!passes(json!({"at": "noon"}), from_noon("at")));
}
