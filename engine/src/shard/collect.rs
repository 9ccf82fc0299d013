//! Reading records back from the log: for a reader, a patch, a page, the answer of a recall, or
//! the association of memories whose text is no longer at hand.
//!
//! *Invariants*: bytes are used only after their checksum was proven.
//!
//! *Not here*: where the bytes come from (`shards`).

use std::rc::Rc;

use crate::key::{MemoryKey, ShardIx};
use crate::mesh::{LOG_TIER, OpId, Reply};
use crate::model::{LinkView, Memory, SpaceName, Timestamp};
use crate::names;
use crate::node::NodeIx;
use crate::record::{self, Damage, Put};
use crate::request::{Code, Patch, Rejection, Wait, With};
use crate::space::{Entry, LogAddress, NEVER, Space};

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
}

struct Read {
    key: MemoryKey,
    address: LogAddress,
    memory: Option<Memory>,
    put: Option<Put>,
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
            if let Some((node, entry)) = self.existing(space, key) {
                address = entry.address;
                if needs_record {
                    waiting += 1;
                    let fetch = FetchId(id * READS_MAX + position);
                    let tail = with.embedding && address.tail_bytes > 0;
                    self.effects.push(Effect::Fetch { fetch, address, tail });
                } else {
                    memory = self.space(space).ok().map(|s| bare_memory(s, node, with));
                }
            }
            reads.push(Read { key, address, memory, put: None });
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
        self.collects.values().any(|c| matches!(c.purpose, Purpose::Patch { .. }))
    }

    pub(super) fn existing(&self, space: &SpaceName, key: MemoryKey) -> Option<(NodeIx, &Entry)> {
        let space = self.space(space).ok()?;
        let node = space.live_node(key, self.now)?;
        space.entry(node, self.now).map(|entry| (node, entry))
    }

    pub(super) fn on_fetched(&mut self, fetch: FetchId, bytes: Result<Rc<[u8]>, String>) {
        let (id, position) = (fetch.0 / READS_MAX, (fetch.0 % READS_MAX) as usize);
        let Some(mut collect) = self.collects.remove(&id) else { return };
        let read = &mut collect.reads[position];
        match bytes.and_then(|b| parse(&b, collect.with).map_err(|damage| damage.to_string())) {
            Ok(put) => match collect.purpose {
                Purpose::Patch { .. } => read.put = Some(put),
                _ => read.memory = self.memory_of(&collect.space, read.key, put, collect.with),
            },
            Err(reason) => collect.failed = Some(unreadable(read.address, &reason)),
        }
        collect.waiting -= 1;
        if collect.waiting == 0 {
            self.finish_collect(collect);
        } else {
            self.collects.insert(id, collect);
        }
    }

    fn memory_of(&self, space: &SpaceName, key: MemoryKey, put: Put, with: With) -> Option<Memory> {
        let space = self.space(space).ok()?;
        let node = space.live_node(key, self.now)?;
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
            links: with.links.then(|| link_views(space, node)),
            tier: LOG_TIER,
        })
    }

    fn finish_collect(&mut self, collect: Collect) {
        let (to, op) = (collect.to, collect.op);
        if let Purpose::Texts = collect.purpose {
            let texts = collect.reads.into_iter().filter_map(|read| {
                let content = read.memory?.content?;
                Some((read.key, names::normal_form(&content)))
            });
            let texts = texts.collect();
            return self.texts_collected(&collect.space, texts);
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
            Purpose::Fetch => Ok(Reply::Fetched(reads.into_iter().map(|r| r.memory).collect())),
            Purpose::Texts => unreachable!("handled above"),
        };
        self.reply(to, op, reply);
    }
}

fn parse(bytes: &[u8], with: With) -> Result<Put, Damage> {
    if !with.embedding {
        return record::read_put_head(record::read_head(bytes)?.1);
    }
    let (header, head) = record::read_head(bytes)?;
    let mut put = record::read_put_head(head)?;
    if header.tail_bytes > 0 {
        put.embedding = record::read_embedding(record::View::read(bytes)?.tail)?;
    }
    Ok(put)
}

fn bare_memory(space: &Space, node: NodeIx, with: With) -> Memory {
    let entry = space.entry(node, Timestamp(i64::MIN)).expect("the caller found the entry");
    Memory {
        id: entry.id.clone(),
        content: None,
        embedding: None,
        metadata: Default::default(),
        confidence: None,
        created_at: entry.created_at,
        updated_at: entry.updated_at,
        expires_at: Some(entry.expires_at).filter(|at| *at != NEVER),
        links: with.links.then(|| link_views(space, node)),
        tier: LOG_TIER,
    }
}

/// The client links of a memory, as it was stored with or got later.
fn link_views(space: &Space, node: NodeIx) -> Vec<LinkView> {
    let Some(from) = space.id_of(node) else { return Vec::new() };
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
        address.segment, address.offset
    );
    Rejection::new(Code::Unreadable, detail)
}
