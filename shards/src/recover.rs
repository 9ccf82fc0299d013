//! Reading a log back at start-up.
//!
//! *Invariants*: records are replayed without a gap; what was torn off the end was never
//! acknowledged; damage in front of what was acknowledged is an error and never skipped.
//!
//! *Not here*: what a record does to a shard (`engram_engine::shard`).

use std::path::{Path, PathBuf};

use engram_engine::image;
use engram_engine::record::{self, Damage, View};
use engram_engine::shard::Shard;
use engram_engine::space::LogAddress;

use crate::disk::Disk;
use crate::error::ShardsError;
use crate::log::{LogPlace, LogStart, SegmentFile};
use crate::segment::{
    BLOCK_BYTES, Compacted, NotAHeader, SegmentHeader, VERSION, is_unfinished, segment_number,
    segment_path,
};

/// A segment as it was found; nobody else writes it while this is held.
struct Found<H> {
    path: PathBuf,
    header: SegmentHeader,
    _held: H,
}

/// A log that is being read back.
pub struct Recovery<D: Disk> {
    disk: D,
    folder: PathBuf,
    expected: SegmentHeader,
    segments: Vec<Found<D::Held>>,
    next_segment: usize,
    last_sequence: u64,
    next_batch: u32,
    log_bytes: u64,
}

/// A segment that was read, to be replayed record by record.
pub struct SegmentBytes {
    path: PathBuf,
    header: SegmentHeader,
    bytes: Vec<u8>,
    /// Sequence number of the first record of the segment behind it.
    end_sequence: Option<u64>,
    /// Where replaying began.
    from: usize,
    at: usize,
    batch: u32,
    next_sequence: u64,
    records: u32,
    /// Damage was skipped, and nothing whole lies behind it.
    over: bool,
    /// Damage was skipped.
    skipped: bool,
}

/// What one step of a replay found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A record was replayed.
    Record,
    /// The segment is over.
    End,
}

impl<D: Disk> Recovery<D> {
    /// Looks for segments in a shard's folder; waits for a dead process's last writes.
    ///
    /// # Errors
    /// [`ShardsError`], where files are missing, foreign or of another version.
    pub async fn open(
        disk: D,
        folder: &Path,
        expected: SegmentHeader,
    ) -> Result<Self, ShardsError> {
        let files = disk.list(folder).await?;
        let mut numbers: Vec<u32> = files.iter().filter_map(|path| segment_number(path)).collect();
        numbers.sort_unstable();
        let mut segments: Vec<Found<D::Held>> = Vec::new();
        let mut replaced: Vec<PathBuf> = Vec::new();
        for (i, number) in numbers.iter().enumerate() {
            let last = i + 1 == numbers.len();
            let Some(found) = open_segment(&disk, folder, *number, &expected, last).await? else {
                continue;
            };
            let before = segments.last().map(|before| before.header);
            if before.is_none() && found.header.first_sequence > 1 {
                let reason = "the segments before it are missing".to_owned();
                return Err(ShardsError::Damaged { path: found.path, offset: 0, reason });
            }
            if before.is_some_and(|before| before.holds_what_was_in(&found.header)) {
                // Compaction had replaced it, and did not come to removing it.
                replaced.push(found.path);
            } else if before.is_some_and(|before| !before.is_followed_by(&found.header)) {
                let reason = "the segment before it is missing".to_owned();
                return Err(ShardsError::Damaged { path: found.path, offset: 0, reason });
            } else {
                segments.push(found);
            }
        }
        if !replaced.is_empty() {
            // The process may have died before it made the name of what replaces them durable.
            disk.sync_directory(folder).await?;
        }
        for path in &replaced {
            disk.remove(path).await?;
        }
        for unfinished in files.iter().filter(|path| is_unfinished(path)) {
            disk.remove(unfinished).await?;
        }
        Ok(Self {
            disk,
            folder: folder.to_owned(),
            expected,
            segments,
            next_segment: 0,
            last_sequence: 0,
            next_batch: 0,
            log_bytes: 0,
        })
    }

    /// Share of the log that was replayed, the segment under way included, in units of 1/1000.
    pub fn progress(&self, segment: &SegmentBytes) -> u64 {
        let within = segment.at * 1000 / segment.bytes.len().max(1);
        (((self.next_segment - 1) * 1000 + within) / self.segments.len().max(1)) as u64
    }

    /// Looks for the place of an image: the segment that holds its last record, read up to behind
    /// it; `None` where the image is older than the log. The inner error says why there is none.
    ///
    /// # Errors
    /// [`ShardsError`], where the log itself can't be used.
    pub async fn seek(
        &mut self,
        header: &image::Header,
    ) -> Result<Result<Option<SegmentBytes>, &'static str>, ShardsError> {
        self.rewind();
        if header.layout != self.place(header.segment).layout {
            return Ok(Err("records were moved since"));
        }
        if header.segment == 0 {
            let starts = self.segments.first().is_none_or(|s| s.header.first_sequence == 1);
            return Ok(if starts { Ok(None) } else { Err("the log begins later") });
        }
        let Some(at) = self.segments.iter().position(|s| s.header.segment == header.segment) else {
            return Ok(Err("its segment is not there"));
        };
        if self.segments[at].header.nonce != header.nonce {
            return Ok(Err("the log has another history"));
        }
        let behind = header.sequence + 1;
        let next = self.segments.get(at + 1).map(|next| next.header.first_sequence);
        if self.segments[at].header.first_sequence > behind || next.is_some_and(|n| n < behind) {
            return Ok(Err("its last record is not where it was"));
        }
        for skipped in &self.segments[..at] {
            self.log_bytes += self.disk.size(&skipped.path).await?;
        }
        self.next_segment = at;
        self.last_sequence = self.segments[at].header.first_sequence - 1;
        let Some(mut segment) = self.next_segment().await? else { unreachable!("it is there") };
        while segment.next_sequence < behind {
            if segment.step_with(|_, _| Ok(()))? == Step::End {
                return Ok(Err("the log ends before it"));
            }
        }
        segment.from = segment.at;
        Ok(Ok(Some(segment)))
    }

    /// Begins at the first segment again.
    pub fn rewind(&mut self) {
        (self.next_segment, self.last_sequence, self.next_batch, self.log_bytes) = (0, 0, 0, 0);
    }

    /// The segments up to one, as an image names them.
    fn place(&self, up_to: u32) -> LogPlace {
        let counted = self.segments.iter().filter(|s| s.header.segment <= up_to);
        let layout = counted.clone().fold(0, |sum: u64, s| sum.wrapping_add(s.header.layout()));
        let last = counted.last().map(|s| s.header);
        LogPlace {
            segment: last.map_or(0, |header| header.segment),
            nonce: last.map_or(0, |header| header.nonce),
            layout,
        }
    }

    /// Reads the next segment into memory.
    ///
    /// # Errors
    /// [`ShardsError::Io`].
    pub async fn next_segment(&mut self) -> Result<Option<SegmentBytes>, ShardsError> {
        let Some(found) = self.segments.get(self.next_segment) else { return Ok(None) };
        let behind = self.segments.get(self.next_segment + 1);
        let bytes = self.disk.load(&found.path, u64::MAX).await?;
        let first = found.header.first_sequence;
        if self.next_segment > 0 && first != self.last_sequence + 1 {
            return Err(ShardsError::Damaged {
                path: found.path.clone(),
                offset: 0,
                reason: format!(
                    "it starts with record {first}, the one before ended with {}",
                    self.last_sequence
                ),
            });
        }
        self.last_sequence = first - 1;
        self.next_segment += 1;
        let behind = behind.map(|behind| behind.header.first_sequence);
        Ok(Some(SegmentBytes::new(found.path.clone(), found.header, bytes, behind)))
    }

    /// A segment was replayed to its end: what lies behind is cut off.
    ///
    /// # Errors
    /// [`ShardsError::Io`].
    pub async fn segment_done(&mut self, segment: &SegmentBytes) -> Result<(), ShardsError> {
        self.last_sequence = segment.next_sequence - 1;
        self.next_batch = segment.batch.wrapping_add(1);
        let end = segment.at.next_multiple_of(BLOCK_BYTES).min(segment.bytes.len());
        self.log_bytes += end as u64;
        // What was read of the last segment may have been written and never synced.
        if end < segment.bytes.len() || segment.end_sequence.is_none() {
            self.disk.truncate(&segment.path, end as u64).await?;
        }
        Ok(())
    }

    /// Everything was replayed: where the log goes on. An empty last segment is removed, so that
    /// restarts do not pile them up.
    ///
    /// # Errors
    /// [`ShardsError::Io`].
    pub async fn finish(mut self) -> Result<LogStart, ShardsError> {
        self.check_horizons()?;
        let mut segment = self.segments.last().map_or(1, |s| s.header.segment + 1);
        let empty = self.segments.last().filter(|s| s.header.first_sequence > self.last_sequence);
        if let Some(found) = empty {
            self.disk.remove(&found.path).await?;
            self.disk.sync_directory(&self.folder).await?;
            segment -= 1;
            self.log_bytes -= (BLOCK_BYTES as u64).min(self.log_bytes);
        }
        let header = SegmentHeader { segment, first_batch: self.next_batch, ..self.expected };
        let (last_sequence, log_bytes) = (self.last_sequence, self.log_bytes);
        let last_place = self.place(segment - 1);
        let mut segments = Vec::with_capacity(self.segments.len());
        for found in self.segments.iter().filter(|found| found.header.segment < segment) {
            let bytes = self.disk.size(&found.path).await?;
            segments.push(SegmentFile { header: found.header, bytes });
        }
        Ok(LogStart { header, last_sequence, log_bytes, last_place, segments })
    }
}

impl<D: Disk> Recovery<D> {
    /// Records were found dead for the sake of later ones, which have to be there.
    fn check_horizons(&self) -> Result<(), ShardsError> {
        let horizon = |found: &&Found<D::Held>| found.header.compacted.map_or(0, |c| c.horizon);
        let Some(last) = self.segments.iter().max_by_key(horizon) else { return Ok(()) };
        let (needed, there) = (horizon(&last), self.last_sequence);
        if needed <= there {
            return Ok(());
        }
        let reason = format!(
            "records were taken out of it that later ones replace, up to {needed}, but the log ends \
             with {there}"
        );
        Err(ShardsError::Damaged { path: last.path.clone(), offset: 0, reason })
    }
}

impl SegmentBytes {
    /// A segment, and where the log goes on behind it.
    pub fn new(path: PathBuf, header: SegmentHeader, bytes: Vec<u8>, behind: Option<u64>) -> Self {
        Self {
            path,
            header,
            bytes,
            end_sequence: behind,
            from: BLOCK_BYTES,
            at: BLOCK_BYTES,
            batch: header.first_batch,
            next_sequence: header.first_sequence,
            records: 0,
            over: false,
            skipped: false,
        }
    }

    /// Bytes of the segment.
    pub fn bytes_in_all(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Sequence number of the last record that was handed on, or that a compacted segment covers.
    pub fn last_sequence(&self) -> u64 {
        self.next_sequence - 1
    }

    /// Goes on behind damage, at the next record that is whole; the first and the last sequence
    /// number that may be missing.
    pub fn skip_damage(&mut self) -> (u64, u64) {
        self.skipped = true;
        let first = self.next_sequence;
        let behind = self.at + record::ALIGNMENT;
        let places = (behind..self.bytes.len()).step_by(record::ALIGNMENT);
        let whole = places.into_iter().find_map(|at| Some((at, self.whole_record_at(at)?)));
        let Some((at, sequence)) = whole else {
            self.over = true;
            self.next_sequence = self.end_sequence.unwrap_or(first).max(first);
            return (first, self.next_sequence - 1);
        };
        (self.at, self.next_sequence) = (at, sequence);
        (first, sequence - 1)
    }

    /// The sequence number of the record that begins there, if it is whole and of this segment.
    fn whole_record_at(&self, at: usize) -> Option<u64> {
        let bytes = &self.bytes[at..];
        let header = record::unproven_header(bytes)?;
        // Checksums are computed only where the rest fits.
        if header.epoch != self.header.epoch() || header.version != record::VERSION {
            return None;
        }
        let in_order = header.sequence >= self.next_sequence
            && self.end_sequence.is_none_or(|end| header.sequence < end);
        (in_order && View::read(bytes).is_ok()).then_some(header.sequence)
    }

    /// Proves that the segment begins with the header that it was opened with.
    ///
    /// # Errors
    /// [`ShardsError::Damaged`].
    pub fn check_header(&self) -> Result<(), ShardsError> {
        if SegmentHeader::read(&self.bytes) == Ok(self.header) {
            return Ok(());
        }
        let reason = "its header is not what it was".to_owned();
        Err(ShardsError::Damaged { path: self.path.clone(), offset: 0, reason })
    }

    /// Bytes that were handed on: not those in front of the place of an image.
    pub fn replayed_bytes(&self) -> u64 {
        (self.at - self.from) as u64
    }

    /// Replays the next record into a shard.
    ///
    /// # Errors
    /// [`ShardsError::Damaged`] where a record that was acknowledged is not whole.
    pub fn step(&mut self, shard: &mut Shard) -> Result<Step, ShardsError> {
        self.step_with(|view, address| shard.replay(view, address))
    }

    /// Hands the next record to `apply`.
    ///
    /// # Errors
    /// As [`SegmentBytes::step`], and what `apply` says.
    pub fn step_with(
        &mut self,
        apply: impl FnOnce(&View<'_>, LogAddress) -> Result<(), Damage>,
    ) -> Result<Step, ShardsError> {
        if self.over || self.end_sequence == Some(self.next_sequence) {
            return Ok(Step::End);
        }
        if let Some(compacted) = self.header.compacted
            && self.records == compacted.records
        {
            self.next_sequence = compacted.end_sequence + 1;
            return Ok(Step::End);
        }
        let rest = self.bytes.get(self.at..).unwrap_or(&[]);
        match View::read(rest) {
            Ok(view) if self.belongs(&view) => {
                let edition = self.header.compacted.map_or(0, |compacted| compacted.edition);
                let lengths = (view.head.len(), view.tail.len());
                let address = LogAddress::new(self.header.segment, edition, self.at, lengths);
                let (bytes, batch, sequence) =
                    (view.bytes(), view.header.batch, view.header.sequence);
                apply(&view, address).map_err(|damage| self.damaged(&damage))?;
                self.at += bytes;
                self.batch = batch;
                self.next_sequence = sequence + 1;
                self.records += 1;
                Ok(Step::Record)
            }
            Err(Damage::Version(version)) => {
                Err(ShardsError::Version { path: self.path.clone(), version: u32::from(version) })
            }
            Ok(_) | Err(_) => self.at_end_of_batch(),
        }
    }

    /// No record at this place: the next batch starts at the next block, or the log is over.
    fn at_end_of_batch(&mut self) -> Result<Step, ShardsError> {
        let block = self.at.next_multiple_of(BLOCK_BYTES);
        let padded = self.bytes.get(self.at..block).is_none_or(|pad| pad.iter().all(|b| *b == 0));
        if block > self.at && padded {
            self.at = block;
            return Ok(Step::Record);
        }
        let within = self.at != block || self.records == 0;
        let torn_batch = if within { self.batch } else { self.batch.wrapping_add(1) };
        if self.skipped && self.bytes[self.at.min(self.bytes.len())..].iter().all(|b| *b == 0) {
            self.over = true;
            return Ok(Step::End);
        }
        let acknowledged = self.end_sequence.is_some()
            || self.header.compacted.is_some()
            || self.later_batch_after(torn_batch);
        if acknowledged {
            return Err(self.damaged(&Damage::Checksum));
        }
        Ok(Step::End)
    }

    fn belongs(&self, view: &View<'_>) -> bool {
        let sequence = view.header.sequence;
        let in_order = match self.header.compacted {
            None => sequence == self.next_sequence,
            Some(Compacted { end_sequence, .. }) => {
                (self.next_sequence..=end_sequence).contains(&sequence)
            }
        };
        in_order && view.header.epoch == self.header.epoch()
    }

    /// A whole record of a batch after `torn` lies behind: then `torn` had been synced.
    fn later_batch_after(&self, torn: u32) -> bool {
        let first = self.at.next_multiple_of(BLOCK_BYTES);
        (first..self.bytes.len()).step_by(BLOCK_BYTES).any(|at| {
            record::read_head(&self.bytes[at..])
                .is_ok_and(|(header, _)| header.epoch == self.header.epoch() && header.batch > torn)
        })
    }

    pub(crate) fn damaged(&self, damage: &Damage) -> ShardsError {
        ShardsError::Damaged {
            path: self.path.clone(),
            offset: self.at as u64,
            reason: damage.to_string(),
        }
    }
}

async fn open_segment<D: Disk>(
    disk: &D,
    folder: &Path,
    number: u32,
    expected: &SegmentHeader,
    last: bool,
) -> Result<Option<Found<D::Held>>, ShardsError> {
    let path = segment_path(folder, number);
    let held = disk.hold(&path).await?;
    let start = disk.load(&path, 2 * BLOCK_BYTES as u64).await?;
    let header = match SegmentHeader::read(&start) {
        Ok(header) => header,
        Err(NotAHeader::Version(version)) => {
            return Err(ShardsError::Version { path, version });
        }
        // The last segment's header is synced before its first record: no record can be lost.
        Err(NotAHeader::Damaged) if last && holds_no_record(&start) => {
            disk.remove(&path).await?;
            return Ok(None);
        }
        Err(NotAHeader::Damaged) => {
            let reason = format!("its header is not one of version {VERSION}");
            return Err(ShardsError::Damaged { path, offset: 0, reason });
        }
    };
    let ours = header.directory == expected.directory
        && header.shard == expected.shard
        && header.generation == expected.generation
        && header.segment == number;
    if !ours {
        let reason = "it belongs to another shard, directory or place".to_owned();
        return Err(ShardsError::Damaged { path, offset: 0, reason });
    }
    Ok(Some(Found { path, header, _held: held }))
}

pub(crate) fn holds_no_record(start: &[u8]) -> bool {
    start.get(BLOCK_BYTES..).is_none_or(|block| block.iter().all(|byte| *byte == 0))
}
