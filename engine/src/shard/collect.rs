//! Reading records back from the log: for a reader, a patch, a page, the answer of a recall, or
//! the association of memories whose text is no longer at hand.
//!
//! *Invariants*: bytes are used only after their checksum was proven.
//!
//! *Not here*: where the bytes come from (`shards`).

use std::rc::Rc;

use crate::key::{MemoryKey, ShardIx};
use crate::mesh::{Found, LOG_TIER, OpId, Reply};
use crate::model::{LinkView, Memory, MemoryId, SpaceName, Tier};
use crate::names;
use crate::node::NodeIx;
use crate::record::{self, Damage, Put};
use crate::request::{Code, Patch, Rejection, Wait, With};
use crate::space::{Entry, LogAddress, NEVER, Space};

use super::consolidate::{ReturnFor, Scanned};
use super::{Effect, FetchId, Shard};

/// Several reads for one purpose.
pub(super) struct Collect {
    to: ShardIx,
    op: OpId,
    space: SpaceName,
    with: With,
    purpose: Purpose,
    reads: Vec<Read>,
    waiting: usize,
    failed: Option<Rejection>,
}

/// What the records are read for.
pub(super) enum Purpose {
    /// One memory for its reader.
    Read,
    /// One memory to be changed.
    Patch { patch: Box<Patch>, wait: Wait },
    /// Memories of a listing.
    Page { more: bool },
    /// Contents of the best of a recall.
    Fetch,
    /// Texts to associate.
    Texts,
    /// A cold memory for the answer of a recall, of which so much is wanted.
    Promote { with: With },
    /// Memories to be moved to the cold tier.
    Demote,
    /// Texts of which it is wanted what their words come to.
    Sketches(Box<Scanned>),
    /// Cold memories that a run demoted and that are to come back.
    Undemote { more: bool },
    /// Memories that were merged and are to come back.
    Return(ReturnFor),
}

impl Purpose {
    /// The record is written again: all that it says is wanted.
    fn wants_whole(&self) -> bool {
        match self {
            Self::Patch { .. }
            | Self::Promote { .. }
            | Self::Demote
            | Self::Undemote { .. }
            | Self::Return(_) => true,
            Self::Read | Self::Page { .. } | Self::Fetch | Self::Texts | Self::Sketches(_) => false,
        }
    }
}

/// Why a record could not be read from the cold tier.
#[derive(Clone, Debug, PartialEq)]
pub enum ColdFailure {
    /// The tier can't be reached.
    Unreachable(String),
    /// What it gave is not what was written.
    Damaged(String),
}

pub(super) struct Read {
    pub key: MemoryKey,
    /// The newest record when the read began: another one by now is another version.
    pub address: LogAddress,
    /// It is cold and left alone: whoever wants it asks for it by itself.
    left_cold: bool,
    memory: Option<Memory>,
    pub put: Option<Put>,
}

/// Most memories in one collect.
const READS_MAX: u64 = 1 << 20;

impl Shard {
    /// Reads the memories of `keys`; those that do not exist stay `None`.
    pub(super) fn collect(
        &mut self,
        to: ShardIx,
        op: OpId,
        space: &SpaceName,
        keys: Vec<MemoryKey>,
        with: With,
        purpose: Purpose,
    ) {
        let id = self.next_collect;
        self.next_collect += 1;
        let needs_record = with.content || with.metadata || with.embedding;
        let mut reads = Vec::with_capacity(keys.len());
        let mut waiting = 0;
        for (position, key) in (0u64..READS_MAX).zip(keys) {
            let (mut address, mut memory) = (LogAddress::default(), None);
            let leaves_cold = needs_record && matches!(purpose, Purpose::Fetch);
            let left_cold = leaves_cold && self.is_cold(space, key);
            if let Some(entry) = self.readable(space, key) {
                address = entry.address;
                if left_cold {
                    // It is asked for by itself, so that it holds nothing else up.
                } else if needs_record {
                    waiting += 1;
                    let fetch = FetchId(id * READS_MAX + position);
                    self.effects.push(self.fetch_effect(space, key, fetch, address, with));
                } else {
                    memory = self.space(space).ok().map(|s| bare_memory(s, key, entry, with));
                }
            }
            reads.push(Read { key, address, left_cold, memory, put: None });
        }
        let space = space.clone();
        let collect = Collect { to, op, space, with, purpose, reads, waiting, failed: None };
        if waiting == 0 {
            self.finish_collect(collect);
        } else {
            self.collects.insert(id, collect);
        }
    }

    /// A memory is being read to be changed.
    pub(super) fn is_patching(&self) -> bool {
        let changes = |p: &Purpose| {
            matches!(p, Purpose::Patch { .. } | Purpose::Return(_) | Purpose::Undemote { .. })
        };
        self.collects.values().any(|collect| changes(&collect.purpose))
    }

    /// What the log has of a cold memory is enough where neither content nor embedding is wanted.
    fn fetch_effect(
        &self,
        space: &SpaceName,
        key: MemoryKey,
        fetch: FetchId,
        address: LogAddress,
        with: With,
    ) -> Effect {
        let cold = self.space(space).ok().and_then(|space| space.cold().address(key));
        match cold.filter(|_| with.content || with.embedding) {
            Some(address) => Effect::FetchCold { fetch, address },
            None => {
                let tail = with.embedding && address.tail_bytes > 0;
                Effect::Fetch { fetch, address, tail }
            }
        }
    }

    /// A memory that exists.
    pub(super) fn existing(&self, space: &SpaceName, key: MemoryKey) -> Option<(NodeIx, &Entry)> {
        let space = self.space(space).ok()?;
        let node = space.live_node(key, self.now)?;
        space.entry(node, self.now).map(|entry| (node, entry))
    }

    /// The entry of a memory that can be read: it exists, or was merged into another.
    pub(super) fn readable(&self, space: &SpaceName, key: MemoryKey) -> Option<&Entry> {
        let existing = self.existing(space, key).map(|(_, entry)| entry);
        let space = self.space(space).ok()?;
        let merged = || space.merged.absorbed_one(key).map(|absorbed| &*absorbed.entry);
        existing.or_else(merged).filter(|entry| entry.expires_at > self.now)
    }

    pub(super) fn on_fetched(&mut self, fetch: FetchId, bytes: Result<Rc<[u8]>, String>) {
        self.on_read(fetch, bytes.map_err(Unread::Log));
    }

    pub(super) fn on_fetched_cold(&mut self, fetch: FetchId, bytes: Result<Rc<[u8]>, ColdFailure>) {
        self.on_read(fetch, bytes.map_err(Unread::Cold));
    }

    fn on_read(&mut self, fetch: FetchId, bytes: Result<Rc<[u8]>, Unread>) {
        let (id, position) = (fetch.0 / READS_MAX, (fetch.0 % READS_MAX) as usize);
        let Some(mut collect) = self.collects.remove(&id) else { return };
        let read = &mut collect.reads[position];
        let (with, whole) = (collect.with, collect.purpose.wants_whole());
        let parsed =
            bytes.and_then(|b| parse(&b, with, whole).map_err(|d| Unread::Log(d.to_string())));
        match parsed {
            Ok(put) => match collect.purpose {
                Purpose::Patch { .. }
                | Purpose::Demote
                | Purpose::Return(_)
                | Purpose::Undemote { .. } => {
                    read.put = Some(put);
                }
                Purpose::Promote { with } => {
                    read.put = Some(put.clone());
                    read.memory = self.memory_of(&collect.space, read.key, put, with);
                }
                Purpose::Read
                | Purpose::Page { .. }
                | Purpose::Fetch
                | Purpose::Texts
                | Purpose::Sketches(_) => {
                    read.memory = self.memory_of(&collect.space, read.key, put, collect.with);
                }
            },
            Err(unread) => collect.failed = Some(rejection_of(read.address, unread)),
        }
        collect.waiting -= 1;
        if collect.waiting == 0 {
            self.finish_collect(collect);
        } else {
            self.collects.insert(id, collect);
        }
    }

    fn memory_of(&self, space: &SpaceName, key: MemoryKey, put: Put, with: With) -> Option<Memory> {
        self.readable(space, key)?;
        let space = self.space(space).ok()?;
        let metadata = if with.metadata {
            record::metadata_of(&put.metadata).ok()?
        } else {
            Default::default()
        };
        Some(Memory {
            id: put.id,
            content: put.content.filter(|_| with.content),
            embedding: put.embedding.filter(|_| with.embedding),
            metadata,
            confidence: put.confidence,
            created_at: put.created_at,
            updated_at: put.updated_at,
            expires_at: put.expires_at,
            links: with.links.then(|| link_views(space, key)),
            tier: tier_of(space, key),
            merged: sources_of(space, key, with),
            merged_into: merged_into(space, key),
        })
    }

    fn finish_collect(&mut self, mut collect: Collect) {
        let (to, op) = (collect.to, collect.op);
        if let Purpose::Return(of) = collect.purpose {
            let Collect { space, reads, failed, .. } = collect;
            return self.returned((to, op), &space, reads, failed, of);
        }
        if let Purpose::Undemote { more } = collect.purpose {
            let Collect { space, reads, failed, .. } = collect;
            return self.undemoted((to, op), &space, reads, failed, more);
        }
        if let Purpose::Sketches(scanned) = &mut collect.purpose {
            let scanned = std::mem::take(&mut **scanned);
            // What can't be read is reported to whoever reads it.
            let texts = collect.reads.into_iter();
            let texts = texts.filter_map(|read| Some((read.key, read.memory?.content?)));
            return self.sketched((to, op), &collect.space, scanned, texts.collect());
        }
        if let Purpose::Texts = collect.purpose {
            let texts = collect.reads.into_iter().filter_map(|read| {
                let content = read.memory?.content?;
                Some((read.key, names::normal_form(&content)))
            });
            let texts = texts.collect();
            return self.texts_collected(&collect.space, texts);
        }
        if let Purpose::Demote = collect.purpose {
            return self.demotion_read(collect.reads, collect.failed);
        }
        if let Purpose::Promote { .. } = collect.purpose {
            return self.promotion_read(to, op, &collect.space, collect.reads, collect.failed);
        }
        if let Some(rejection) = collect.failed {
            return self.reply(to, op, Err(rejection));
        }
        let mut reads = collect.reads;
        let reply = match collect.purpose {
            Purpose::Read => match reads.pop().and_then(|read| read.memory) {
                Some(memory) => Ok(Reply::Memory(Box::new(memory))),
                None => Err(not_found()),
            },
            Purpose::Patch { patch, wait } => {
                let read = reads.pop().and_then(|r| r.put.map(|put| (r.key, r.address, put)));
                return self.patch_read(to, op, &collect.space, read, patch, wait);
            }
            Purpose::Page { more } => {
                let rows = reads.into_iter().filter_map(|r| r.memory.map(|m| (r.key, m)));
                Ok(Reply::Page { rows: rows.collect(), more })
            }
            Purpose::Fetch => {
                let found = |read: Read| match read.memory {
                    Some(memory) => Found::Memory(Box::new(memory)),
                    None if read.left_cold => Found::Cold,
                    None => Found::Nothing,
                };
                Ok(Reply::Fetched(reads.into_iter().map(found).collect()))
            }
            Purpose::Texts
            | Purpose::Sketches(_)
            | Purpose::Return(_)
            | Purpose::Undemote { .. }
            | Purpose::Demote
            | Purpose::Promote { .. } => {
                unreachable!("handled above")
            }
        };
        self.reply(to, op, reply);
    }

    /// A cold memory was read for a recall: it is answered, and comes back to warm.
    fn promotion_read(
        &mut self,
        to: ShardIx,
        op: OpId,
        space: &SpaceName,
        mut reads: Vec<Read>,
        failed: Option<Rejection>,
    ) {
        let read = reads.pop().expect("one memory is promoted at a time");
        let found = match read.memory {
            Some(memory) => Found::Memory(Box::new(memory)),
            None if failed.is_some() => Found::OutOfReach,
            None => Found::Nothing,
        };
        if let Some(put) = read.put {
            self.promote(space, read.key, read.address, put);
        }
        self.reply(to, op, Ok(Reply::FetchedCold(read.key, found)));
    }

    fn is_cold(&self, space: &SpaceName, key: MemoryKey) -> bool {
        self.space(space).is_ok_and(|space| space.cold().address(key).is_some())
    }
}

/// Why a record could not be read.
enum Unread {
    Log(String),
    Cold(ColdFailure),
}

fn rejection_of(address: LogAddress, unread: Unread) -> Rejection {
    match unread {
        Unread::Log(reason) => unreadable(address, &reason),
        Unread::Cold(ColdFailure::Damaged(reason)) => {
            let detail = format!(
                "the record in the cold tier can't be read ({reason}); restore a snapshot from \
                 before, or store the memory again"
            );
            Rejection::new(Code::Unreadable, detail)
        }
        Unread::Cold(ColdFailure::Unreachable(reason)) => {
            let detail =
                format!("the cold tier, where the content lies, can't be reached: {reason}");
            Rejection::new(Code::ColdUnavailable, detail)
        }
    }
}

pub(super) fn tier_of(space: &Space, key: MemoryKey) -> Tier {
    space.cold().address(key).map_or(LOG_TIER, |_| Tier::Cold)
}

fn parse(bytes: &[u8], with: With, whole: bool) -> Result<Put, Damage> {
    let (header, head) = record::read_head(bytes)?;
    let read = if whole { record::read_put_head } else { record::read_put_text };
    let mut put = read(head)?;
    if with.embedding && header.tail_bytes > 0 {
        put.embedding = record::read_embedding(record::View::read(bytes)?.tail)?;
    }
    Ok(put)
}

fn sources_of(space: &Space, key: MemoryKey, with: With) -> Vec<MemoryId> {
    let sources = if with.merged { space.merged.sources(key) } else { &[] };
    let mut ids: Vec<MemoryId> = sources.iter().map(|(_, id)| id.clone()).collect();
    ids.sort_unstable();
    ids
}

fn merged_into(space: &Space, key: MemoryKey) -> Option<MemoryId> {
    space.merged.absorbed_one(key).map(|absorbed| absorbed.into.id.clone())
}

fn bare_memory(space: &Space, key: MemoryKey, entry: &Entry, with: With) -> Memory {
    Memory {
        id: entry.id.clone(),
        content: None,
        embedding: None,
        metadata: Default::default(),
        confidence: None,
        created_at: entry.created_at,
        updated_at: entry.updated_at,
        expires_at: Some(entry.expires_at).filter(|at| *at != NEVER),
        links: with.links.then(|| link_views(space, key)),
        tier: tier_of(space, key),
        merged: sources_of(space, key, with),
        merged_into: merged_into(space, key),
    }
}

/// The client links of a memory, as it was stored with or got later.
fn link_views(space: &Space, key: MemoryKey) -> Vec<LinkView> {
    let node = space.graph.find(key);
    let Some((node, from)) = node.and_then(|n| Some((n, space.id_of(n)?))) else {
        return Vec::new();
    };
    let client = space.graph.outward(node).iter().filter(|edge| !edge.is_automatic());
    let views = client.filter_map(|edge| {
        Some(LinkView {
            from: from.clone(),
            to: space.id_of(edge.node)?.clone(),
            weight: crate::fixed::weight_of(edge.weight),
            kind: (**space.graph.kind(edge.kind())).clone(),
            automatic: false,
            live: edge.is_live(),
        })
    });
    let mut views: Vec<LinkView> = views.collect();
    views.sort_by(|a, b| (&a.to, &a.kind).cmp(&(&b.to, &b.kind)));
    views
}

pub(super) fn not_found() -> Rejection {
    Rejection::new(Code::NotFound, "there is no memory with this id in this space")
}

fn unreadable(address: LogAddress, reason: &str) -> Rejection {
    let detail = format!(
        "the record at segment {}, offset {} can't be read ({reason}); run `engram check`",
        address.segment,
        address.at()
    );
    Rejection::new(Code::Unreadable, detail)
}
