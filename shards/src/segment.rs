//! A segment of a log: its header, and the records behind it.
//!
//! *Invariants*: a segment starts with one block of header; records follow in batches that start
//! at block boundaries; a record belongs to its segment by the epoch in its checksummed header.
//!
//! *Not here*: writing (`log`), what a record says (`engram_engine::record`).

use std::path::{Path, PathBuf};

use crate::directory::Manifest;

/// Bytes of a block: the unit of O_DIRECT and of padding.
pub const BLOCK_BYTES: usize = 4096;
/// Bytes of a segment.
pub const SEGMENT_BYTES: u64 = 32 << 20;
/// Free bytes of the disk that a shard's writes leave: its next segment.
pub const DISK_RESERVE_BYTES: u64 = SEGMENT_BYTES;
const MAGIC: [u8; 8] = *b"ENGRAMLG";
/// Ending of the name of a segment that is being made.
const UNFINISHED: &str = "compacting";
/// Version of the segment format; version 1, which has no nonce and is never compacted, is read too.
pub const VERSION: u32 = 2;
/// Bytes in front of the checksum, by version.
const CHECKED_BYTES: [usize; 2] = [44, 76];

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The directory that it belongs to.
    pub directory: u64,
    /// The shard that wrote it.
    pub shard: u16,
    /// The generation that it belongs to.
    pub generation: u32,
    /// Its number, rising from 1.
    pub segment: u32,
    /// Sequence number of its first record.
    pub first_sequence: u64,
    /// Number of its first batch.
    pub first_batch: u32,
    /// Drawn when the process that made it started: tells it from one of the same number in another
    /// history of the same directory, such as a copy that was restored. 0 in version 1.
    pub nonce: u64,
    /// What compaction left of it.
    pub compacted: Option<Compacted>,
}

/// A segment from which dead records were taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// How often it was compacted, from 1.
    pub edition: u32,
    /// Sequence number of the last record that it had when it was whole.
    pub end_sequence: u64,
    /// Sequence number of the last record of the log when it was decided which records are dead.
    pub horizon: u64,
    /// Records that are left.
    pub records: u32,
}

/// Why bytes are no header of this program's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAHeader {
    /// Not the magic bytes, or the checksum does not fit.
    Damaged,
    /// Another version.
    Version(u32),
}

impl SegmentHeader {
    /// The first segment of a shard's log.
    pub fn first(manifest: &Manifest, shard: u16, nonce: u64) -> Self {
        Self {
            directory: manifest.directory,
            shard,
            generation: manifest.generation,
            segment: 1,
            first_sequence: 1,
            first_batch: 0,
            nonce,
            compacted: None,
        }
    }

    /// The first block of the segment.
    pub fn block(&self) -> [u8; BLOCK_BYTES] {
        let mut block = [0; BLOCK_BYTES];
        block[..8].copy_from_slice(&MAGIC);
        block[8..12].copy_from_slice(&VERSION.to_le_bytes());
        block[12..20].copy_from_slice(&self.directory.to_le_bytes());
        block[20..22].copy_from_slice(&self.shard.to_le_bytes());
        block[24..28].copy_from_slice(&self.generation.to_le_bytes());
        block[28..32].copy_from_slice(&self.segment.to_le_bytes());
        block[32..40].copy_from_slice(&self.first_sequence.to_le_bytes());
        block[40..44].copy_from_slice(&self.first_batch.to_le_bytes());
        block[44..52].copy_from_slice(&self.nonce.to_le_bytes());
        if let Some(Compacted { edition, end_sequence, horizon, records }) = self.compacted {
            block[52..56].copy_from_slice(&edition.to_le_bytes());
            block[56..64].copy_from_slice(&end_sequence.to_le_bytes());
            block[64..72].copy_from_slice(&horizon.to_le_bytes());
            block[72..76].copy_from_slice(&records.to_le_bytes());
        }
        let checksum = crc32c::crc32c(&block[..76]);
        block[76..80].copy_from_slice(&checksum.to_le_bytes());
        block
    }

    /// Reads the first block.
    ///
    /// # Errors
    /// [`NotAHeader`].
    pub fn read(block: &[u8]) -> Result<Self, NotAHeader> {
        let block = block.get(..80).ok_or(NotAHeader::Damaged)?;
        let u32_at =
            |at: usize| u32::from_le_bytes(block[at..at + 4].try_into().expect("four bytes of 80"));
        let u64_at = |at: usize| {
            u64::from_le_bytes(block[at..at + 8].try_into().expect("eight bytes of 80"))
        };
        if block[..8] != MAGIC {
            return Err(NotAHeader::Damaged);
        }
        let version = u32_at(8);
        if !(1..=VERSION).contains(&version) {
            return Err(NotAHeader::Version(version));
        }
        let checked = CHECKED_BYTES[version as usize - 1];
        if crc32c::crc32c(&block[..checked]) != u32_at(checked) {
            return Err(NotAHeader::Damaged);
        }
        let compacted = (version > 1 && u32_at(52) > 0).then(|| Compacted {
            edition: u32_at(52),
            end_sequence: u64_at(56),
            horizon: u64_at(64),
            records: u32_at(72),
        });
        Ok(Self {
            directory: u64_at(12),
            shard: u16::from_le_bytes([block[20], block[21]]),
            generation: u32_at(24),
            segment: u32_at(28),
            first_sequence: u64_at(32),
            first_batch: u32_at(40),
            nonce: if version > 1 { u64_at(44) } else { 0 },
            compacted,
        })
    }

    /// Changes when records of the segment come to lie elsewhere; 0 while they lie where they were
    /// written.
    pub fn layout(&self) -> u64 {
        let Some(Compacted { edition, .. }) = self.compacted else { return 0 };
        let place = u64::from(self.segment) << 32 | u64::from(edition);
        place.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    /// Compaction put what was in the other one, which was behind it, into this one.
    pub fn holds_what_was_in(&self, other: &Self) -> bool {
        self.compacted.is_some_and(|compacted| other.first_sequence <= compacted.end_sequence)
    }

    /// No segment is missing between this one and the other.
    pub fn is_followed_by(&self, other: &Self) -> bool {
        match self.compacted {
            Some(compacted) => other.first_sequence == compacted.end_sequence + 1,
            None => other.segment == self.segment + 1,
        }
    }

    /// What ties a record to this segment.
    pub fn epoch(&self) -> u16 {
        let mut bytes = [0u8; 18];
        bytes[..8].copy_from_slice(&self.directory.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.shard.to_le_bytes());
        bytes[10..14].copy_from_slice(&self.generation.to_le_bytes());
        bytes[14..].copy_from_slice(&self.segment.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes);
        (checksum ^ (checksum >> 16)) as u16
    }
}

/// The file of a segment.
pub fn segment_path(folder: &Path, segment: u32) -> PathBuf {
    folder.join(format!("{segment:010}.log"))
}

/// The file in which the next edition of a segment is written; it has its name when it is whole.
pub fn unfinished_path(folder: &Path, segment: u32) -> PathBuf {
    folder.join(format!("{segment:010}.{UNFINISHED}"))
}

/// Compaction was interrupted before the file was whole.
pub fn is_unfinished(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == UNFINISHED)
}

/// The number of a segment by its file's name.
pub fn segment_number(path: &Path) -> Option<u32> {
    let name = path.file_name()?.to_str()?.strip_suffix(".log")?;
    (name.len() == 10).then(|| name.parse().ok()).flatten()
}
