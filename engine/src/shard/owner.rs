//! What an owner does with its memories when a home shard asks.
//!
//! *Invariants*: a change is checked before it is applied, applied before it is appended, and
//! replied to when it is as durable as was asked for.
//!
//! *Not here*: searching and spreading (`search`), reading records (`collect`).

use crate::filter::Filter;
use crate::key::{MemoryKey, ShardIx};
use crate::mesh::{Ask, LinkItem, LinkRow, OpId, Reply, ShardReport, StoreItem};
use crate::model::{Link, LinkKind, MemoryId, Metric, NewMemory, SpaceName, Timestamp};
use crate::node::NodeIx;
use crate::record::{self, Contents, Put};
use crate::request::{
    Code, Direction, LinkName, Patch, Rejection, ShardStats, StoreMode, Stored, Wait, With,
};
use crate::space::{LogAddress, Space};

use super::collect::{Purpose, not_found};
use super::search::Wanted;
use super::{Place, Shard};

/// Expired memories that are forgotten in one step.
const EXPIRED_AT_ONCE: usize = 32;
/// What a shard holds; memories that have expired are counted until they are cleared away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardCounts {
    /// Memories.
    pub memories: u64,
    /// Links that leave them, automatic ones included.
    pub links: u64,
    /// Automatic ones.
    pub automatic_links: u64,
    /// Memories that are not yet in the vector index.
    pub index_backlog: u64,
    /// Memories that are not yet associated.
    pub association_backlog: u64,
}

impl Shard {
    pub(super) fn on_ask(&mut self, from: ShardIx, op: OpId, ask: Ask) {
        match ask {
            Ask::Store { space, items, mode, wait } => {
                let first = items.iter().find_map(|item| item.memory.embedding.as_ref());
                if let Some(unknown) = self.unknown_dimensions(&space, first.map(Vec::len)) {
                    let ask = Ask::Store { space, items, mode, wait };
                    return self.ask_once_known((from, op), unknown, ask);
                }
                let stored = items.into_iter().map(|item| self.store(&space, item, mode)).collect();
                self.reply_written(from, op, Reply::Stored(stored), wait);
            }
            Ask::Read { space, id, with } => {
                let key = self.partitioner.key(&space, &id);
                let with = With { metadata: true, ..with };
                self.collect(from, op, &space, vec![key], with, Purpose::Read);
            }
            Ask::Patch { space, id, patch, wait } => {
                let first = patch.embedding.as_ref().and_then(Option::as_ref);
                if let Some(unknown) = self.unknown_dimensions(&space, first.map(Vec::len)) {
                    let ask = Ask::Patch { space, id, patch, wait };
                    return self.ask_once_known((from, op), unknown, ask);
                }
                let key = self.partitioner.key(&space, &id);
                self.read_for_patch(from, op, &space, key, patch, wait);
            }
            Ask::Delete { space, id, wait } => match self.delete(&space, &id) {
                Ok(key) => {
                    let deleted = vec![(space, key)];
                    self.reply_forgotten(from, op, Reply::Done, wait, deleted);
                }
                Err(rejection) => self.reply(from, op, Err(rejection)),
            },
            Ask::Forget(memories) => self.on_forget(from, op, &memories),
            Ask::Link { space, items, wait } => {
                let linked = items.into_iter().map(|item| self.link(&space, item)).collect();
                self.reply_written(from, op, Reply::Linked(linked), wait);
            }
            Ask::Unlink { space, items, wait } => match self.unlink(&space, &items) {
                Ok(count) => self.reply_written(from, op, Reply::Unlinked(count), wait),
                Err(rejection) => self.reply(from, op, Err(rejection)),
            },
            Ask::Links { space, id, direction, kind } => {
                let rows = self.link_rows(&space, &id, direction, kind.as_ref());
                self.reply(from, op, rows.map(Reply::Links));
            }
            Ask::List { space, after, limit, filter, with } => {
                let (keys, more) = self.page(&space, after, limit, &filter, with.merged);
                self.collect(from, op, &space, keys, with, Purpose::Page { more });
            }
            Ask::Count { space, filter } => {
                let count = self.space(&space).map_or(0, |s| count(s, &filter, self.now));
                self.reply(from, op, Ok(Reply::Count(count)));
            }
            Ask::PutSpace { space, config } => self.on_put_space(from, op, &space, config),
            Ask::EnsureSpace { space, dimensions } => {
                self.on_ensure_space(from, op, &space, dimensions);
            }
            Ask::DropSpace { space } => self.on_drop_space(from, op, &space),
            Ask::Echo => self.reply(from, op, Ok(Reply::Done)),
            Ask::Barrier => self.reply_when_durable(from, op, Reply::Done),
            Ask::Spaces { space } => {
                let rows = self.space_rows(space.as_ref());
                self.reply_when_durable(from, op, Reply::Spaces(rows));
            }
            Ask::Stats => {
                let report = self.report();
                self.reply(from, op, Ok(Reply::Stats(Box::new(report))));
            }
            Ask::Names { space, keys } => {
                let names = self.names(&space, &keys);
                self.reply(from, op, Ok(Reply::Names(names)));
            }
            Ask::Fetch { space, keys, filter, with, reach } => {
                let wanted = Wanted { filter: &filter, with, reach };
                self.fetch(from, op, &space, keys, &wanted);
            }
            Ask::FetchCold { space, key, with } => {
                self.collect(from, op, &space, vec![key], With::ALL, Purpose::Promote { with });
            }
            Ask::Demote { space, keys, run } => self.on_demote(from, op, (space, keys), run),
            Ask::Expire => self.on_expire(from, op),
            Ask::ColdUse => {
                let used = self.cold_use();
                self.reply_when_durable(from, op, Reply::ColdUse(used));
            }
            Ask::Rewrite { segments } => self.on_rewrite(from, op, &segments),
            Ask::Probe(probe) => self.probe(from, op, probe),
            Ask::Lexical(ask, keys) => self.lexical(from, op, ask, keys),
            Ask::Hop(ask, sources) => self.hop(from, op, ask, sources),
            Ask::Terms { space, terms, explain } => {
                self.term_members(from, op, &space, &terms, explain);
            }
            Ask::Score(ask, keys) => self.score(from, op, &ask, &keys),
            Ask::Mentions { space, texts } => self.mentions(from, op, &space, &texts),
            Ask::Reinforce(ask, ids) => self.reinforce(from, op, &ask, ids),
            Ask::Consolidate(space, ask) => self.consolidate(from, op, &space, ask),
        }
    }

    pub(super) fn reply_written(&mut self, to: ShardIx, op: OpId, reply: Reply, wait: Wait) {
        match wait {
            Wait::Durable => self.reply_when_durable(to, op, reply),
            Wait::Applied => self.reply(to, op, Ok(reply)),
        }
    }

    fn store(
        &mut self,
        space: &SpaceName,
        item: StoreItem,
        mode: StoreMode,
    ) -> (usize, Result<Stored, Rejection>) {
        let StoreItem { position, memory, arrived_at } = item;
        (position, self.store_one(space, memory, arrived_at, mode))
    }

    fn store_one(
        &mut self,
        name: &SpaceName,
        memory: NewMemory,
        arrived_at: Timestamp,
        mode: StoreMode,
    ) -> Result<Stored, Rejection> {
        self.check_growable()?;
        let key = self.partitioner.key(name, &memory.id);
        // By the clock of the owner, behind all that it wrote before, whatever the home's says.
        let (now, updated_at) = (self.now, self.stamp());
        let number = self.space(name)?.number;
        let space = self.spaces.get_mut(&number).expect("a numbered space is there");
        check_embedding(space, memory.embedding.as_deref())?;
        space.check_key(key, &memory.id)?;
        space.metadata.admit(&memory.metadata)?;
        let node = space.live_node(key, now);
        let exists = node.is_some() || space.merged.absorbed_one(key).is_some();
        if exists && mode == StoreMode::Create {
            let detail = "a memory with this id exists; PUT replaces it, PATCH changes it";
            return Err(Rejection::at(Code::AlreadyExists, "/id", detail));
        }
        for link in memory.links.iter().flatten() {
            space.check_link(None, link)?;
        }
        let merged = space.merged.absorbed_one(key).map(|absorbed| &*absorbed.entry);
        let known = node.and_then(|n| space.entry(n, now)).or(merged);
        let known = known.map(|e| (e.created_at, e.arrived_at));
        let links = match (memory.links, known) {
            (Some(links), _) => links,
            (None, Some(_)) => space.links_of(key),
            (None, None) => Vec::new(),
        };
        let created_at = memory.created_at.or(known.map(|k| k.0)).unwrap_or(arrived_at);
        let put = Put {
            space: number,
            id: memory.id,
            content: memory.content,
            metadata: record::metadata_text(&memory.metadata),
            confidence: memory.confidence,
            created_at,
            arrived_at: known.map_or(arrived_at, |k| k.1),
            updated_at,
            expires_at: memory.expires_at,
            links,
            embedding: memory.embedding,
        };
        let id = put.id.clone();
        self.apply_put(name, key, put, &memory.metadata)?;
        Ok(Stored { id, created: known.is_none(), created_at })
    }

    /// Applies a put and appends it.
    pub(super) fn apply_put(
        &mut self,
        name: &SpaceName,
        key: MemoryKey,
        put: Put,
        metadata: &crate::model::Metadata,
    ) -> Result<(), Rejection> {
        let node = self.with_space(name, |space, s| space.put(key, &put, metadata, s))?;
        let place = Place { space: put.space, node };
        self.append(&Contents::Put(Box::new(put)), Some(place));
        Ok(())
    }

    fn read_for_patch(
        &mut self,
        from: ShardIx,
        op: OpId,
        space: &SpaceName,
        key: MemoryKey,
        patch: Box<Patch>,
        wait: Wait,
    ) {
        if let Err(rejection) = self.check_growable() {
            return self.reply(from, op, Err(rejection));
        }
        let purpose = Purpose::Patch { patch, wait };
        self.collect(from, op, space, vec![key], With::ALL, purpose);
    }

    /// The record to be patched was read: the patch is applied, unless the memory was written anew
    /// meanwhile; then it is read again.
    pub(super) fn patch_read(
        &mut self,
        from: ShardIx,
        op: OpId,
        space: &SpaceName,
        read: Option<(MemoryKey, LogAddress, Put)>,
        patch: Box<Patch>,
        wait: Wait,
    ) {
        let Some((key, address, put)) = read else {
            return self.reply(from, op, Err(not_found()));
        };
        match self.readable(space, key).map(|entry| entry.address) {
            None => return self.reply(from, op, Err(not_found())),
            Some(newest) if newest != address => {
                return self.read_for_patch(from, op, space, key, patch, wait);
            }
            Some(_) => {}
        }
        match self.patched(space, key, put, *patch) {
            Ok(memory) => self.reply_written(from, op, Reply::Memory(Box::new(memory)), wait),
            Err(rejection) => self.reply(from, op, Err(rejection)),
        }
    }

    fn patched(
        &mut self,
        name: &SpaceName,
        key: MemoryKey,
        mut put: Put,
        patch: Patch,
    ) -> Result<crate::model::Memory, Rejection> {
        self.check_growable()?;
        let unreadable =
            |damage: record::Damage| Rejection::new(Code::Unreadable, damage.to_string());
        let mut metadata = record::metadata_of(&put.metadata).map_err(unreadable)?;
        patch_metadata(&mut metadata, patch.metadata);
        put.metadata = record::metadata_text(&metadata);
        if put.metadata.len() > crate::limits::METADATA_BYTES_MAX {
            let detail = format!(
                "metadata has at most {} bytes of JSON, after this patch it would have {}",
                crate::limits::METADATA_BYTES_MAX,
                put.metadata.len()
            );
            return Err(Rejection::at(Code::LimitExceeded, "/metadata", detail));
        }
        self.space(name)?.metadata.admit(&metadata)?;
        put.content = patch.content.unwrap_or(put.content);
        put.embedding = patch.embedding.unwrap_or(put.embedding);
        put.confidence = patch.confidence.unwrap_or(put.confidence);
        put.expires_at = patch.expires_at.unwrap_or(put.expires_at);
        if put.content.is_none() && put.embedding.is_none() {
            let detail = "a memory keeps at least one of content and embedding; DELETE forgets it";
            return Err(Rejection::new(Code::InvalidValue, detail));
        }
        put.updated_at = self.stamp();
        let space = self.space(name)?;
        check_embedding(space, put.embedding.as_deref())?;
        put.links = space.links_of(key);
        let memory = crate::model::Memory {
            id: put.id.clone(),
            content: put.content.clone(),
            embedding: None,
            metadata: metadata.clone(),
            confidence: put.confidence,
            created_at: put.created_at,
            updated_at: put.updated_at,
            expires_at: put.expires_at,
            links: None,
            tier: crate::mesh::LOG_TIER,
            merged: Vec::new(),
            merged_into: None,
        };
        self.apply_put(name, key, put, &metadata)?;
        Ok(memory)
    }

    fn delete(&mut self, name: &SpaceName, id: &MemoryId) -> Result<MemoryKey, Rejection> {
        self.check_writable()?;
        let key = self.partitioner.key(name, id);
        let space = self.space(name)?;
        let number = space.number;
        match space.live_node(key, self.now) {
            Some(node) => self.forget_node(name, number, node, id)?,
            None => self.forget_merged(name, number, key, id)?,
        }
        Ok(key)
    }

    /// Forgets a memory that was merged into another.
    fn forget_merged(
        &mut self,
        name: &SpaceName,
        number: record::SpaceNumber,
        key: MemoryKey,
        id: &MemoryId,
    ) -> Result<(), Rejection> {
        let at = self.stamp();
        if !self.with_space(name, |space, s| space.delete_absorbed(key, at, s))? {
            return Err(not_found());
        }
        self.append(&Contents::Delete { space: number, at, id: id.clone() }, None);
        Ok(())
    }

    fn forget_node(
        &mut self,
        name: &SpaceName,
        number: record::SpaceNumber,
        node: NodeIx,
        id: &MemoryId,
    ) -> Result<(), Rejection> {
        let at = self.stamp();
        // Its links from others here are not logged: replaying the deletion removes them again.
        self.with_space(name, |space, s| space.delete(node, at, s))?;
        self.append(&Contents::Delete { space: number, at, id: id.clone() }, None);
        Ok(())
    }

    /// Forgets some of what has expired.
    fn on_expire(&mut self, from: ShardIx, op: OpId) {
        if let Err(rejection) = self.check_writable() {
            return self.reply(from, op, Err(rejection));
        }
        let mut over = Vec::new();
        for space in self.spaces.values() {
            let expired = space.expired(self.now, EXPIRED_AT_ONCE - over.len());
            let named = expired.into_iter().filter_map(|node| {
                Some((space.name.clone(), space.number, node, space.id_of(node)?.clone()))
            });
            over.extend(named);
        }
        let (count, more) = (over.len() as u64, over.len() == EXPIRED_AT_ONCE);
        let mut deleted = Vec::with_capacity(over.len());
        for (name, number, node, id) in over {
            let forgotten = self.forget_node(&name, number, node, &id);
            assert!(forgotten.is_ok(), "the space was just looked at");
            let key = self.partitioner.key(&name, &id);
            deleted.push((name, key));
        }
        self.reply_forgotten(from, op, Reply::Expired { count, more }, Wait::Durable, deleted);
    }

    /// Logs that links went with a memory of another shard.
    pub(super) fn append_unlinks(&mut self, name: &SpaceName, lost: Vec<LinkName>) {
        let Some(space) = self.space_number(name).filter(|_| !self.poisoned) else { return };
        for LinkName { from, to, kind } in lost {
            self.append(&Contents::Unlink { space, from, to, kind }, None);
        }
    }

    /// Logs the links of a memory whose record was just written anew with its old times: they may be
    /// younger than that, and than the deletion of what they lead to.
    pub(super) fn append_links(
        &mut self,
        space: record::SpaceNumber,
        from: MemoryId,
        links: Vec<Link>,
    ) {
        if !links.is_empty() {
            let at = self.stamp();
            self.append(&Contents::Link { space, at, from, links }, None);
        }
    }

    fn link(&mut self, name: &SpaceName, item: LinkItem) -> (usize, Result<(), Rejection>) {
        (item.position, self.link_one(name, item.from, item.link))
    }

    fn link_one(&mut self, name: &SpaceName, from: MemoryId, link: Link) -> Result<(), Rejection> {
        self.check_growable()?;
        let key = self.partitioner.key(name, &from);
        let (now, at) = (self.now, self.stamp());
        let number = self.space(name)?.number;
        let written = self.with_space(name, |space, s| {
            let node = space.live_node(key, now).ok_or_else(not_found_source)?;
            space.check_link(Some(node), &link)?;
            space.put_client_link(node, &link, at, s)
        })?;
        written?;
        self.append(&Contents::Link { space: number, at, from, links: vec![link] }, None);
        Ok(())
    }

    fn unlink(&mut self, name: &SpaceName, links: &[LinkName]) -> Result<u64, Rejection> {
        self.check_writable()?;
        let space = self.space(name)?.number;
        let mut removed = 0;
        for link in links {
            let count = self.with_space(name, |space, s| space.unlink(link, s))?;
            if count > 0 {
                let LinkName { from, to, kind } = link.clone();
                self.append(&Contents::Unlink { space, from, to, kind }, None);
            }
            removed += count;
        }
        Ok(removed)
    }

    fn link_rows(
        &self,
        name: &SpaceName,
        id: &MemoryId,
        direction: Direction,
        kind: Option<&LinkKind>,
    ) -> Result<Vec<LinkRow>, Rejection> {
        let space = self.space(name)?;
        let key = self.partitioner.key(name, id);
        let node = space.live_node(key, self.now).ok_or_else(not_found)?;
        let is_here_or_remote =
            |n: NodeIx| space.graph.is_remote(n) || space.entry(n, self.now).is_some();
        let end = |n: NodeIx| space.id_of(n).cloned().ok_or_else(|| space.graph.key(n));
        let mut rows = Vec::new();
        let row = |from, to, edge: &crate::graph::Edge, live| LinkRow {
            from,
            to,
            weight: edge.weight,
            kind: (**space.graph.kind(edge.kind())).clone(),
            automatic: edge.is_automatic(),
            live,
        };
        if direction != Direction::In {
            let out = space.graph.outward(node).iter();
            let live = |e: &crate::graph::Edge| e.is_live() && is_here_or_remote(e.node);
            rows.extend(out.map(|e| row(end(node), end(e.node), e, live(e))));
        }
        if direction != Direction::Out {
            let into = space.graph.inward(node).filter(|e| is_here_or_remote(e.node));
            // Whether a memory of another shard has expired is known there: it is asked by its key.
            let source = |n: NodeIx| {
                if space.graph.is_remote(n) { Err(space.graph.key(n)) } else { end(n) }
            };
            rows.extend(into.map(|e| row(source(e.node), end(node), &e, true)));
        }
        rows.retain(|r| kind.is_none_or(|k| r.kind == *k));
        Ok(rows)
    }

    fn page(
        &self,
        name: &SpaceName,
        after: Option<MemoryKey>,
        limit: usize,
        filter: &Filter,
        merged: bool,
    ) -> (Vec<MemoryKey>, bool) {
        let Ok(space) = self.space(name) else { return (Vec::new(), false) };
        let compiled = space.metadata.compile(filter);
        let keys = space.nodes(self.now).filter_map(|(node, _)| {
            let key = space.graph.key(node);
            let wanted = after.is_none_or(|a| key > a) && space.metadata.matches(&compiled, node);
            wanted.then_some(key)
        });
        let mut keys: Vec<MemoryKey> = keys.collect();
        if merged && filter.is_empty() {
            let absorbed = space.merged.absorbed().keys().map(|key| MemoryKey(*key));
            keys.extend(absorbed.filter(|key| after.is_none_or(|a| *key > a)));
        }
        let more = keys.len() > limit;
        if more {
            keys.select_nth_unstable(limit);
            keys.truncate(limit);
        }
        keys.sort_unstable();
        (keys, more)
    }

    fn space_rows(
        &self,
        only: Option<&SpaceName>,
    ) -> Vec<(SpaceName, crate::model::SpaceConfig, u64, u64)> {
        let wanted = self.spaces.values().filter(|s| only.is_none_or(|name| s.name == *name));
        let row = |s: &Space| {
            (
                s.name.clone(),
                s.config.clone(),
                count(s, &Filter::default(), self.now),
                s.graph.links(),
            )
        };
        wanted.map(row).collect()
    }

    /// Counts of this shard.
    pub fn report(&self) -> ShardReport {
        let mut report = ShardReport {
            stats: ShardStats {
                shard: self.me.0,
                log_bytes: self.log_bytes,
                ..ShardStats::default()
            },
            spaces: self.spaces.len() as u64,
            ..ShardReport::default()
        };
        for space in self.spaces.values() {
            report.stats.memories += count(space, &Filter::default(), self.now);
            report.stats.links += space.graph.links();
            report.automatic_links += space.graph.automatic_links();
            report.cold_memories += space.cold().len() as u64;
            report.index_backlog += space.vectors.as_ref().map_or(0, |v| v.backlog() as u64);
            report.association_backlog += space.association_backlog();
            report.merged += space.merged.absorbed().len() as u64;
            report.pruned_links += space.merged.pruned_count();
            report.traces += space.traces.len() as u64;
            for (part, bytes) in space.memory_bytes() {
                match report.memory_bytes.iter_mut().find(|(p, _)| *p == part) {
                    Some((_, sum)) => *sum += bytes,
                    None => report.memory_bytes.push((part, bytes)),
                }
            }
        }
        report
    }

    /// What the shard holds, without going through it.
    pub fn counts(&self) -> ShardCounts {
        let mut counts = ShardCounts::default();
        for space in self.spaces.values() {
            counts.memories += space.memories();
            counts.links += space.graph.links();
            counts.automatic_links += space.graph.automatic_links();
            counts.index_backlog += space.vectors.as_ref().map_or(0, |v| v.backlog() as u64);
            counts.association_backlog += space.association_backlog();
        }
        counts
    }

    /// Memories not yet associated.
    pub fn association_backlog(&self) -> u64 {
        self.spaces.values().map(Space::association_backlog).sum()
    }

    fn names(&self, name: &SpaceName, keys: &[MemoryKey]) -> Vec<(MemoryKey, MemoryId)> {
        let Ok(space) = self.space(name) else { return Vec::new() };
        let known = keys.iter().filter_map(|key| {
            let node = space.live_node(*key, self.now)?;
            space.id_of(node).map(|id| (*key, id.clone()))
        });
        known.collect()
    }
}

fn count(space: &Space, filter: &Filter, now: Timestamp) -> u64 {
    if filter.is_empty() && !space.has_expired(now) {
        return space.memories();
    }
    let compiled = space.metadata.compile(filter);
    let matching = space.nodes(now).filter(|(n, _)| space.metadata.matches(&compiled, *n));
    matching.count() as u64
}

fn check_embedding(space: &Space, embedding: Option<&[f32]>) -> Result<(), Rejection> {
    let Some(embedding) = embedding else { return Ok(()) };
    let dimensions = usize::from(space.config.dimensions.unwrap_or(0));
    if embedding.len() != dimensions {
        let detail = format!(
            "the embedding has {} dimensions, those of this space have {dimensions}",
            embedding.len()
        );
        return Err(Rejection::at(Code::DimensionMismatch, "/embedding", detail));
    }
    check_direction(space.config.metric, embedding)
}

/// Checks that an embedding has a direction where the metric needs one.
///
/// # Errors
/// [`Code::ZeroVector`].
pub(crate) fn check_direction(metric: Metric, embedding: &[f32]) -> Result<(), Rejection> {
    let square: f64 = embedding.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    if metric == Metric::Cosine && square < f64::from(f32::MIN_POSITIVE) {
        let detail = "the zero vector has no direction, which the cosine metric needs";
        return Err(Rejection::at(Code::ZeroVector, "/embedding", detail));
    }
    Ok(())
}

fn patch_metadata(
    metadata: &mut crate::model::Metadata,
    patch: Option<Option<crate::model::Metadata>>,
) {
    match patch {
        None => {}
        Some(None) => metadata.clear(),
        Some(Some(patch)) => merge_patch(metadata, patch),
    }
}

/// RFC 7396: `null` removes a key, an object is merged, anything else replaces.
fn merge_patch(target: &mut crate::model::Metadata, patch: crate::model::Metadata) {
    use serde_json::Value;
    for (key, value) in patch {
        match value {
            Value::Null => {
                target.remove(&key);
            }
            Value::Object(inner) => {
                let slot = target.entry(key).or_insert_with(|| Value::Object(Default::default()));
                if !slot.is_object() {
                    *slot = Value::Object(Default::default());
                }
                if let Value::Object(object) = slot {
                    merge_patch(object, inner);
                }
            }
            other => {
                target.insert(key, other);
            }
        }
    }
}

fn not_found_source() -> Rejection {
    let detail = "a link leaves a memory that exists; store the one in `from` first";
    Rejection::at(Code::NotFound, "/from", detail)
}
