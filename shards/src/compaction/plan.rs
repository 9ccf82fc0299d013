//! Which segments are rewritten, and which of them together.
//!
//! *Invariants*: what is planned frees at least half of the bytes that it reads, removes what was
//! forgotten, or makes fewer segments of small ones; each new segment has room in one.
//!
//! *Not here*: rewriting (`rewrite`).

use std::time::Instant;

use super::rewrite::Holds;
use crate::log::SegmentFile;
use crate::segment::{BLOCK_BYTES, SEGMENT_BYTES};

/// What was forgotten leaves the log after so many sweeps at most, and the time to write it.
pub const FORGET_SWEEPS: u32 = 60;
/// Segments that need less than this are put together.
const SMALL_BYTES: u64 = SEGMENT_BYTES / 4;
/// So many small segments in a row are put together, whatever their sizes.
const SMALL_MAX: usize = 8;

/// What is known of a segment that was read through.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// In which edition.
    pub edition: u32,
    /// What it held.
    pub holds: Holds,
    /// When.
    pub examined: Instant,
    /// It can't be read.
    pub damaged: bool,
}

impl Known {
    /// A segment that was just read, or written.
    pub fn new(edition: u32, holds: Holds) -> Self {
        Self { edition, holds, examined: Instant::now(), damaged: false }
    }
}

/// The newest records of memories in a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// How many.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What is to be rewritten.
#[derive(Debug, Default)]
pub struct Plan {
    /// Every sealed segment, in order.
    candidates: Vec<Candidate>,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    file: (SegmentFile, u64),
    /// Bytes that it would have.
    needed: u64,
    why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// It is left alone.
    Not,
    /// There is little in it.
    Small,
    /// It is rewritten in any case.
    Wanted,
}

impl Plan {
    /// Adds the next segment; it is left alone where nothing is known of it.
    pub fn add(
        &mut self,
        file: (SegmentFile, u64),
        known: Option<&Known>,
        live: Live,
        overdue: bool,
        wanted: bool,
    ) {
        let bytes = file.0.bytes;
        let Some(known) = known.filter(|known| !known.damaged) else {
            return self.candidates.push(Candidate { file, needed: bytes, why: Why::Not });
        };
        let records = live.bytes + known.holds.other_bytes;
        let needed = records.next_multiple_of(BLOCK_BYTES as u64) + BLOCK_BYTES as u64;
        let mostly_dead = needed * 2 <= bytes;
        let worth_it = wanted && needed * 8 <= bytes * 7;
        let why = if mostly_dead || overdue || worth_it {
            Why::Wanted
        } else if needed <= SMALL_BYTES {
            Why::Small
        } else {
            Why::Not
        };
        self.candidates.push(Candidate { file, needed, why });
    }

    /// Groups of adjacent segments, each of which becomes one.
    pub fn groups(&self) -> Vec<Vec<(SegmentFile, u64)>> {
        let is_wanted = |row: &Vec<Candidate>| row.iter().any(|one| one.why == Why::Wanted);
        let rows = self.rows().into_iter();
        rows.filter(|row| is_wanted(row) || is_worth_it(row)).map(files).collect()
    }

    /// Rows of adjacent candidates that fit into one segment.
    fn rows(&self) -> Vec<Vec<Candidate>> {
        let mut rows: Vec<Vec<Candidate>> = Vec::new();
        let mut room = 0;
        for candidate in &self.candidates {
            if candidate.why == Why::Not {
                room = 0;
                continue;
            }
            let records = candidate.needed - BLOCK_BYTES as u64;
            match rows.last_mut().filter(|_| records <= room) {
                Some(row) => row.push(*candidate),
                None => {
                    rows.push(vec![*candidate]);
                    room = SEGMENT_BYTES - BLOCK_BYTES as u64;
                }
            }
            room = room.saturating_sub(records);
        }
        rows
    }
}

fn files(row: Vec<Candidate>) -> Vec<(SegmentFile, u64)> {
    row.into_iter().map(|candidate| candidate.file).collect()
}

/// Together they are much larger than the largest of them: a segment is not read again and again to
/// add a little to it.
fn is_worth_it(row: &[Candidate]) -> bool {
    let sum: u64 = row.iter().map(|candidate| candidate.needed).sum();
    let largest = row.iter().map(|candidate| candidate.needed).max().unwrap_or(0);
    row.len() > 1 && (row.len() >= SMALL_MAX || (sum - largest) * 2 >= largest)
}
