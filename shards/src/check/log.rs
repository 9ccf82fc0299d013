//! The log of one shard as it is found, damage and all.
//!
//! *Invariants*: every whole record is replayed, in order; where one is not whole, reading goes on
//! at the next that is, and the records between them are missing.
//!
//! *Not here*: what a start makes of a log (`crate::recover`), which stops at the first damage.

use std::path::{Path, PathBuf};

use engram_engine::record::{Kind, View};
use engram_engine::shard::{Shard, Verdict};
use engram_engine::space::LogAddress;

use super::Checked;
use crate::error::ShardsError;
use crate::plain;
use crate::recover::{SegmentBytes, Step, holds_no_record};
use crate::segment::{
    BLOCK_BYTES, NotAHeader, SegmentHeader, is_unfinished, segment_number, segment_path,
};

/// Records that are not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Of which shard.
    pub shard: u16,
    /// The first one's sequence number.
    pub first: u64,
    /// The last one's.
    pub last: u64,
}

/// First sequence number of a segment whose header can't be read, until it is found out.
const UNKNOWN: u64 = 0;

/// A segment as it was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its file.
    pub path: PathBuf,
    /// Its header, or what that has to be.
    pub header: SegmentHeader,
    /// Sequence number of the last record that it holds or held, where others are behind it.
    pub end_sequence: Option<u64>,
    /// It can't be left as it is.
    pub damaged: bool,
    /// Compaction replaced it: it is not read.
    pub replaced: bool,
}

/// A log that was read.
#[derive(Debug, Default)]
pub struct LogCheck {
    /// Segments, in order.
    pub segments: Vec<Found>,
    /// Sequence number of the last record there is.
    pub last_sequence: u64,
}

impl LogCheck {
    /// Reads a log into a shard.
    ///
    /// # Errors
    /// [`ShardsError`] where a file can't be read at all, or is of a version that is not known.
    pub fn read(
        folder: &Path,
        expected: SegmentHeader,
        shard: &mut Shard,
        checked: &mut Checked,
        mut progress: impl FnMut(u64),
    ) -> Result<Self, ShardsError> {
        let mut log = Self::list(folder, expected, checked)?;
        log.join(expected.shard, checked);
        let mut last_sequence = 0;
        for at in 0..log.segments.len() {
            let found = &mut log.segments[at];
            if found.replaced {
                continue;
            }
            if found.header.first_sequence == UNKNOWN {
                found.header.first_sequence = last_sequence + 1;
            }
            let mut segment = found.load()?;
            checked.segments += 1;
            checked.log_bytes += segment.bytes_in_all();
            progress(checked.log_bytes);
            found.damaged |= !replay(&mut segment, shard, expected.shard, checked);
            last_sequence = segment.last_sequence().max(last_sequence);
        }
        log.check_horizons(last_sequence, checked);
        log.last_sequence = last_sequence;
        Ok(log)
    }

    fn list(
        folder: &Path,
        expected: SegmentHeader,
        checked: &mut Checked,
    ) -> Result<Self, ShardsError> {
        if !folder.is_dir() {
            let what = "the folder of a shard's log is not there";
            checked.find(folder, 0, what);
            return Ok(Self::default());
        }
        let files = plain::list(folder)?;
        for path in files.iter().filter(|path| is_unfinished(path)) {
            checked.find_harmless(path, "a compaction was interrupted; a start removes this");
        }
        let mut numbers: Vec<u32> = files.iter().filter_map(|path| segment_number(path)).collect();
        numbers.sort_unstable();
        let last = numbers.last().copied();
        let is_last = |number: u32| last == Some(number);
        let mut segments = Vec::new();
        for number in numbers {
            let path = segment_path(folder, number);
            let start = plain::load(&path, 2 * BLOCK_BYTES as u64)?;
            let ours = |header: &SegmentHeader| {
                header.directory == expected.directory
                    && header.shard == expected.shard
                    && header.generation == expected.generation
                    && header.segment == number
            };
            let header = match SegmentHeader::read(&start) {
                Err(NotAHeader::Version(version)) => {
                    return Err(ShardsError::Version { path, version });
                }
                Ok(header) if ours(&header) => Some(header),
                Ok(_) => {
                    checked.find(&path, 0, "it belongs to another shard, directory or place");
                    None
                }
                // Set aside for what comes, or begun in the moment of a crash: a start removes it.
                Err(NotAHeader::Damaged) if is_last(number) && holds_no_record(&start) => continue,
                Err(NotAHeader::Damaged) => {
                    checked.find(&path, 0, "its header is damaged");
                    None
                }
            };
            let damaged = header.is_none();
            let unknown = SegmentHeader { segment: number, first_sequence: UNKNOWN, ..expected };
            let header = header.unwrap_or(unknown);
            let (end_sequence, replaced) = (None, false);
            segments.push(Found { path, header, end_sequence, damaged, replaced });
        }
        Ok(Self { segments, last_sequence: 0 })
    }

    /// Says of each segment where it has to end, and whether one is missing behind it.
    fn join(&mut self, shard: u16, checked: &mut Checked) {
        let mut before: Option<usize> = None;
        for at in 0..self.segments.len() {
            let header = self.segments[at].header;
            let known = header.first_sequence != UNKNOWN;
            let Some(last) = before else {
                if known && header.first_sequence > 1 {
                    let path = self.segments[at].path.clone();
                    checked.find(&path, 0, "the segments before it are missing");
                    checked.missing.push(Missing {
                        shard,
                        first: 1,
                        last: header.first_sequence - 1,
                    });
                    self.segments[at].damaged = true;
                }
                before = Some(at);
                continue;
            };
            let previous = self.segments[last].header;
            if known && previous.holds_what_was_in(&header) {
                let path = self.segments[at].path.clone();
                checked.find_harmless(&path, "compaction has replaced it; a start removes this");
                self.segments[at].replaced = true;
                continue;
            }
            if known {
                self.segments[last].end_sequence = Some(header.first_sequence - 1);
                if !previous.is_followed_by(&header) && !self.segments[last].damaged {
                    let path = self.segments[last].path.clone();
                    checked.find(&path, 0, "the segment behind it is missing");
                    self.segments[last].damaged = true;
                }
            }
            before = Some(at);
        }
    }

    fn check_horizons(&mut self, last_sequence: u64, checked: &mut Checked) {
        let horizon = |found: &Found| found.header.compacted.map_or(0, |c| c.horizon);
        for found in self.segments.iter_mut().filter(|found| horizon(found) > last_sequence) {
            let what = format!(
                "records were taken out of it that later ones replace, up to {}, but the log ends \
                 with {last_sequence}",
                horizon(found)
            );
            checked.find(&found.path, 0, what);
            found.damaged = true;
        }
    }

    /// Counts what was forgotten and is still there: what it was replaced by has been read.
    ///
    /// # Errors
    /// [`ShardsError`] where a file can't be read any more.
    pub fn count_forgotten(&self, shard: &Shard, checked: &mut Checked) -> Result<(), ShardsError> {
        for found in self.segments.iter().filter(|found| !found.replaced) {
            each_record(found, |view, address| {
                let stores = matches!(view.kind, Kind::Put | Kind::Demote);
                if stores && matches!(shard.verdict(view, address), Ok(Verdict::Dead)) {
                    checked.forgotten_records += 1;
                    checked.forgotten_bytes += view.bytes() as u64;
                }
            })?;
        }
        Ok(())
    }

    /// A start would refuse it as it is.
    pub fn needs_repair(&self) -> bool {
        self.segments.iter().any(|found| found.damaged)
    }
}

/// Hands on every whole record of a segment.
///
/// # Errors
/// [`ShardsError`] where the file can't be read.
pub fn each_record(
    found: &Found,
    mut apply: impl FnMut(&View<'_>, LogAddress),
) -> Result<(), ShardsError> {
    let mut segment = found.load()?;
    loop {
        let step = segment.step_with(|view, address| {
            apply(view, address);
            Ok(())
        });
        match step {
            Ok(Step::Record) => {}
            Ok(Step::End) => return Ok(()),
            Err(_) => drop(segment.skip_damage()),
        }
    }
}

impl Found {
    fn load(&self) -> Result<SegmentBytes, ShardsError> {
        let bytes = plain::load(&self.path, u64::MAX)?;
        let behind = self.end_sequence.map(|end| end + 1);
        Ok(SegmentBytes::new(self.path.clone(), self.header, bytes, behind))
    }
}

/// Replays a segment; whether it was whole.
fn replay(segment: &mut SegmentBytes, shard: &mut Shard, me: u16, checked: &mut Checked) -> bool {
    let mut whole = true;
    loop {
        let step = segment.step_with(|view, address| {
            shard.replay(view, address)?;
            checked.records += 1;
            Ok(())
        });
        match step {
            Ok(Step::Record) => {}
            Ok(Step::End) => return whole,
            Err(error) => {
                whole = false;
                checked.find_error(error);
                let (first, last) = segment.skip_damage();
                if last >= first {
                    checked.missing.push(Missing { shard: me, first, last });
                }
            }
        }
    }
}
