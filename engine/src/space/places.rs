//! Where the records of memories lie in the log of their shard.
//!
//! *Invariants*: of two addresses the later one is that of the record with the higher sequence
//! number; an address is never taken for one in another edition of its segment.
//!
//! *Not here*: which records are still needed (`shard::compaction`), the segments (`shards`).

use crate::key::MemoryKey;
use crate::node::NodeIx;
use crate::record;

use super::{Entry, Space};

/// Where a record lies in the log of its shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogAddress {
    /// Number of the segment.
    pub segment: u32,
    /// Offset of the record in the segment, in bytes: a multiple of 8, to which is added how often
    /// the segment had been compacted, modulo 8.
    pub offset: u32,
    /// Bytes of header and head.
    pub head_bytes: u32,
    /// Bytes of the tail.
    pub tail_bytes: u32,
}

/// So many editions of a segment have addresses that differ.
pub const EDITIONS_TOLD_APART: u32 = 8;
const _: () = assert!(record::ALIGNMENT == EDITIONS_TOLD_APART as usize);

impl LogAddress {
    /// The address of a record of so many bytes, at an offset in an edition of a segment.
    pub fn new(segment: u32, edition: u32, at: usize, (head, tail): (usize, usize)) -> Self {
        let fits = "a record lies within its segment, which is far below 4 GiB";
        Self {
            segment,
            offset: u32::try_from(at).expect(fits) | (edition % EDITIONS_TOLD_APART),
            head_bytes: u32::try_from(record::HEADER_BYTES + head).expect(fits),
            tail_bytes: u32::try_from(tail).expect(fits),
        }
    }

    /// Where the record begins in its segment.
    pub fn at(&self) -> u64 {
        u64::from(self.offset - self.offset % EDITIONS_TOLD_APART)
    }

    /// In which edition of its segment, as far as that is known: modulo 8.
    pub fn edition(&self) -> u32 {
        self.offset % EDITIONS_TOLD_APART
    }

    /// Bytes of the record in the log.
    pub fn record_bytes(&self) -> u64 {
        record::record_bytes(
            self.head_bytes as usize - record::HEADER_BYTES,
            self.tail_bytes as usize,
        ) as u64
    }

    /// It was written after the other one of its shard.
    pub fn is_later_than(&self, other: &Self) -> bool {
        (self.segment, self.at()) > (other.segment, other.at())
    }
}

/// How far [`Space::places`] has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlacesSeen {
    entries: usize,
    absorbed: usize,
}

impl Space {
    /// Notes where the newest record of a memory lies.
    pub fn placed(&mut self, node: NodeIx, address: LogAddress) {
        if let Some(Some(entry)) = self.entries.get_mut(node.index()) {
            entry.address = address;
        }
    }

    /// Where the newest record of a memory lies, be it merged or expired; `None`: there is none.
    pub fn newest_record(&self, key: MemoryKey) -> Option<LogAddress> {
        let node = self.graph.find(key);
        let entry = node.and_then(|node| self.entries.get(node.index())?.as_deref());
        let absorbed = || self.merged.absorbed_one(key).map(|absorbed| &*absorbed.entry);
        entry.or_else(absorbed).map(|entry| entry.address)
    }

    /// The newest record of a memory was moved from one place to another; false where it is not
    /// the newest any more.
    pub fn move_record(&mut self, key: MemoryKey, from: LogAddress, to: LogAddress) -> bool {
        let node = self.graph.find(key);
        let entry = node.and_then(|node| self.entries.get_mut(node.index())?.as_deref_mut());
        let entry: Option<&mut Entry> = match entry {
            Some(entry) => Some(entry),
            None => self.merged.absorbed.get_mut(&key.0).map(|absorbed| &mut *absorbed.entry),
        };
        let Some(entry) = entry.filter(|entry| entry.address == from) else { return false };
        entry.address = to;
        true
    }

    /// Hands on where newest records lie, `most` entries in all; false when there are no others.
    pub fn places(
        &self,
        seen: &mut PlacesSeen,
        most: usize,
        mut place: impl FnMut(LogAddress),
    ) -> bool {
        let entries = self.entries.get(seen.entries..).unwrap_or(&[]);
        let entries = &entries[..entries.len().min(most)];
        entries.iter().flatten().for_each(|entry| place(entry.address));
        seen.entries += entries.len();
        let absorbed = self.merged.absorbed.values().skip(seen.absorbed);
        for absorbed in absorbed.take(most - entries.len()) {
            place(absorbed.entry.address);
            seen.absorbed += 1;
        }
        seen.entries < self.entries.len() || seen.absorbed < self.merged.absorbed.len()
    }
}
