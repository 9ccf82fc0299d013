//! Metadata of the memories of one space on one shard: which of them a filter lets through.
//!
//! *Invariants*: [`MetadataIndex::matches`] is exact; [`MetadataIndex::estimate`] is never below the
//! number of matches; candidates are exactly the matches. A filter that was compiled earlier stays
//! exact while memories come and go.
//!
//! *Not here*: the shape of filters (`crate::filter`), JSON (`net`), whether a memory has expired
//! (the space).

mod compiled;
mod image;
mod interner;
mod line;
mod nodes;
mod value;

use hashbrown::{HashMap, HashTable};

use crate::filter::Filter;
use crate::limits;
use crate::model::{MemoryId, Metadata, Timestamp};
use crate::node::{self, NodeIx};
use crate::request::{Code, Rejection};
use crate::text::{fold, for_each_word, hash_bytes};

pub use compiled::Compiled;
use compiled::{Ends, Group, Key, Range, Test, Values};
use interner::Interner;
use line::{Line, Spot};
use nodes::{NodeSet, NodeSets};
use value::{Coded, Entry, Found, Posted, Tag, for_each_value, time_of};

/// The key of the time at which a memory was made.
pub const CREATED_AT: &str = "created_at";
/// The key of the time from which on a memory does not exist.
pub const EXPIRES_AT: &str = "expires_at";
const _: () = assert!(limits::METADATA_KEYS_PER_SPACE_MAX < Entry::KEYS_MAX as usize);
/// Most entries of the line of numbers that are counted for an estimate.
const PLACES_COUNTED_MAX: usize = 4096;

/// The metadata of one space on one shard.
#[derive(Default)]
pub struct MetadataIndex {
    keys: Interner,
    strings: Interner,
    rows: Vec<Option<Row>>,
    count: usize,
    /// Nodes by the hash of their id.
    ids: HashTable<NodeIx>,
    /// Who has which string or boolean under which key.
    postings: HashMap<Posted, NodeSet>,
    sets: NodeSets,
    /// Numbers and times in order, by the number of their key.
    lines: HashMap<u32, Line>,
}

/// What one memory has: sorted by key, then by value, without repeats.
struct Row {
    id_hash: u64,
    entries: Box<[Entry]>,
}

impl MetadataIndex {
    /// An index without memories.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether metadata may be inserted: it must not bring more keys than a space may have.
    ///
    /// # Errors
    /// A rejection for the client. Asked before a write is accepted; what is in the log already
    /// is inserted whatever the bound is.
    pub fn admit(&self, metadata: &Metadata) -> Result<(), Rejection> {
        let mut fresh: Vec<String> = Vec::new();
        for_each_value(metadata, &mut |path, _| {
            if self.keys.find(path).is_none() && !fresh.iter().any(|known| known == path) {
                fresh.push(path.to_owned());
            }
        });
        let bound = limits::METADATA_KEYS_PER_SPACE_MAX;
        if fresh.is_empty() || self.keys.count() + fresh.len() <= bound {
            return Ok(());
        }
        let detail = format!(
            "the metadata of this space has {} distinct keys of {bound}, and this memory brings {} \
             more, {:?} among them: put what varies into values, not into keys",
            self.keys.count(),
            fresh.len(),
            fresh[0]
        );
        Err(Rejection::at(Code::LimitExceeded, "/metadata", detail))
    }

    /// Gives a node its metadata; it has none yet.
    pub fn insert(
        &mut self,
        node: NodeIx,
        id: &MemoryId,
        metadata: &Metadata,
        created_at: Timestamp,
        expires_at: Option<Timestamp>,
    ) {
        node::reach(&mut self.rows, node, || None);
        assert!(self.rows[node.index()].is_none(), "a node gets its metadata once");
        let entries = self.entries_of(metadata, created_at, expires_at);
        for entry in &entries {
            self.post(node, *entry);
        }
        let id_hash = hash_bytes(id.as_str().as_bytes());
        self.rows[node.index()] = Some(Row { id_hash, entries });
        self.count += 1;
        let rows = &self.rows;
        self.ids.insert_unique(id_hash, node, |&other| hash_in(rows, other));
    }

    /// Takes a node's metadata away, if it has any.
    pub fn remove(&mut self, node: NodeIx) {
        let Some(row) = self.rows.get_mut(node.index()).and_then(Option::take) else { return };
        for entry in &row.entries {
            self.unpost(node, *entry);
        }
        let entry = self.ids.find_entry(row.id_hash, |&other| other == node);
        entry.expect("a node with metadata is known by its id").remove();
        self.count -= 1;
    }

    /// Makes a filter ready for this index.
    pub fn compile(&self, filter: &Filter) -> Compiled {
        compiled::compile(filter, &self.keys, &self.strings)
    }

    /// The filter lets this memory through.
    pub fn matches(&self, compiled: &Compiled, node: NodeIx) -> bool {
        let Some(Some(row)) = self.rows.get(node.index()) else { return false };
        let walk = Walk { index: self, row, fresh: self.is_fresh(compiled) };
        walk.group(&compiled.group)
    }

    /// At least as many as the filter lets through; cheap, for a choice between ways to search.
    pub fn estimate(&self, compiled: &Compiled) -> usize {
        if self.is_fresh(compiled) {
            return self.group_bound(&compiled.group);
        }
        self.group_bound(&self.compile(&compiled.source).group)
    }

    /// Exactly the nodes that the filter lets through, ascending, where an index leads to at most
    /// `count_max` nodes to look at; `None` where only a scan would do.
    pub fn candidates(&self, compiled: &Compiled, count_max: usize) -> Option<Vec<NodeIx>> {
        if !self.is_fresh(compiled) {
            return self.candidates(&self.compile(&compiled.source), count_max);
        }
        self.group_cost(&compiled.group).filter(|&cost| cost <= count_max)?;
        let mut nodes = Vec::new();
        self.collect_group(&compiled.group, &mut nodes);
        nodes.sort_unstable();
        nodes.dedup();
        nodes.retain(|&node| self.matches(compiled, node));
        Some(nodes)
    }

    /// Looks at up to `nodes_max` nodes from `from` on and appends those that match; answers with
    /// the node to go on from, `None` at the end.
    pub fn scan(
        &self,
        compiled: &Compiled,
        from: NodeIx,
        nodes_max: usize,
        matching: &mut Vec<NodeIx>,
    ) -> Option<NodeIx> {
        let end = self.rows.len().min(from.index().saturating_add(nodes_max));
        let range = from.index()..end;
        let nodes = range.map(|at| NodeIx(u32::try_from(at).expect("nodes are 32 bits wide")));
        matching.extend(nodes.filter(|&node| self.matches(compiled, node)));
        (end < self.rows.len()).then(|| NodeIx(u32::try_from(end).expect("as above")))
    }

    /// How many memories the filter lets through.
    pub fn count(&self, compiled: &Compiled) -> usize {
        if compiled.is_empty() {
            return self.count;
        }
        if let Some(nodes) = self.candidates(compiled, self.count / 8) {
            return nodes.len();
        }
        let mut matching = Vec::new();
        self.scan(compiled, NodeIx(0), usize::MAX, &mut matching);
        matching.len()
    }

    /// Bytes by part.
    pub fn memory_bytes(&self) -> [(&'static str, u64); 1] {
        let rows = self.rows.iter().flatten().map(|row| size_of_val(&*row.entries)).sum::<usize>();
        let bytes = rows
            + self.sets.memory_bytes()
            + self.rows.capacity() * size_of::<Option<Row>>()
            + self.ids.allocation_size()
            + self.postings.allocation_size()
            + self.lines.allocation_size()
            + self.lines.values().map(Line::bytes).sum::<usize>()
            + self.keys.memory_bytes()
            + self.strings.memory_bytes();
        [("metadata", bytes as u64)]
    }

    fn is_fresh(&self, compiled: &Compiled) -> bool {
        compiled.versions == (self.keys.version(), self.strings.version())
    }

    /// The entries of a memory; every key and string in them is acquired once an entry.
    fn entries_of(
        &mut self,
        metadata: &Metadata,
        created_at: Timestamp,
        expires_at: Option<Timestamp>,
    ) -> Box<[Entry]> {
        let mut found: Vec<Entry> = Vec::new();
        let mut push = |path: &str, value: Coded| {
            found.push(Entry::new(self.keys.acquire(path), value));
        };
        push(CREATED_AT, Coded::time(created_at));
        if let Some(expires_at) = expires_at {
            push(EXPIRES_AT, Coded::time(expires_at));
        }
        for_each_value(metadata, &mut |path, value| {
            if path == CREATED_AT || path == EXPIRES_AT {
                return;
            }
            match value {
                Found::Coded(value) => push(path, value),
                Found::Text(text) => {
                    push(path, Coded::text(self.strings.acquire(text)));
                    if let Some(at) = time_of(text) {
                        push(path, Coded::time(at));
                    }
                }
            }
        });
        found.sort_unstable();
        self.release_repeats(&mut found);
        found.into()
    }

    /// What stands twice, and the mark that something is there where a scalar says so already.
    fn release_repeats(&mut self, sorted: &mut Vec<Entry>) {
        let (keys, strings) = (&mut self.keys, &mut self.strings);
        sorted.dedup_by(|next, kept| {
            let repeat = next == kept;
            if repeat {
                release(keys, strings, *next);
            }
            repeat
        });
        let mut at = 0;
        while at + 1 < sorted.len() {
            let (this, next) = (sorted[at], sorted[at + 1]);
            if this.value() == Coded::PRESENT && this.key() == next.key() {
                release(keys, strings, sorted.remove(at));
            }
            at += 1;
        }
    }

    fn post(&mut self, node: NodeIx, entry: Entry) {
        if let Some(at) = entry.value().place() {
            self.lines.entry(entry.key()).or_default().insert(Spot::new(at, node));
        } else if let Some(posted) = entry.posted() {
            let set = self.postings.entry(posted).or_insert(NodeSet::One(node));
            self.sets.insert(set, node);
        }
    }

    fn unpost(&mut self, node: NodeIx, entry: Entry) {
        if let Some(at) = entry.value().place() {
            if let Some(line) = self.lines.get_mut(&entry.key()) {
                line.remove(Spot::new(at, node));
                if line.is_empty() {
                    self.lines.remove(&entry.key());
                }
            }
        } else if let Some(posted) = entry.posted()
            && let Some(&set) = self.postings.get(&posted)
            && self.sets.remove(set, node)
        {
            self.postings.remove(&posted);
        }
        release(&mut self.keys, &mut self.strings, entry);
    }

    /// At least as many nodes as the group lets through.
    fn group_bound(&self, group: &Group) -> usize {
        let must = group.must.iter().map(|test| self.bound(test)).min();
        let should =
            group.should.iter().map(|test| self.bound(test)).fold(0, usize::saturating_add);
        let should = if group.should.is_empty() { usize::MAX } else { should };
        self.count.min(must.unwrap_or(usize::MAX)).min(should)
    }

    fn bound(&self, test: &Test) -> usize {
        let uses = |key: &Key| key.number.map_or(0, |number| self.keys.uses(number));
        match test {
            Test::Any { .. } | Test::HasId(_) => self.cost(test).unwrap_or(self.count),
            Test::Range { key, .. } => self.cost(test).unwrap_or_else(|| uses(key)),
            Test::Except { key, .. } | Test::Text { key, .. } => uses(key),
            Test::IsEmpty { .. } => self.count,
            Test::Nested(group) => self.group_bound(group),
        }
    }

    /// How many nodes an index leads to for the group, where one does.
    fn group_cost(&self, group: &Group) -> Option<usize> {
        let must = group.must.iter().filter_map(|test| self.cost(test)).min();
        [must, self.should_cost(group)].into_iter().flatten().min()
    }

    fn should_cost(&self, group: &Group) -> Option<usize> {
        if group.should.is_empty() {
            return None;
        }
        group.should.iter().try_fold(0, |sum: usize, test| Some(sum + self.cost(test)?))
    }

    fn cost(&self, test: &Test) -> Option<usize> {
        match test {
            Test::Any { key, values } => {
                let Some(number) = key.number else { return Some(0) };
                values.codes.iter().try_fold(0, |sum, &code| Some(sum + self.held(number, code)?))
            }
            Test::Range { key, range } => match key.number {
                Some(number) => self.counted(number, range.ends()),
                None => Some(0),
            },
            Test::HasId(hashes) => Some(hashes.len()),
            Test::Nested(group) => self.group_cost(group),
            Test::Except { .. } | Test::Text { .. } | Test::IsEmpty { .. } => None,
        }
    }

    /// How many nodes have the value under the key; `None` where that would take long to count.
    fn held(&self, key: u32, code: Coded) -> Option<usize> {
        match code.place() {
            Some(at) => self.counted(key, Ends::at(at)),
            None => Some(self.holders(key, code).map_or(0, |set| self.sets.count(set))),
        }
    }

    fn holders(&self, key: u32, code: Coded) -> Option<NodeSet> {
        self.postings.get(&Entry::new(key, code).posted()?).copied()
    }

    fn counted(&self, key: u32, ends: Ends) -> Option<usize> {
        let count = self.nodes_within(key, ends).take(PLACES_COUNTED_MAX + 1).count();
        (count <= PLACES_COUNTED_MAX).then_some(count)
    }

    fn nodes_within(&self, key: u32, ends: Ends) -> impl Iterator<Item = NodeIx> {
        // A zero end takes both zeros in, which are one number and two places.
        let from = if ends.from == 0.0 && !ends.from_excluded { -0.0 } else { ends.from + 0.0 };
        let to = if ends.to == 0.0 && !ends.to_excluded { 0.0 } else { ends.to };
        let first = if ends.from_excluded { NodeIx(u32::MAX) } else { NodeIx(0) };
        let last = if ends.to_excluded { NodeIx(0) } else { NodeIx(u32::MAX) };
        let (start, end) = (Spot::new(from, first), Spot::new(to, last));
        let line = self.lines.get(&key).into_iter();
        line.flat_map(move |line| line.range(start, end)).map(Spot::node)
    }

    /// Appends a superset of what the group lets through, along its cheapest index.
    fn collect_group(&self, group: &Group, nodes: &mut Vec<NodeIx>) {
        let costs = group.must.iter().filter_map(|test| Some((self.cost(test)?, test)));
        let cheapest = costs.min_by_key(|(cost, _)| *cost);
        match (cheapest, self.should_cost(group)) {
            (Some((cost, test)), should) if should.is_none_or(|should| cost <= should) => {
                self.collect(test, nodes);
            }
            _ => group.should.iter().for_each(|test| self.collect(test, nodes)),
        }
    }

    fn collect(&self, test: &Test, nodes: &mut Vec<NodeIx>) {
        match test {
            Test::Any { key, values } => {
                let Some(number) = key.number else { return };
                values.codes.iter().for_each(|&code| self.collect_holders(number, code, nodes));
            }
            Test::Range { key, range } => {
                let Some(number) = key.number else { return };
                nodes.extend(self.nodes_within(number, range.ends()));
            }
            Test::HasId(hashes) => {
                let node_of = |&hash: &u64| {
                    let same = |&node: &NodeIx| hash_in(&self.rows, node) == hash;
                    self.ids.find(hash, same).copied()
                };
                nodes.extend(hashes.iter().filter_map(node_of));
            }
            Test::Nested(group) => self.collect_group(group, nodes),
            Test::Except { .. } | Test::Text { .. } | Test::IsEmpty { .. } => {
                unreachable!("no index leads there, so that it has no cost")
            }
        }
    }

    fn collect_holders(&self, key: u32, code: Coded, nodes: &mut Vec<NodeIx>) {
        match code.place() {
            Some(at) => nodes.extend(self.nodes_within(key, Ends::at(at))),
            None => {
                if let Some(set) = self.holders(key, code) {
                    self.sets.append(set, nodes);
                }
            }
        }
    }
}

fn hash_in(rows: &[Option<Row>], node: NodeIx) -> u64 {
    rows[node.index()].as_ref().expect("a node known by its id has a row").id_hash
}

fn release(keys: &mut Interner, strings: &mut Interner, entry: Entry) {
    keys.release(entry.key());
    if entry.value().tag == Tag::Text {
        strings.release(entry.value().string_number());
    }
}

/// A filter held against one memory.
struct Walk<'a> {
    index: &'a MetadataIndex,
    row: &'a Row,
    /// The numbers in the compiled filter are those of the index.
    fresh: bool,
}

impl<'a> Walk<'a> {
    fn group(&self, group: &Group) -> bool {
        group.must.iter().all(|test| self.test(test))
            && !group.must_not.iter().any(|test| self.test(test))
            && (group.should.is_empty() || group.should.iter().any(|test| self.test(test)))
    }

    fn test(&self, test: &Test) -> bool {
        match test {
            Test::Any { key, values } => self.values(key).any(|v| self.is_one_of(v, values)),
            Test::Except { key, values } => self
                .values(key)
                .any(|value| is_scalar(value.tag, key.own_time) && !self.is_one_of(value, values)),
            Test::Text { key, words } => self.values(key).any(|v| self.has_words(v, words)),
            Test::Range { key, range } => self.values(key).any(|value| is_within(value, *range)),
            Test::IsEmpty { key } => self.values(key).next().is_none(),
            Test::HasId(hashes) => hashes.binary_search(&self.row.id_hash).is_ok(),
            Test::Nested(group) => self.group(group),
        }
    }

    /// What the memory has under the key.
    fn values(&self, key: &Key) -> impl Iterator<Item = Coded> + use<'a> {
        let number = if self.fresh { key.number } else { self.index.keys.find(&key.name) };
        let entries = match number {
            Some(number) => {
                let start = self.row.entries.partition_point(|entry| entry.key() < number);
                let length = self.row.entries[start..].partition_point(|e| e.key() == number);
                &self.row.entries[start..start + length]
            }
            None => &[],
        };
        entries.iter().map(|entry| entry.value())
    }

    fn is_one_of(&self, value: Coded, values: &Values) -> bool {
        if value.tag == Tag::Text && !self.fresh {
            let text = self.index.strings.text(value.string_number());
            return values.texts.binary_search_by(|known| (**known).cmp(text)).is_ok();
        }
        values.codes.binary_search(&value).is_ok()
    }

    fn has_words(&self, value: Coded, words: &[Box<str>]) -> bool {
        if value.tag != Tag::Text {
            return false;
        }
        let text = self.index.strings.text(value.string_number());
        let mut missing: Vec<&str> = words.iter().map(|word| &**word).collect();
        for_each_word(&fold(text), |word| missing.retain(|wanted| *wanted != word));
        missing.is_empty()
    }
}

fn is_scalar(tag: Tag, own_time: bool) -> bool {
    match tag {
        Tag::Boolean | Tag::Integer | Tag::Unsigned | Tag::Float | Tag::Text => true,
        Tag::Time => own_time,
        Tag::Present => false,
    }
}

fn is_within(value: Coded, range: Range) -> bool {
    value.place().is_some_and(|place| range.contains(place))
}
