//! The bytes of a cold segment: blocks of records, each compressed and with a checksum of its own.
//!
//! *Invariants*: a block is proven by its checksum before it is unpacked, and never unpacks to more
//! than it says and [`BLOCK_RAW_BYTES_MAX`] allows; a segment is written once and never changed.
//!
//! *Not here*: which records go in (`shard::demotion`), where segments are kept (`engram-cold`).

use std::io::Read;

use ruzstd::decoding::StreamingDecoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::ColdSegmentId;
use crate::record::Damage;

/// Version of the format.
pub const VERSION: u32 = 1;
/// Bytes of the header of a segment.
pub const HEADER_BYTES: usize = 32;
/// Bytes in front of each block.
pub const BLOCK_HEADER_BYTES: usize = 16;
/// Records are packed into a block until it has this many bytes.
pub const BLOCK_RAW_BYTES: usize = 64 << 10;
/// Records are taken into a segment until they have this many bytes.
pub const SEGMENT_RAW_BYTES: usize = 1 << 20;
/// Largest block: one record of the largest kind, and what came before it.
pub const BLOCK_RAW_BYTES_MAX: usize = 8 << 20;
const MAGIC: [u8; 8] = *b"ENGRAMCS";

const _: () = assert!(
    crate::limits::CONTENT_BYTES_MAX
        + crate::limits::METADATA_BYTES_MAX
        + 4 * crate::limits::DIMENSIONS_MAX
        + BLOCK_RAW_BYTES
        < BLOCK_RAW_BYTES_MAX
);

/// Where a block lies in its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Offset of its header.
    pub offset: u32,
    /// Bytes, header included.
    pub bytes: u32,
}

/// Packs blocks of records into a segment: its bytes, and where each block lies.
pub fn pack(id: ColdSegmentId, records: u32, blocks: &[Vec<u8>]) -> (Vec<u8>, Vec<Extent>) {
    let mut out = Vec::new();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&id.0.to_le_bytes());
    out.extend_from_slice(&records.to_le_bytes());
    out.extend_from_slice(&length(blocks.len()).to_le_bytes());
    let checksum = crc32c::crc32c(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    let mut extents = Vec::with_capacity(blocks.len());
    for raw in blocks {
        let offset = length(out.len());
        out.extend_from_slice(&pack_block(raw));
        extents.push(Extent { offset, bytes: length(out.len()) - offset });
    }
    (out, extents)
}

/// Packs one block, header included.
pub fn pack_block(raw: &[u8]) -> Vec<u8> {
    assert!(raw.len() <= BLOCK_RAW_BYTES_MAX, "records and parts are bounded");
    let packed = compress_to_vec(raw, CompressionLevel::Fastest);
    let mut head = [0; BLOCK_HEADER_BYTES];
    head[4..8].copy_from_slice(&length(packed.len()).to_le_bytes());
    head[8..12].copy_from_slice(&length(raw.len()).to_le_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&head[4..]), &packed);
    head[..4].copy_from_slice(&checksum.to_le_bytes());
    [&head[..], &packed].concat()
}

fn length(length: usize) -> u32 {
    u32::try_from(length).expect("a segment is far below 4 GiB")
}

/// Unpacks the block at the start of `bytes`.
///
/// # Errors
/// [`Damage`] where it is not whole.
pub fn unpack(bytes: &[u8]) -> Result<Vec<u8>, Damage> {
    let head = bytes.get(..BLOCK_HEADER_BYTES).ok_or(Damage::Short)?;
    let field =
        |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes of 16"));
    let (packed_bytes, raw_bytes) = (field(4) as usize, field(8) as usize);
    let end = BLOCK_HEADER_BYTES.checked_add(packed_bytes).ok_or(Damage::Short)?;
    let packed = bytes.get(BLOCK_HEADER_BYTES..end).ok_or(Damage::Short)?;
    if crc32c::crc32c_append(crc32c::crc32c(&head[4..]), packed) != field(0) {
        return Err(Damage::Checksum);
    }
    if raw_bytes > BLOCK_RAW_BYTES_MAX {
        return Err(Damage::Content("a block is larger than any that is written"));
    }
    let decoder =
        StreamingDecoder::new(packed).map_err(|_| Damage::Content("a block is no zstd"))?;
    let mut raw = Vec::with_capacity(raw_bytes);
    let read = decoder.take(raw_bytes as u64 + 1).read_to_end(&mut raw);
    read.map_err(|_| Damage::Content("a block can't be unpacked"))?;
    if raw.len() == raw_bytes { Ok(raw) } else { Err(Damage::Content("a block of other length")) }
}

/// Reads the header of a segment: which it is, its records and its blocks.
///
/// # Errors
/// [`Damage`] where it is not one.
pub fn read_header(bytes: &[u8]) -> Result<(ColdSegmentId, u32, u32), Damage> {
    let head = bytes.get(..HEADER_BYTES).ok_or(Damage::Short)?;
    let field =
        |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes of 32"));
    if head[..8] != MAGIC || crc32c::crc32c(&head[..28]) != field(28) {
        return Err(Damage::Checksum);
    }
    if field(8) != VERSION {
        return Err(Damage::Content("a cold segment of another version"));
    }
    let id = u64::from_le_bytes(head[12..20].try_into().expect("eight bytes of 32"));
    Ok((ColdSegmentId(id), field(20), field(24)))
}

/// Checks every block of a segment; how many bytes its records have.
///
/// # Errors
/// [`Damage`] where one is not whole, or bytes are missing or left over.
pub fn check(bytes: &[u8]) -> Result<u64, Damage> {
    let (_, _, blocks) = read_header(bytes)?;
    let (mut at, mut raw_bytes) = (HEADER_BYTES, 0);
    for _ in 0..blocks {
        let rest = bytes.get(at..).ok_or(Damage::Short)?;
        raw_bytes += unpack(rest)?.len() as u64;
        let packed = u32::from_le_bytes(rest[4..8].try_into().expect("four bytes"));
        at += BLOCK_HEADER_BYTES + packed as usize;
    }
    if at == bytes.len() { Ok(raw_bytes) } else { Err(Damage::Content("bytes left over")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed() -> (Vec<u8>, Vec<Extent>) {
        let blocks = [b"abc ".repeat(5000), b"z".to_vec(), (0..=255u8).collect()];
        pack(ColdSegmentId(7), 5, &blocks)
    }

    #[test]
    fn blocks_come_back() {
        let (bytes, extents) = packed();
        assert_eq!(read_header(&bytes), Ok((ColdSegmentId(7), 5, 3)));
        assert_eq!(unpack(&bytes[extents[0].offset as usize..]), Ok(b"abc ".repeat(5000)));
        assert_eq!(unpack(&bytes[extents[1].offset as usize..]), Ok(b"z".to_vec()));
        assert_eq!(check(&bytes), Ok(20_000 + 1 + 256));
        assert!(extents[0].bytes < 2000, "what repeats is compressed");
    }

    #[test]
    fn a_flipped_bit_anywhere_is_found() {
        let (bytes, _) = packed();
        for at in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            assert!(check(&flipped).is_err(), "bit {at}");
        }
        for end in 0..bytes.len() {
            assert!(check(&bytes[..end]).is_err(), "cut at {end}");
        }
    }
}
