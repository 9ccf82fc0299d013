//! Reading a log back at start-up.
//!
//! *Invariants*: records are replayed without a gap; what was torn off the end was never
//! acknowledged; damage in front of what was acknowledged is an error and never skipped.
//!
//! *Not here*: what a record does to a shard (`engram_engine::shard`).

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use engram_engine::record::{self, Damage, View};
use engram_engine::shard::Shard;
use engram_engine::space::LogAddress;

use crate::directory::sync_directory;
use crate::error::ShardsError;
use crate::log::LogStart;
use crate::segment::{
    BLOCK_BYTES, NotAHeader, SegmentHeader, VERSION, segment_number, segment_path,
};

/// How long recovery waits for writes of a dead process to reach the disk.
const GHOST_WRITES_WAIT: Duration = Duration::from_secs(30);

/// A segment as it was found.
struct Found {
    path: PathBuf,
    header: SegmentHeader,
    file: File,
}

/// A log that is being read back.
pub struct Recovery {
    folder: PathBuf,
    expected: SegmentHeader,
    segments: Vec<Found>,
    next_segment: usize,
    last_sequence: u64,
    next_batch: u32,
    bytes: u64,
}

/// A segment that was read, to be replayed record by record.
pub struct SegmentBytes {
    path: PathBuf,
    header: SegmentHeader,
    bytes: Vec<u8>,
    /// Sequence number of the first record of the segment behind it.
    end_sequence: Option<u64>,
    at: usize,
    batch: u32,
    next_sequence: u64,
}

/// What one step of a replay found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A record was replayed.
    Record,
    /// The segment is over.
    End,
}

impl Recovery {
    /// Looks for segments in a shard's folder; waits for a dead process's last writes.
    ///
    /// # Errors
    /// [`ShardsError`], where files are missing, foreign or of another version.
    pub fn open(folder: &Path, expected: SegmentHeader) -> Result<Self, ShardsError> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(folder).map_err(ShardsError::io("list", folder))? {
            let path = entry.map_err(ShardsError::io("list", folder))?.path();
            numbers.extend(segment_number(&path));
        }
        numbers.sort_unstable();
        let mut segments = Vec::new();
        for (i, number) in numbers.iter().enumerate() {
            let last = i + 1 == numbers.len();
            segments.extend(open_segment(folder, *number, &expected, last)?);
        }
        for pair in segments.windows(2) {
            if pair[1].header.segment != pair[0].header.segment + 1 {
                let reason = "the segment before it is missing".to_owned();
                let path = pair[1].path.clone();
                return Err(ShardsError::Damaged { path, offset: 0, reason });
            }
        }
        Ok(Self {
            folder: folder.to_owned(),
            expected,
            segments,
            next_segment: 0,
            last_sequence: 0,
            next_batch: 0,
            bytes: 0,
        })
    }

    /// Share of the segments that were read, in units of 1/1000.
    pub fn progress(&self) -> u64 {
        (self.next_segment * 1000 / self.segments.len().max(1)) as u64
    }

    /// Reads the next segment into memory.
    ///
    /// # Errors
    /// [`ShardsError::Io`].
    pub fn next_segment(&mut self) -> Result<Option<SegmentBytes>, ShardsError> {
        let Some(found) = self.segments.get(self.next_segment) else { return Ok(None) };
        let behind = self.segments.get(self.next_segment + 1);
        let bytes = fs::read(&found.path).map_err(ShardsError::io("read", &found.path))?;
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
        Ok(Some(SegmentBytes {
            path: found.path.clone(),
            header: found.header,
            bytes,
            end_sequence: behind.map(|b| b.header.first_sequence),
            at: BLOCK_BYTES,
            batch: found.header.first_batch,
            next_sequence: first,
        }))
    }

    /// A segment was replayed to its end: what lies behind is cut off.
    ///
    /// # Errors
    /// [`ShardsError::Io`].
    pub fn segment_done(&mut self, segment: &SegmentBytes) -> Result<(), ShardsError> {
        self.last_sequence = segment.next_sequence - 1;
        self.next_batch = segment.batch.wrapping_add(1);
        let end = segment.at.next_multiple_of(BLOCK_BYTES).min(segment.bytes.len());
        self.bytes += end as u64;
        if end < segment.bytes.len() {
            let file = &self.segments[self.next_segment - 1].file;
            file.set_len(end as u64).map_err(ShardsError::io("truncate", &segment.path))?;
            file.sync_all().map_err(ShardsError::io("sync", &segment.path))?;
        }
        Ok(())
    }

    /// Everything was replayed: where the log goes on. An empty last segment is removed, so that
    /// restarts do not pile them up.
    ///
    /// # Errors
    /// [`ShardsError::Io`].
    pub fn finish(mut self) -> Result<(LogStart, u64), ShardsError> {
        let mut segment = self.segments.last().map_or(1, |s| s.header.segment + 1);
        let empty = self.segments.last().filter(|s| s.header.first_sequence > self.last_sequence);
        if let Some(found) = empty {
            fs::remove_file(&found.path).map_err(ShardsError::io("remove", &found.path))?;
            sync_directory(&self.folder)?;
            segment -= 1;
            self.bytes -= (BLOCK_BYTES as u64).min(self.bytes);
        }
        let header = SegmentHeader { segment, first_batch: self.next_batch, ..self.expected };
        Ok((LogStart { header, last_sequence: self.last_sequence }, self.bytes))
    }
}

impl SegmentBytes {
    /// Replays the next record.
    ///
    /// # Errors
    /// [`ShardsError::Damaged`] where a record that was acknowledged is not whole.
    pub fn step(&mut self, shard: &mut Shard) -> Result<Step, ShardsError> {
        if self.end_sequence == Some(self.next_sequence) {
            return Ok(Step::End);
        }
        let rest = self.bytes.get(self.at..).unwrap_or(&[]);
        match View::read(rest) {
            Ok(view) if self.belongs(&view) => {
                let address = LogAddress {
                    segment: self.header.segment,
                    offset: u32::try_from(self.at).expect("a segment is far below 4 GiB"),
                    head_bytes: u32::try_from(record::HEADER_BYTES + view.head.len())
                        .expect("the record lies within the segment"),
                    tail_bytes: u32::try_from(view.tail.len())
                        .expect("the record lies within the segment"),
                };
                let (bytes, batch) = (view.bytes(), view.header.batch);
                shard.replay(&view, address).map_err(|damage| self.damaged(&damage))?;
                self.at += bytes;
                self.batch = batch;
                self.next_sequence += 1;
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
        let torn_batch = if self.at == block { self.batch.wrapping_add(1) } else { self.batch };
        let acknowledged = self.end_sequence.is_some() || self.later_batch_after(torn_batch);
        if acknowledged {
            return Err(self.damaged(&Damage::Checksum));
        }
        Ok(Step::End)
    }

    fn belongs(&self, view: &View<'_>) -> bool {
        view.header.epoch == self.header.epoch() && view.header.sequence == self.next_sequence
    }

    /// A whole record of a batch after `torn` lies behind: then `torn` had been synced.
    fn later_batch_after(&self, torn: u32) -> bool {
        let first = self.at.next_multiple_of(BLOCK_BYTES);
        (first..self.bytes.len()).step_by(BLOCK_BYTES).any(|at| {
            record::read_head(&self.bytes[at..])
                .is_ok_and(|(header, _)| header.epoch == self.header.epoch() && header.batch > torn)
        })
    }

    fn damaged(&self, damage: &Damage) -> ShardsError {
        ShardsError::Damaged {
            path: self.path.clone(),
            offset: self.at as u64,
            reason: damage.to_string(),
        }
    }
}

fn open_segment(
    folder: &Path,
    number: u32,
    expected: &SegmentHeader,
    last: bool,
) -> Result<Option<Found>, ShardsError> {
    let path = segment_path(folder, number);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path)
        .map_err(ShardsError::io("open", &path))?;
    wait_for_ghost_writes(&file, &path)?;
    let mut block = [0u8; BLOCK_BYTES];
    let whole = std::os::unix::fs::FileExt::read_exact_at(&file, &mut block, 0);
    let header =
        match whole.map_err(|_| NotAHeader::Damaged).and_then(|()| SegmentHeader::read(&block)) {
            Ok(header) => header,
            Err(NotAHeader::Version(version)) => {
                return Err(ShardsError::Version { path, version });
            }
            // The last segment's header is synced before its first record: no record can be lost.
            Err(NotAHeader::Damaged) if last && holds_no_record(&file) => {
                fs::remove_file(&path).map_err(ShardsError::io("remove", &path))?;
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
    Ok(Some(Found { path, header, file }))
}

fn holds_no_record(file: &File) -> bool {
    let mut head = vec![0u8; BLOCK_BYTES];
    let read = std::os::unix::fs::FileExt::read_at(file, &mut head, BLOCK_BYTES as u64);
    read.is_ok_and(|count| head[..count].iter().all(|byte| *byte == 0))
}

fn wait_for_ghost_writes(file: &File, path: &Path) -> Result<(), ShardsError> {
    let started = Instant::now();
    loop {
        // SAFETY: flock takes a descriptor that is open for the length of the call.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Ok(());
        }
        let error = std::io::Error::last_os_error();
        let busy = error.kind() == std::io::ErrorKind::WouldBlock;
        if !busy || started.elapsed() > GHOST_WRITES_WAIT {
            return Err(ShardsError::io("lock", path)(error));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
