//! Requests from bytes, out of small sets of ids, words and values, so that they meet each other.
//!
//! *Invariants*: what is made here is what `net` would let through; every sequence of bytes makes
//! something.

use engram_engine::filter::{Condition, Filter};
use engram_engine::life::Outcome;
use engram_engine::life::run::RunId;
use engram_engine::model::{
    Link, LinkKind, MemoryId, Metadata, Metric, NewMemory, SpaceConfig, SpaceName, Tier, Timestamp,
    Weight,
};
use engram_engine::request::{
    Cue, CueKind, Direction, LinkName, Patch, Recall, Request, StoreMode, Wait, With,
};
use engram_engine::shard::ConsolidateAsk;
use serde_json::json;

const WORDS: [&str; 12] = [
    "harbour",
    "lantern",
    "Harbour Lantern",
    "copper",
    "violin",
    "glacier",
    "market",
    "falcon",
    "7 May 2024",
    "x",
    "",
    "\u{1f600} \u{fffd}",
];
const DIMENSIONS: usize = 3;

/// Bytes that are taken from the front; zeros behind the last.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub fn below(&mut self, bound: u8) -> u8 {
        self.byte() % bound
    }

    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    fn unit(&mut self) -> f32 {
        f32::from(self.byte()) / 255.0
    }

    fn some<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.flag().then(|| make(self))
    }

    fn several<T>(&mut self, most: u8, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..=self.below(most)).map(|_| make(self)).collect()
    }

    fn id(&mut self) -> MemoryId {
        MemoryId::new(&format!("m{}", self.below(12))).expect("a valid id")
    }

    fn space(&mut self) -> SpaceName {
        match self.below(8) {
            0 => SpaceName::new("other").expect("a valid name"),
            1 => SpaceName::new("third").expect("a valid name"),
            _ => SpaceName::default(),
        }
    }

    fn text(&mut self) -> String {
        let words = self.several(6, |input| WORDS[usize::from(input.below(12))]);
        words.join(if self.flag() { " " } else { "\n" })
    }

    fn vector(&mut self) -> Vec<f32> {
        (0..DIMENSIONS).map(|_| f32::from(self.byte()) / 16.0 - 4.0).collect()
    }

    fn time(&mut self) -> Timestamp {
        Timestamp(i64::from(self.byte()).pow(3) * 1000)
    }

    fn kind(&mut self) -> LinkKind {
        LinkKind::new(["cites", "follows", "is"][usize::from(self.below(3))]).expect("a valid kind")
    }

    fn metadata(&mut self) -> Metadata {
        let mut metadata = Metadata::new();
        for _ in 0..self.below(4) {
            let (key, value) = match self.below(8) {
                0 => ("title", json!(self.text())),
                1 => ("names", json!([self.text(), self.text()])),
                2 => ("sequence", json!({"id": "s", "at": self.byte()})),
                3 => ("session_id", json!(self.below(3))),
                4 => ("kind", json!(["a", "b"][usize::from(self.below(2))])),
                5 => ("n", json!(self.byte())),
                6 => ("deep", json!({"a": [{"b": self.byte()}, null, self.unit()]})),
                _ => ("gone", serde_json::Value::Null),
            };
            metadata.insert(key.to_owned(), value);
        }
        metadata
    }

    fn link(&mut self) -> Link {
        let weight = Weight::new(self.unit()).unwrap_or(Weight::ONE);
        Link { to: self.id(), weight, kind: self.kind() }
    }

    fn memory(&mut self) -> NewMemory {
        let embedding = self.some(Self::vector);
        let content = match embedding {
            Some(_) => self.some(Self::text),
            None => Some(self.text()),
        };
        NewMemory {
            id: self.id(),
            content,
            embedding,
            metadata: self.metadata(),
            confidence: self.some(Self::unit),
            links: self.some(|input| input.several(4, Self::link)),
            created_at: self.some(Self::time),
            expires_at: self.some(Self::time),
        }
    }

    fn patch(&mut self) -> Box<Patch> {
        Box::new(Patch {
            content: self.some(|input| input.some(Self::text)),
            embedding: self.some(|input| input.some(Self::vector)),
            metadata: self.some(|input| input.some(Self::metadata)),
            confidence: self.some(|input| input.some(Self::unit)),
            expires_at: self.some(|input| input.some(Self::time)),
        })
    }

    fn filter(&mut self) -> Filter {
        let key = || "n".to_owned();
        let condition = match self.below(6) {
            0 => Condition::Any { key: "kind".to_owned(), values: vec![json!("a")] },
            1 => Condition::Except { key: key(), values: vec![json!(self.byte())] },
            2 => Condition::Text { key: "title".to_owned(), text: self.text() },
            _ => return Filter::default(),
        };
        let mut filter = Filter::default();
        match self.below(3) {
            0 => filter.must.push(condition),
            1 => filter.should.push(condition),
            _ => filter.must_not.push(condition),
        }
        filter
    }

    fn with(&mut self) -> With {
        let bits = self.byte();
        let bit = |at: u8| bits & (1 << at) != 0;
        With { content: bit(0), metadata: bit(1), embedding: bit(2), links: bit(3), merged: bit(4) }
    }

    fn wait(&mut self) -> Wait {
        if self.flag() { Wait::Durable } else { Wait::Applied }
    }

    fn cue(&mut self) -> Cue {
        let kind = match self.below(3) {
            0 => CueKind::Text(self.text()),
            1 => CueKind::Embedding(self.vector()),
            _ => CueKind::Id(self.id()),
        };
        Cue { kind, weight: self.unit().max(0.01) }
    }

    fn recall(&mut self) -> Box<Recall> {
        Box::new(Recall {
            cues: self.several(3, Self::cue),
            top_k: 1 + usize::from(self.below(20)),
            filter: self.filter(),
            max_hops: self.some(|input| input.below(9)),
            decay: self.unit(),
            min_activation: self.unit() / 16.0,
            fan_out: 1 + u32::from(self.byte()),
            max_seeds: 1 + u32::from(self.byte()),
            link_kinds: self.some(|input| input.several(2, Self::kind)),
            names: self.flag(),
            tiers: vec![Tier::Fast, Tier::Warm, Tier::Cold],
            exact: self.flag(),
            explain: self.flag(),
            reinforce: self.flag(),
            with: self.with(),
            timeout_ms: u64::from(self.byte()),
        })
    }

    fn config(&mut self) -> SpaceConfig {
        SpaceConfig {
            dimensions: self.some(|_| DIMENSIONS as u16),
            metric: [Metric::Cosine, Metric::Dot, Metric::L2][usize::from(self.below(3))],
            half_life_s: self.some(|input| u64::from(input.byte()) + 1),
            associate: self.flag(),
            title_from_content: self.flag(),
            ..SpaceConfig::default()
        }
    }

    fn consolidation(&mut self, last: Option<RunId>) -> ConsolidateAsk {
        match (self.below(5), last) {
            (0, Some(run)) => ConsolidateAsk::Undo(run),
            (1, Some(run)) => ConsolidateAsk::One(run),
            (2, _) => ConsolidateAsk::Runs,
            _ => ConsolidateAsk::Start { threshold: self.unit(), dry_run: self.byte() > 191 },
        }
    }
}

/// The next request; `last` is a consolidation that was started.
pub fn read(input: &mut Input<'_>, last: Option<RunId>) -> Request {
    let space = input.space();
    match input.below(24) {
        0..=5 => Request::Store {
            space,
            memories: input.several(3, Input::memory),
            mode: if input.flag() { StoreMode::Upsert } else { StoreMode::Create },
            wait: input.wait(),
        },
        6 => Request::Read { space, id: input.id(), with: input.with() },
        7 => Request::Patch { space, id: input.id(), patch: input.patch(), wait: input.wait() },
        8 | 9 => Request::Delete { space, id: input.id(), wait: input.wait() },
        10 => Request::List {
            space,
            limit: 1 + usize::from(input.below(9)),
            cursor: None,
            filter: input.filter(),
            with: input.with(),
        },
        11 => Request::Count { space, filter: input.filter() },
        12 => {
            let links = input.several(4, |input| (input.id(), input.link()));
            Request::Link { space, links, wait: input.wait() }
        }
        13 => {
            let name = |input: &mut Input<'_>| LinkName {
                from: input.id(),
                to: input.id(),
                kind: input.some(Input::kind),
            };
            Request::Unlink { space, links: input.several(3, name), wait: input.wait() }
        }
        14 => {
            let directions = [Direction::Out, Direction::In, Direction::Both];
            let direction = directions[usize::from(input.below(3))];
            Request::Links { space, id: input.id(), direction, kind: input.some(Input::kind) }
        }
        15 | 16 => Request::Recall { space, recall: input.recall() },
        17 => {
            let outcome = Outcome::new(f64::from(input.unit()) * 2.0 - 1.0);
            let ids = input.several(4, Input::id);
            Request::Reinforce { space, ids, outcome, wait: input.wait() }
        }
        18 | 19 => Request::Consolidate { space, ask: input.consolidation(last) },
        20 => match input.below(3) {
            0 => Request::ListSpaces,
            1 => Request::ReadSpace { space },
            _ => Request::Stats,
        },
        21 if input.below(4) == 0 => Request::DropSpace { space },
        21 => Request::PutSpace { space, config: input.config() },
        22 => Request::Demote { space, ids: input.several(6, Input::id) },
        _ if input.flag() => Request::Expire,
        _ => Request::Sweep { listed: Vec::new() },
    }
}
