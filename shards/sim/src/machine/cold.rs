//! The cold tier: segments that are written and read in a while, or not at all while it is down.
//!
//! *Invariants*: a segment is there when its write was answered; one that was answered as failed may
//! be there, too; a crash leaves what was under way done or not.
//!
//! *Not here*: what is cold (`engram_engine`), a real tier (`engram_cold`).

use std::rc::Rc;

use engram_engine::cold::segment;
use engram_engine::cold::{ColdAddress, ColdSegmentId};
use engram_engine::shard::{ColdFailure, Event, FetchId};

use super::{Happening, Machine};
use crate::plan::Planted;

/// A usual call, in microseconds.
const CALL_US: u64 = 300;

/// A call under way.
#[derive(Debug)]
pub(super) enum ColdCall {
    Fetch { fetch: FetchId, address: ColdAddress },
    Store { segment: ColdSegmentId, records: u32, blocks: Vec<Vec<u8>> },
}

impl Machine {
    /// Whether the tier can be reached from now on.
    pub fn set_cold(&mut self, is_up: bool) {
        self.cold_is_up = is_up;
    }

    /// It can be reached.
    pub fn cold_is_up(&self) -> bool {
        self.cold_is_up
    }

    /// How often it has failed.
    pub fn cold_failures(&self) -> u64 {
        self.cold_failures
    }

    /// Segments that were written.
    pub fn cold_stores(&self) -> u64 {
        self.cold_stores
    }

    /// Every segment, with the number of its records.
    pub fn list_cold(&self) -> Vec<(ColdSegmentId, u32)> {
        self.cold.iter().map(|(id, (records, _))| (*id, *records)).collect()
    }

    /// Removes segments that nobody needs.
    pub fn sweep_cold(&mut self, unused: &[(ColdSegmentId, u32)]) {
        if self.plan.planted == Some(Planted::SweptTooMuch) {
            self.cold.pop_last();
        }
        for (id, _) in unused {
            self.cold.remove(id);
        }
    }

    pub(super) fn begin_cold(&mut self, me: u16, call: ColdCall) {
        let after = self.random.delay(CALL_US);
        self.schedule(after, Happening::Cold { core: me, call });
    }

    pub(super) fn end_cold(&mut self, me: u16, call: ColdCall) {
        self.note(&[11, self.time_us, u64::from(me)]);
        let event = match call {
            ColdCall::Fetch { fetch, address } => {
                Event::FetchedCold { fetch, bytes: self.fetch_cold(address) }
            }
            ColdCall::Store { segment, records, blocks } => {
                let outcome = match self.store_cold(segment, records, &blocks) {
                    Some(_) if self.random.permille(20) => None,
                    outcome => outcome,
                };
                self.cold_failures += u64::from(outcome.is_none());
                Event::StoredCold { segment, outcome: outcome.ok_or_else(|| "down".to_owned()) }
            }
        };
        self.drive(me, event);
    }

    fn fetch_cold(&mut self, address: ColdAddress) -> Result<Rc<[u8]>, ColdFailure> {
        if !self.cold_is_up {
            self.cold_failures += 1;
            return Err(ColdFailure::Unreachable("down".to_owned()));
        }
        let gone = || ColdFailure::Damaged("the segment is gone".to_owned());
        let (_, bytes) = self.cold.get(&address.segment).ok_or_else(gone)?;
        let block = segment::unpack(&bytes[address.block_offset as usize..]);
        let block = block.map_err(|damage| ColdFailure::Damaged(damage.to_string()))?;
        let start = address.record_offset as usize;
        Ok(Rc::from(&block[start..start + address.record_bytes as usize]))
    }

    fn store_cold(
        &mut self,
        id: ColdSegmentId,
        records: u32,
        blocks: &[Vec<u8>],
    ) -> Option<Vec<segment::Extent>> {
        if !self.cold_is_up || self.cold.contains_key(&id) {
            return None;
        }
        let (bytes, extents) = segment::pack(id, records, blocks);
        if self.plan.planted != Some(Planted::LyingCold) || self.random.permille(900) {
            self.cold.insert(id, (records, bytes));
            self.cold_stores += 1;
        }
        Some(extents)
    }

    /// The process dies: some of what was under way is done even so.
    pub(super) fn crash_cold(&mut self) {
        for happening in std::mem::take(&mut self.happenings).into_values() {
            if let Happening::Cold { call: ColdCall::Store { segment, records, blocks }, .. } =
                happening
                && self.random.permille(500)
            {
                let _answered_to_nobody = self.store_cold(segment, records, &blocks);
            }
        }
    }
}
