//! Moving memories to the cold tier, back from it, and out of segments that hold what is forgotten.
//!
//! *Invariants*: a memory is cold only after its segment was written, and a segment is called unused
//! only after everything that says so is durable: at any instant one whole copy of each memory is
//! named by the log. A memory that changed while its segment was written stays where it is.
//!
//! *Not here*: which memories deserve it (consolidation), writing segments (`shards`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::cold::segment::{BLOCK_RAW_BYTES, Extent, SEGMENT_RAW_BYTES};
use crate::cold::{ColdAddress, ColdSegmentId};
use crate::key::{MemoryKey, ShardIx};
use crate::life::run::RunId;
use crate::limits;
use crate::mesh::{Ask, OpId, Reply, SEGMENT_BUSY};
use crate::model::{MemoryId, SpaceName};
use crate::record::{Contents, Put, Stamp};
use crate::request::{Answer, Code, Rejection, With};
use crate::space::LogAddress;

use super::collect::{Purpose, Read};
use super::home::{Then, asks_of};
use super::{Effect, Place, Shard, Ticket, poisoned};

/// Most records of one segment.
const SEGMENT_RECORDS_MAX: usize = 4096;
/// Memories of a segment that are read at once.
const READ_AT_ONCE: usize = 16;
/// Records that are packed in one slice of work.
const PACKED_AT_ONCE: usize = 16;
/// Memories whose state changes in one slice of work.
const APPLIED_AT_ONCE: usize = 4;
/// Most segments that one sweep rewrites.
const REWRITTEN_AT_ONCE: usize = 64;

/// What is to be demoted, and the segment that is being made.
#[derive(Default)]
pub(super) struct Demotions {
    queue: VecDeque<Batch>,
    stage: Stage,
}

/// Memories of one ask.
struct Batch {
    to: ShardIx,
    op: OpId,
    parts: VecDeque<(SpaceName, VecDeque<MemoryKey>)>,
    why: Why,
    moved: Vec<MemoryKey>,
    failed: Option<Rejection>,
}

/// Why memories move.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// They were warm, and a consolidation or a client had them demoted.
    Asked(Option<RunId>),
    /// They are cold already and move to another segment.
    Rewritten,
}

#[derive(Default)]
enum Stage {
    #[default]
    Idle,
    Reading(Reading),
    Packing(Segment),
    Writing(Segment),
    Applying(Segment),
}

/// Memories that are read for a segment.
struct Reading {
    space: SpaceName,
    unread: Vec<MemoryKey>,
    rows: VecDeque<Row>,
}

/// A segment in the making.
struct Segment {
    id: ColdSegmentId,
    space: SpaceName,
    unpacked: VecDeque<Row>,
    blocks: Vec<Vec<u8>>,
    records: u32,
    packed: VecDeque<(Row, Spot)>,
    extents: Vec<Extent>,
}

/// A memory on its way.
struct Row {
    key: MemoryKey,
    version: LogAddress,
    put: Put,
}

/// Where a record lies among the blocks of a segment.
struct Spot {
    block: usize,
    offset: u32,
    bytes: u32,
}

impl Shard {
    /// Home: asks the owners to demote memories.
    pub(super) fn start_demote(
        &mut self,
        ticket: Ticket,
        space: SpaceName,
        ids: Vec<MemoryId>,
    ) -> Result<(), Rejection> {
        self.check_writable()?;
        self.space(&space)?;
        let mut by_shard: Vec<Vec<_>> = self.per_shard();
        for id in &ids {
            let key = self.partitioner.key(&space, id);
            by_shard[self.partitioner.owner(key).index()].push(key);
        }
        let asks = asks_of(by_shard, |keys| Ask::Demote { space: space.clone(), keys, run: None });
        if asks.is_empty() {
            self.answer(Some(ticket), Ok(Answer::Demoted(0)));
        } else {
            self.start(Some(ticket), Then::Demoted, asks);
        }
        Ok(())
    }

    pub(super) fn on_demote(
        &mut self,
        to: ShardIx,
        op: OpId,
        (space, keys): (SpaceName, Vec<MemoryKey>),
        run: Option<RunId>,
    ) {
        let parts = VecDeque::from([(space, keys.into())]);
        self.queue_demotion(to, op, parts, Why::Asked(run));
    }

    /// What is in use of these segments moves to others.
    pub(super) fn on_rewrite(&mut self, to: ShardIx, op: OpId, segments: &[ColdSegmentId]) {
        let parts = self.spaces.values().map(|space| {
            let held = segments.iter().filter_map(|id| space.cold().segments().get(id));
            (space.name.clone(), held.flatten().copied().collect())
        });
        let parts = parts.collect();
        self.queue_demotion(to, op, parts, Why::Rewritten);
    }

    fn queue_demotion(
        &mut self,
        to: ShardIx,
        op: OpId,
        parts: VecDeque<(SpaceName, VecDeque<MemoryKey>)>,
        why: Why,
    ) {
        let moved = Vec::new();
        self.demotions.queue.push_back(Batch { to, op, parts, why, moved, failed: None });
    }

    /// Runs one slice of demotion; false where there is nothing to do before something comes back.
    pub(super) fn run_demotion(&mut self) -> bool {
        match std::mem::take(&mut self.demotions.stage) {
            Stage::Idle => self.start_segment(),
            Stage::Reading(reading) => {
                self.demotions.stage = Stage::Reading(reading);
                false
            }
            Stage::Writing(segment) => {
                self.demotions.stage = Stage::Writing(segment);
                false
            }
            Stage::Packing(segment) => {
                self.pack(segment);
                true
            }
            Stage::Applying(segment) => {
                self.apply(segment);
                true
            }
        }
    }

    /// Reads the memories of the next segment; a batch that has none left is answered.
    fn start_segment(&mut self) -> bool {
        let Some(mut batch) = self.demotions.queue.pop_front() else { return false };
        let failed = self.check_writable().err().or(batch.failed.take());
        if let Some(rejection) = failed {
            self.reply(batch.to, batch.op, Err(rejection));
            return true;
        }
        match self.take_chunk(&mut batch) {
            None => self.reply_when_durable(batch.to, batch.op, Reply::Demoted(batch.moved)),
            Some((space, unread)) => {
                self.demotions.queue.push_front(batch);
                self.read_more(Reading { space, unread, rows: VecDeque::new() });
            }
        }
        true
    }

    /// Reads a few more memories of a segment.
    fn read_more(&mut self, mut reading: Reading) {
        let rest = reading.unread.len().saturating_sub(READ_AT_ONCE);
        let keys = reading.unread.split_off(rest);
        let space = reading.space.clone();
        self.demotions.stage = Stage::Reading(reading);
        let nobody = OpId(u64::MAX);
        self.collect(self.me, nobody, &space, keys, With::ALL, Purpose::Demote);
    }

    /// The next memories of a batch that fill a segment.
    fn take_chunk(&self, batch: &mut Batch) -> Option<(SpaceName, Vec<MemoryKey>)> {
        while let Some((name, keys)) = batch.parts.front_mut() {
            let (mut chunk, mut bytes) = (Vec::new(), 0);
            while bytes < SEGMENT_RAW_BYTES && chunk.len() < SEGMENT_RECORDS_MAX {
                let Some(key) = keys.pop_front() else { break };
                if let Some(record_bytes) = self.movable_bytes(name, key, batch.why) {
                    bytes += record_bytes;
                    chunk.push(key);
                }
            }
            if !chunk.is_empty() {
                return Some((name.clone(), chunk));
            }
            batch.parts.pop_front();
        }
        None
    }

    /// Bytes of a memory's record, where it may move: it exists, and is not waiting for its links.
    fn movable_bytes(&self, name: &SpaceName, key: MemoryKey, why: Why) -> Option<usize> {
        let rewrites = why == Why::Rewritten;
        let (node, entry) = self.existing(name, key)?;
        let space = self.space(name).ok()?;
        match space.cold().address(key) {
            Some(cold) => rewrites.then_some(cold.record_bytes as usize),
            None if rewrites || space.is_queued(node) => None,
            None => Some((entry.address.head_bytes + entry.address.tail_bytes) as usize),
        }
    }

    pub(super) fn demotion_read(&mut self, reads: Vec<Read>, failed: Option<Rejection>) {
        let Stage::Reading(mut reading) = std::mem::take(&mut self.demotions.stage) else {
            unreachable!("what is read was asked for")
        };
        let row = |read: Read| Some(Row { key: read.key, version: read.address, put: read.put? });
        reading.rows.extend(reads.into_iter().filter_map(row));
        // What is damaged stays where it is, for whoever reads it to be told.
        let failed = failed.filter(|rejection| rejection.code != Code::Unreadable);
        if failed.is_none() && !reading.unread.is_empty() {
            return self.read_more(reading);
        }
        if let Some(rejection) = failed {
            self.fail_batch(rejection);
        }
        let Reading { space, rows: unpacked, .. } = reading;
        if unpacked.is_empty() {
            return;
        }
        let stamp = self.stamp().0.unsigned_abs();
        let id = ColdSegmentId(stamp * limits::SHARDS_MAX as u64 + u64::from(self.me.0));
        let records = u32::try_from(unpacked.len()).expect("bounded by a segment's records");
        let (blocks, packed, extents) = (vec![Vec::new()], VecDeque::new(), Vec::new());
        let segment = Segment { id, space, unpacked, blocks, records, packed, extents };
        self.demotions.stage = Stage::Packing(segment);
    }

    fn fail_batch(&mut self, rejection: Rejection) {
        let batch = self.demotions.queue.front_mut().expect("a batch leads while it is worked on");
        batch.failed.get_or_insert(rejection);
    }

    fn pack(&mut self, mut segment: Segment) {
        for _ in 0..PACKED_AT_ONCE {
            let Some(row) = segment.unpacked.pop_front() else { break };
            if segment.blocks.last().is_some_and(|block| block.len() >= BLOCK_RAW_BYTES) {
                segment.blocks.push(Vec::new());
            }
            let block = segment.blocks.last_mut().expect("there is one from the start");
            let offset = block.len();
            let draft = Contents::Put(Box::new(row.put.clone())).draft();
            draft.write(Stamp { sequence: 0, batch: 0, epoch: 0 }, block);
            let length = |bytes| u32::try_from(bytes).expect("a block is far below 4 GiB");
            let spot = Spot {
                offset: length(offset),
                bytes: length(block.len() - offset),
                block: segment.blocks.len() - 1,
            };
            segment.packed.push_back((row, spot));
        }
        if !segment.unpacked.is_empty() {
            self.demotions.stage = Stage::Packing(segment);
            return;
        }
        let blocks = std::mem::take(&mut segment.blocks);
        let (id, records) = (segment.id, segment.records);
        self.effects.push(Effect::StoreCold { segment: id, records, blocks });
        self.demotions.stage = Stage::Writing(segment);
    }

    pub(super) fn on_stored_cold(
        &mut self,
        id: ColdSegmentId,
        outcome: Result<Vec<Extent>, String>,
    ) {
        let Stage::Writing(mut segment) = std::mem::take(&mut self.demotions.stage) else {
            unreachable!("a segment that is written was asked for")
        };
        assert!(segment.id == id, "one segment is written at a time");
        match outcome {
            Ok(extents) => {
                segment.extents = extents;
                self.demotions.stage = Stage::Applying(segment);
            }
            Err(reason) => {
                let detail = format!("the cold tier can't be written: {reason}");
                self.fail_batch(Rejection::new(Code::ColdUnavailable, detail));
            }
        }
    }

    fn apply(&mut self, mut segment: Segment) {
        for _ in 0..APPLIED_AT_ONCE {
            let Some((row, spot)) = segment.packed.pop_front() else { break };
            if self.poisoned {
                self.fail_batch(poisoned());
                return;
            }
            let extent = segment.extents[spot.block];
            let address = ColdAddress {
                segment: segment.id,
                records: segment.records,
                block_offset: extent.offset,
                block_bytes: extent.bytes,
                record_offset: spot.offset,
                record_bytes: spot.bytes,
            };
            let key = row.key;
            if self.apply_row(&segment.space, row, address) {
                let batch = self.demotions.queue.front_mut();
                batch.expect("a batch leads while it is worked on").moved.push(key);
            }
        }
        if !segment.packed.is_empty() {
            self.demotions.stage = Stage::Applying(segment);
        }
    }

    /// Demotes a memory, unless it changed meanwhile.
    fn apply_row(&mut self, name: &SpaceName, row: Row, address: ColdAddress) -> bool {
        let Some((node, entry)) = self.existing(name, row.key) else { return false };
        let Ok(space) = self.space(name) else { return false };
        let (number, waits) = (space.number, space.is_queued(node));
        if entry.address != row.version || waits {
            return false;
        }
        let at = self.stamp();
        let batch = self.demotions.queue.front().expect("a batch leads while it is worked on");
        let why = batch.why;
        let demoted = self.with_space(name, |space, s| {
            let run = match why {
                Why::Asked(run) => run,
                Why::Rewritten => space.cold().run_of(row.key),
            };
            let mut demoted = space.demoted(node, row.put, address, at, s).ok()?;
            demoted.run = run;
            space.demote(row.key, address, run);
            Some(demoted)
        });
        let Ok(Some(demoted)) = demoted else { return false };
        let place = Place { space: number, node };
        self.append(&Contents::Demote(Box::new(demoted)), Some(place));
        self.lives.demoted += u64::from(why != Why::Rewritten);
        true
    }

    /// A cold memory was recalled, or its demotion is undone: its record comes back into the log,
    /// unless it changed meanwhile.
    pub(super) fn promote(
        &mut self,
        name: &SpaceName,
        key: MemoryKey,
        version: LogAddress,
        mut put: Put,
    ) -> bool {
        let Some((node, entry)) = self.existing(name, key) else { return false };
        let Ok(space) = self.space(name) else { return false };
        let is_cold = space.cold().address(key).is_some();
        if self.stands_still() || !is_cold || entry.address != version {
            return false;
        }
        if self.check_growable().is_err() {
            return false;
        }
        (put.space, put.links) = (space.number, space.client_links(node));
        let promoted =
            self.with_space(name, |space, s| space.promote(key, node, put.content.as_deref(), s));
        assert!(promoted.is_ok(), "the space was just looked at");
        let place = Place { space: put.space, node };
        let (number, id, links) = (put.space, put.id.clone(), put.links.clone());
        self.append(&Contents::Put(Box::new(put)), Some(place));
        self.append_links(number, id, links);
        self.lives.promoted += 1;
        true
    }

    /// Records in use of each cold segment.
    pub fn cold_use(&self) -> Vec<(ColdSegmentId, u32)> {
        let mut used: BTreeMap<ColdSegmentId, u32> = BTreeMap::new();
        for (id, keys) in self.spaces.values().flat_map(|space| space.cold().segments()) {
            *used.entry(*id).or_default() += u32::try_from(keys.len()).unwrap_or(SEGMENT_BUSY);
        }
        match &self.demotions.stage {
            Stage::Packing(segment) | Stage::Writing(segment) | Stage::Applying(segment) => {
                used.insert(segment.id, SEGMENT_BUSY);
            }
            Stage::Idle | Stage::Reading(_) => {}
        }
        used.into_iter().collect()
    }

    /// Home: what the cold tier holds is compared with what every shard uses.
    pub(super) fn cold_used(
        &mut self,
        ticket: Option<Ticket>,
        listed: &[(ColdSegmentId, u32)],
        replies: Vec<(ShardIx, Reply)>,
    ) {
        let mut used: BTreeMap<ColdSegmentId, u32> = BTreeMap::new();
        for (_, reply) in replies {
            let Reply::ColdUse(rows) = reply else { unreachable!("use was asked for") };
            for (id, count) in rows {
                let sum = used.entry(id).or_default();
                *sum = sum.saturating_add(count);
            }
        }
        let use_of = |id: &ColdSegmentId| used.get(id).copied().unwrap_or(0);
        let unused = listed.iter().filter(|(id, _)| use_of(id) == 0).copied().collect();
        let partly = |(id, records): &&(ColdSegmentId, u32)| (1..*records).contains(&use_of(id));
        let partly = listed.iter().filter(partly).map(|(id, _)| *id);
        let segments: Vec<ColdSegmentId> = partly.take(REWRITTEN_AT_ONCE).collect();
        if segments.is_empty() {
            return self.answer(ticket, Ok(Answer::Swept { unused, rewritten: 0 }));
        }
        let segments = Arc::new(segments);
        let ask = || Ask::Rewrite { segments: segments.clone() };
        self.ask_everyone(ticket, Then::Rewritten { unused }, ask);
    }

    /// Home: shards that have more expired memories are asked again.
    pub(super) fn expired(
        &mut self,
        ticket: Option<Ticket>,
        mut so_far: u64,
        replies: Vec<(ShardIx, Reply)>,
    ) {
        let mut asks = Vec::new();
        for (shard, reply) in replies {
            let Reply::Expired { count, more } = reply else { unreachable!("it was asked for") };
            so_far += count;
            if more {
                asks.push((shard, Ask::Expire));
            }
        }
        if asks.is_empty() {
            return self.answer(ticket, Ok(Answer::Expired(so_far)));
        }
        self.start(ticket, Then::Expired { so_far }, asks);
    }
}

/// How many memories were demoted in all.
pub(super) fn count_demoted(replies: &[(ShardIx, Reply)]) -> u64 {
    let counts = replies.iter().map(|(_, reply)| match reply {
        Reply::Demoted(keys) => keys.len() as u64,
        _ => unreachable!("demotion was asked for"),
    });
    counts.sum()
}
