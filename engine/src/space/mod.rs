//! What one shard holds of one space: memories, links and every index over them.
//!
//! *Invariants*: all of it is a function of the records applied and the tells received; an index
//! holds exactly the memories that exist here.
//!
//! *Not here*: messages and the log (`shard`), the queue of associations (`association`), links
//! (`links`).

mod association;
mod cold;
mod forget;
mod image;
mod links;
mod merged;
mod places;
mod traces;

use std::collections::VecDeque;
use std::num::NonZeroU64;

use hashbrown::HashSet;

use crate::attributes::{self, AttributeIndex};
use crate::cold::ColdMemories;
use crate::graph::Graph;
use crate::key::{KeyMap, MemoryKey, Partitioner, ShardIx};
use crate::life::{Lived, Outcome, Trace};
use crate::mesh::{AutomaticKind, Member, Tell};
use crate::metadata::MetadataIndex;
use crate::model::{MemoryId, Metadata, SpaceConfig, SpaceName, Timestamp};
use crate::names::{self, NameIndex};
use crate::node::{self, NodeIx};
use crate::record::{Put, SpaceNumber};
use crate::request::{Code, Rejection};
use crate::sequence;
use crate::terms::{self, TermIndex};
use crate::text::{Analyzer, TermKey, TextIndex};
use crate::vector::VectorIndex;

use links::link_hash;
pub use merged::{Absorbed, Into, Merged, PrunedLink};
pub use places::{EDITIONS_TOLD_APART, LogAddress, PlacesSeen};
pub use traces::{Traces, WayTrace, way_trace};

/// What is known of a memory without reading the log.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its id.
    pub id: MemoryId,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it first arrived.
    pub arrived_at: Timestamp,
    /// When it was last written.
    pub updated_at: Timestamp,
    /// From when on it does not exist; the far future where it has no expiry.
    pub expires_at: Timestamp,
    /// Its newest record.
    pub address: LogAddress,
    /// The sequence that it belongs to.
    pub sequence: Option<NonZeroU64>,
    /// When it was last written, or came back from the cold tier, in time lived: by the last record
    /// before it that says so, which a replay finds too.
    pub fresh_at: Lived,
}

/// Expiry of what does not expire.
pub const NEVER: Timestamp = Timestamp(i64::MAX);

/// Tells to other shards, or to this one.
pub type Tells = Vec<(ShardIx, Tell)>;

/// Who asks and how shards are found: what most functions of a space need.
pub struct Surroundings<'a> {
    /// This shard.
    pub me: ShardIx,
    /// Owners of keys.
    pub partitioner: &'a Partitioner,
    /// Words into terms.
    pub analyzer: &'a mut Analyzer,
    /// What is to be told.
    pub tells: &'a mut Tells,
    /// Records are being replayed.
    pub replaying: bool,
    /// Others may still have something to say about what was before the start.
    pub recovering: bool,
    /// How long the data directory had lived when the log last said so.
    pub lived: Lived,
}

impl Surroundings<'_> {
    fn tell_owner(&mut self, key: MemoryKey, tell: Tell) {
        self.tells.push((self.partitioner.owner(key), tell));
    }
}

/// What one shard holds of one space.
pub struct Space {
    /// Number in this shard's log.
    pub number: SpaceNumber,
    /// Name.
    pub name: SpaceName,
    /// Configuration.
    pub config: SpaceConfig,
    /// When it was created or last changed.
    pub at: Timestamp,
    /// Nodes and links.
    pub graph: Graph,
    /// Vector index, from the first embedding on.
    pub vectors: Option<VectorIndex>,
    /// Text index.
    pub text: TextIndex,
    /// Who bears which name.
    pub names: NameIndex,
    /// Who holds which shared term.
    pub terms: TermIndex,
    /// Speakers, sources and tags.
    pub attributes: AttributeIndex,
    /// Metadata.
    pub metadata: MetadataIndex,
    /// What use has left.
    pub traces: Traces,
    /// What consolidation has done.
    pub merged: Merged,
    /// Sequences that are kept here.
    sequences: KeyMap<Vec<Member>>,
    entries: Vec<Option<Box<Entry>>>,
    cold: ColdMemories,
    foreign_ids: KeyMap<MemoryId>,
    deleted_at: KeyMap<Timestamp>,
    to_associate: VecDeque<NodeIx>,
    /// Which of them still wait.
    queued: HashSet<NodeIx>,
    phrases: VecDeque<Vec<TermKey>>,
    link_times: KeyMap<Timestamp>,
    texts: KeyMap<String>,
    text_bytes: usize,
    memories: u64,
    expiring: u64,
    expiring_may_end: Timestamp,
    names_version: u64,
    seed: u64,
}

impl Space {
    /// An empty space; `seed` fixes the vector index's levels.
    pub fn new(
        number: SpaceNumber,
        name: SpaceName,
        config: SpaceConfig,
        at: Timestamp,
        seed: u64,
    ) -> Self {
        Self {
            number,
            name,
            config,
            at,
            graph: Graph::default(),
            vectors: None,
            text: TextIndex::new(),
            names: NameIndex::new(),
            terms: TermIndex::new(),
            attributes: AttributeIndex::new(),
            metadata: MetadataIndex::new(),
            traces: Traces::default(),
            merged: Merged::default(),
            sequences: KeyMap::default(),
            entries: Vec::new(),
            cold: ColdMemories::default(),
            foreign_ids: KeyMap::default(),
            deleted_at: KeyMap::default(),
            to_associate: VecDeque::new(),
            queued: HashSet::new(),
            phrases: VecDeque::new(),
            link_times: KeyMap::default(),
            texts: KeyMap::default(),
            text_bytes: 0,
            memories: 0,
            expiring: 0,
            expiring_may_end: NEVER,
            names_version: 0,
            seed,
        }
    }

    /// Memories that exist here.
    pub fn memories(&self) -> u64 {
        self.memories
    }

    /// Memories that wait to be associated.
    pub fn association_backlog(&self) -> u64 {
        (self.to_associate.len() + self.phrases.len()) as u64
    }

    /// The entry of a memory that exists here and has not expired.
    pub fn entry(&self, node: NodeIx, now: Timestamp) -> Option<&Entry> {
        self.entries.get(node.index())?.as_deref().filter(|e| e.expires_at > now)
    }

    /// The node of a memory that exists here and has not expired.
    pub fn live_node(&self, key: MemoryKey, now: Timestamp) -> Option<NodeIx> {
        let node = self.graph.find(key).filter(|n| self.graph.is_memory(*n))?;
        (self.expiring == 0 || self.entry(node, now).is_some()).then_some(node)
    }

    /// Some memory may have expired by `now`, so that answers have to look.
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.expiring > 0 && self.expiring_may_end <= now
    }

    /// Every memory that exists here.
    pub fn nodes(&self, now: Timestamp) -> impl Iterator<Item = (NodeIx, &Entry)> {
        let live = move |e: &&Entry| e.expires_at > now;
        (0u32..)
            .map(NodeIx)
            .zip(&self.entries)
            .filter_map(move |(node, entry)| entry.as_deref().filter(live).map(|e| (node, e)))
    }

    /// How present a memory is by itself: what its trace comes to, where being stored is a use too.
    pub fn base_level(&self, key: MemoryKey, entry: &Entry, now: Lived) -> f64 {
        let half_life = self.config.half_life_s;
        let stored = Trace::default().after(Outcome::BEST, entry.fresh_at, half_life);
        let stored = stored.faded(now, half_life);
        let used = self.traces.of(key).map_or(0, |trace| trace.faded(now, half_life));
        Trace { strength: stored + used, at: now }.lift(now, half_life).to_f64()
    }

    /// The id of a node, where this shard knows it.
    pub fn id_of(&self, node: NodeIx) -> Option<&MemoryId> {
        match self.entries.get(node.index()) {
            Some(Some(entry)) => Some(&entry.id),
            _ => self.foreign_ids.get(&self.graph.key(node).0),
        }
    }

    /// Checks what only this shard can: that the key belongs to this id and no other.
    ///
    /// # Errors
    /// [`Code::AlreadyExists`], should two ids ever have one key.
    pub fn check_key(&self, key: MemoryKey, id: &MemoryId) -> Result<(), Rejection> {
        let other = self.graph.find(key).and_then(|n| self.id_of(n)).filter(|known| *known != id);
        match other {
            None => Ok(()),
            Some(other) => {
                let detail = format!(
                    "this id has the same 64-bit key as `{}`; store it under another id",
                    other.as_str()
                );
                Err(Rejection::new(Code::AlreadyExists, detail))
            }
        }
    }

    /// Stores or replaces a memory; true where it is new.
    pub fn put(
        &mut self,
        key: MemoryKey,
        put: &Put,
        metadata: &Metadata,
        s: &mut Surroundings<'_>,
    ) -> NodeIx {
        let node = self.graph.intern(key, false);
        self.grow_entries(node);
        let existed = self.entries[node.index()].as_deref().map(|entry| entry.updated_at);
        // Also where nothing was there: the record before may be gone from the log.
        self.merged.forget_pruned(key);
        if let Some(version) = existed {
            self.unindex(node, s);
            if version != put.updated_at {
                self.return_sources(key, s);
            }
        }
        self.release_absorbed(key, s);
        let existed = existed.is_some();
        self.insert_entry(node, put, metadata, s.lived);
        self.index(node, put, metadata, s);
        self.replace_client_links(node, &put.links, put.updated_at, s);
        if !existed {
            self.memories += 1;
            self.announce_existence(node, s);
        }
        node
    }

    fn grow_entries(&mut self, node: NodeIx) {
        node::reach(&mut self.entries, node, || None);
    }

    fn insert_entry(&mut self, node: NodeIx, put: &Put, metadata: &Metadata, fresh_at: Lived) {
        let expires_at = put.expires_at.unwrap_or(NEVER);
        let sequence = sequence::sequence_of(metadata).filter(|_| self.config.associate);
        let sequence = sequence.map(|key| NonZeroU64::new(key.0).unwrap_or(NonZeroU64::MIN));
        self.foreign_ids.remove(&self.graph.key(node).0);
        self.entries[node.index()] = Some(Box::new(Entry {
            id: put.id.clone(),
            created_at: put.created_at,
            arrived_at: put.arrived_at,
            updated_at: put.updated_at,
            expires_at,
            address: LogAddress::default(),
            sequence,
            fresh_at,
        }));
        if expires_at != NEVER {
            self.expiring += 1;
            self.expiring_may_end = self.expiring_may_end.min(expires_at);
        }
    }

    fn index(&mut self, node: NodeIx, put: &Put, metadata: &Metadata, s: &mut Surroundings<'_>) {
        if let Some(embedding) = &put.embedding {
            let dimensions = u16::try_from(embedding.len()).expect("bounded by the limits");
            let (metric, encoding, seed) = (self.config.metric, self.config.encoding, self.seed);
            self.vectors
                .get_or_insert_with(|| VectorIndex::new(dimensions, metric, encoding, seed))
                .insert(node, embedding);
        }
        if let Some(content) = &put.content {
            let analyzed = s.analyzer.analyze(content);
            self.text.insert(node, &analyzed);
        }
        self.metadata.insert(node, &put.id, metadata, put.created_at, put.expires_at);
        if self.config.associate {
            self.associate(node, put, metadata, s);
        }
    }

    /// What is associated at once: names, shared terms, the sequence; mentions wait in a queue.
    fn associate(
        &mut self,
        node: NodeIx,
        put: &Put,
        metadata: &Metadata,
        s: &mut Surroundings<'_>,
    ) {
        let content = put.content.as_deref();
        let borne = names::names_of(metadata, content, self.config.title_from_content);
        if !borne.is_empty() {
            let phrases = borne.iter().map(|name| s.analyzer.query(&name.spelled));
            let phrases: Vec<_> = phrases.filter(|p| !p.is_empty()).collect();
            for shard in 0..s.partitioner.shards() {
                s.tells.push((ShardIx(shard), Tell::Named { phrases: phrases.clone() }));
            }
            self.names.insert(node, &borne);
        }
        self.terms.insert(node, &terms::terms_of(metadata, content));
        self.attributes.insert(node, &attributes::attributes_of(metadata));
        // Without content the text is empty, and the queue takes old mentions away.
        self.enqueue(node, Some(names::normal_form(content.unwrap_or(""))));
        self.tell_membership(node, s);
    }

    fn unindex(&mut self, node: NodeIx, s: &mut Surroundings<'_>) {
        self.reassociate_mentioners(node, s);
        if let Some((sequence, member)) = self.membership(node) {
            let keeper = s.partitioner.shard_of(sequence);
            s.tells.push((keeper, Tell::SequenceLeave { sequence, member }));
        }
        if let Some(vectors) = &mut self.vectors {
            vectors.remove(node);
        }
        self.text.remove(node);
        self.names_version += u64::from(self.names.names_of(node).next().is_some());
        self.names.remove(node);
        self.terms.remove(node);
        self.attributes.remove(node);
        self.metadata.remove(node);
        self.forget_text(node);
        self.cold.remove(self.graph.key(node));
        self.queued.remove(&node);
        let entry = self.entries[node.index()].take();
        self.expiring -= u64::from(entry.is_some_and(|e| e.expires_at != NEVER));
    }

    /// Names of a node are about to change: who mentions it is looked at again.
    fn reassociate_mentioners(&mut self, node: NodeIx, s: &mut Surroundings<'_>) {
        let Some(mentions) = self.automatic_kind(AutomaticKind::Mentions) else { return };
        let mut by_shard: Vec<(ShardIx, Vec<MemoryKey>)> = Vec::new();
        for edge in self.graph.inward(node).filter(|e| e.kind() == mentions && e.is_automatic()) {
            let key = self.graph.key(edge.node);
            let owner = s.partitioner.owner(key);
            match by_shard.iter_mut().find(|(shard, _)| *shard == owner) {
                Some((_, keys)) => keys.push(key),
                None => by_shard.push((owner, vec![key])),
            }
        }
        s.tells.extend(by_shard.into_iter().map(|(to, keys)| (to, Tell::Reassociate { keys })));
    }

    fn announce_existence(&mut self, node: NodeIx, s: &mut Surroundings<'_>) {
        self.graph.set_exists(node, true);
        self.tell_linkers(node, s, |key| Tell::Live { key });
    }

    fn tell_linkers(
        &self,
        node: NodeIx,
        s: &mut Surroundings<'_>,
        tell: impl Fn(MemoryKey) -> Tell,
    ) {
        let remote = self.graph.sources(node).iter().filter(|n| self.graph.is_remote(**n));
        let mut shards: Vec<ShardIx> =
            remote.map(|n| s.partitioner.owner(self.graph.key(*n))).collect();
        shards.sort_unstable();
        shards.dedup();
        let key = self.graph.key(node);
        s.tells.extend(shards.into_iter().map(|shard| (shard, tell(key))));
    }

    /// Another shard's memory, to which this one linked, exists now.
    pub fn live(&mut self, key: MemoryKey) {
        if let Some(node) = self.graph.find(key).filter(|node| !self.graph.is_unheard_of(*node)) {
            self.graph.set_exists(node, true);
            self.merged.set_elsewhere(key, None);
        }
    }

    /// How often names were taken away here.
    pub fn names_version(&self) -> u64 {
        self.names_version
    }

    /// Another shard has linked its memories by what this one said of names at `names_version`.
    pub fn scanned(&self, keys: Vec<MemoryKey>, names_version: u64, s: &mut Surroundings<'_>) {
        if names_version != self.names_version
            && let Some(first) = keys.first()
        {
            s.tell_owner(*first, Tell::Reassociate { keys });
        }
    }

    /// Bytes in memory, by part.
    pub fn memory_bytes(&self) -> Vec<(&'static str, u64)> {
        let (nodes, links) = self.graph.memory_bytes();
        let entries = self.entries.capacity() * size_of::<Option<Box<Entry>>>()
            + self
                .entries
                .iter()
                .flatten()
                .map(|e| size_of::<Entry>() + e.id.as_str().len())
                .sum::<usize>();
        let mut parts = vec![("nodes", nodes + entries as u64), ("links", links)];
        if let Some(vectors) = &self.vectors {
            let bytes = vectors.memory_bytes();
            parts.push(("vectors", (bytes.codes + bytes.slots) as u64));
            parts.push(("vector_graph", (bytes.graph + bytes.build) as u64));
        }
        parts.extend(self.text.memory_bytes());
        parts.extend(self.names.memory_bytes());
        parts.extend(self.terms.memory_bytes());
        parts.extend(self.attributes.memory_bytes());
        parts.extend(self.metadata.memory_bytes());
        parts.push(("traces", self.traces.memory_bytes()));
        parts.push(("merged", self.merged.memory_bytes()));
        parts
    }

    /// What other shards have to know after a recovery; the log told this shard all of it.
    pub fn exchange(&mut self, s: &mut Surroundings<'_>) {
        for index in 0..self.entries.len() {
            if self.entries[index].is_none() {
                continue;
            }
            let node = NodeIx(u32::try_from(index).expect("nodes have 32-bit numbers"));
            self.exchange_links(node, s);
            if let Some((sequence, member)) = self.membership(node) {
                let keeper = s.partitioner.shard_of(sequence);
                s.tells.push((keeper, Tell::SequenceJoin { sequence, member }));
            }
            if self.config.associate {
                self.enqueue(node, None);
            }
        }
        self.exchange_merged(s);
    }

    /// When a link was written last, as far as records that were replayed say.
    pub fn link_time(&self, from: MemoryKey, to: MemoryKey) -> Timestamp {
        self.link_times.get(&link_hash(from, to)).copied().unwrap_or_default()
    }

    /// What is in the log has been told, and answered.
    pub fn forget_link_times(&mut self) {
        self.link_times = KeyMap::default();
    }
}
