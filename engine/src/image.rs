//! Images: the whole state of a shard as bytes, and back, so that a restart need not replay its log.
//!
//! *Invariants*: no byte is interpreted before the checksum of its chunk fits; a chunk belongs to one
//! place of one image, and the last one says that it is the last, so that a torn or foreign image is
//! never read to its end; reading any bytes gives a state or [`Unsound`] and never panics.
//!
//! *Not here*: files, and when images are written (`shards`); what a part holds: each struct writes
//! and reads itself, beside its fields, which it takes apart without `..`, so that a field that is
//! forgotten does not compile.

use std::io::{self, Read, Write};

use bytemuck::{Pod, Zeroable};

use crate::model::{LinkKind, MemoryId, SpaceName, Timestamp};

/// Version of the framing; parts have versions of their own.
pub const VERSION: u32 = 1;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 80;
const MAGIC: [u8; 8] = *b"ENGRAMIM";
/// Bytes of a whole chunk.
const CHUNK_BYTES: usize = 1 << 20;
/// Bytes in front of a chunk: its length and its checksum.
const FRAME_BYTES: usize = 8;

/// What an image is of: the directory, and the place in the log that it was made at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The data directory.
    pub directory: u64,
    /// Its generation.
    pub generation: u32,
    /// How many shards it has.
    pub shards: u16,
    /// The shard that this is the state of.
    pub shard: u16,
    /// The set that it belongs to: images of one set fit each other.
    pub set: u64,
    /// Sequence number of the last record that is in it.
    pub sequence: u64,
    /// The segment that holds this record, 0 where there is none.
    pub segment: u32,
    /// What tells that segment from others of its number.
    pub nonce: u64,
    /// Shows that the segments' records lie where they lay: changes when one is compacted.
    pub layout: u64,
}

/// Why bytes are not an image that can be used.
#[derive(Debug)]
pub enum Unsound {
    /// They could not be read.
    Io(io::Error),
    /// They end too early.
    Torn,
    /// A checksum does not fit, or these are no bytes of an image.
    Damaged,
    /// A version that this program does not know: of the framing, or of a part.
    Version(&'static str, u32),
    /// Whole, but it contradicts itself.
    Content(&'static str),
}

impl std::fmt::Display for Unsound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => write!(f, "it can't be read: {error}"),
            Self::Torn => f.write_str("it ends too early"),
            Self::Damaged => f.write_str("a checksum does not fit"),
            Self::Version(part, version) => {
                write!(f, "version {version} of its part `{part}` is not known")
            }
            Self::Content(what) => write!(f, "it contradicts itself: {what}"),
        }
    }
}

impl std::error::Error for Unsound {}

impl From<io::Error> for Unsound {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Torn,
            _ => Self::Io(error),
        }
    }
}

impl Header {
    /// The first bytes of the image.
    pub fn bytes(&self) -> [u8; HEADER_BYTES] {
        let Self { directory, generation, shards, shard, set, sequence, segment, nonce, layout } =
            *self;
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..20].copy_from_slice(&directory.to_le_bytes());
        bytes[20..24].copy_from_slice(&generation.to_le_bytes());
        bytes[24..26].copy_from_slice(&shards.to_le_bytes());
        bytes[26..28].copy_from_slice(&shard.to_le_bytes());
        bytes[28..36].copy_from_slice(&set.to_le_bytes());
        bytes[36..44].copy_from_slice(&sequence.to_le_bytes());
        bytes[44..48].copy_from_slice(&segment.to_le_bytes());
        bytes[48..56].copy_from_slice(&nonce.to_le_bytes());
        bytes[56..64].copy_from_slice(&layout.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..HEADER_BYTES - 4]);
        bytes[HEADER_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads the first bytes of an image.
    ///
    /// # Errors
    /// [`Unsound`] where they are none, or of another version.
    pub fn read(bytes: &[u8; HEADER_BYTES]) -> Result<Self, Unsound> {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if bytes[..8] != MAGIC {
            return Err(Unsound::Damaged);
        }
        if u32_at(8) != VERSION {
            return Err(Unsound::Version("image", u32_at(8)));
        }
        if crc32c::crc32c(&bytes[..HEADER_BYTES - 4]) != u32_at(HEADER_BYTES - 4) {
            return Err(Unsound::Damaged);
        }
        Ok(Self {
            directory: u64_at(12),
            generation: u32_at(20),
            shards: u16_at(24),
            shard: u16_at(26),
            set: u64_at(28),
            sequence: u64_at(36),
            segment: u32_at(44),
            nonce: u64_at(48),
            layout: u64_at(56),
        })
    }
}

/// A struct that writes itself into an image and reads itself back.
pub trait Part: Sized {
    /// What it is called in messages; its first bytes in the image are a hash of this.
    const NAME: &'static str;
    /// Raised whenever what it writes changes.
    const VERSION: u32;

    /// Writes everything that it knows.
    fn write(&self, out: &mut Writer<'_>);

    /// Reads what [`Part::write`] wrote.
    ///
    /// # Errors
    /// [`Unsound`].
    fn read(input: &mut Reader<'_>) -> Result<Self, Unsound>;
}

/// Takes values and writes chunks. The first error is kept, and nothing is written after it.
pub struct Writer<'a> {
    out: &'a mut dyn Write,
    chunk: Vec<u8>,
    frames: Frames,
    failed: Option<io::Error>,
}

/// Which chunk is next: goes into its checksum.
struct Frames {
    seal: u32,
    number: u64,
}

impl Frames {
    fn new(header: &[u8; HEADER_BYTES]) -> Self {
        // Not of the whole header: a checksum of bytes and their checksum is always the same.
        Self { seal: crc32c::crc32c(&header[..HEADER_BYTES - 4]), number: 0 }
    }

    fn checksum(&mut self, chunk: &[u8]) -> u32 {
        let place = crc32c::crc32c_append(self.seal, &self.number.to_le_bytes());
        self.number += 1;
        crc32c::crc32c_append(place, chunk)
    }
}

impl<'a> Writer<'a> {
    pub fn new(out: &'a mut dyn Write, header: &Header) -> Self {
        let header = header.bytes();
        let failed = out.write_all(&header).err();
        let chunk = Vec::with_capacity(CHUNK_BYTES + FRAME_BYTES);
        let mut writer = Self { out, chunk, frames: Frames::new(&header), failed };
        writer.begin_chunk();
        writer
    }

    /// Writes what is left, and that it was the last.
    ///
    /// # Errors
    /// The first error of all.
    pub fn finish(mut self) -> io::Result<()> {
        self.end_chunk();
        if self.chunk.len() > FRAME_BYTES {
            unreachable!("a chunk was just ended");
        }
        let checksum = self.frames.checksum(&[]);
        let mut last = [0; FRAME_BYTES];
        last[4..].copy_from_slice(&checksum.to_le_bytes());
        if self.failed.is_none() {
            self.failed = self.out.write_all(&last).and_then(|()| self.out.flush()).err();
        }
        self.failed.map_or(Ok(()), Err)
    }

    fn begin_chunk(&mut self) {
        self.chunk.clear();
        self.chunk.extend_from_slice(&[0; FRAME_BYTES]);
    }

    fn end_chunk(&mut self) {
        let bytes = self.chunk.len() - FRAME_BYTES;
        if bytes > 0 && self.failed.is_none() {
            let length = u32::try_from(bytes).expect("a chunk is small");
            let checksum = self.frames.checksum(&self.chunk[FRAME_BYTES..]);
            self.chunk[..4].copy_from_slice(&length.to_le_bytes());
            self.chunk[4..FRAME_BYTES].copy_from_slice(&checksum.to_le_bytes());
            self.failed = self.out.write_all(&self.chunk).err();
        }
        self.begin_chunk();
    }

    pub fn raw(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = CHUNK_BYTES + FRAME_BYTES - self.chunk.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.chunk.extend_from_slice(now);
            if self.chunk.len() == CHUNK_BYTES + FRAME_BYTES {
                self.end_chunk();
            }
            bytes = later;
        }
    }

    pub fn part<P: Part>(&mut self, part: &P) {
        self.u32(part_tag(P::NAME));
        self.u32(P::VERSION);
        part.write(self);
    }

    pub fn u8(&mut self, value: u8) {
        self.raw(&[value]);
    }

    pub fn u16(&mut self, value: u16) {
        self.raw(&value.to_le_bytes());
    }

    pub fn u32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    pub fn time(&mut self, value: Timestamp) {
        self.raw(&value.0.to_le_bytes());
    }

    /// How many things follow.
    pub fn count(&mut self, count: usize) {
        self.u64(count as u64);
    }

    pub fn text(&mut self, text: &str) {
        self.u32(u32::try_from(text.len()).expect("texts are bounded far below 4 GiB"));
        self.raw(text.as_bytes());
    }

    /// How many, and they.
    pub fn pods<T: Pod>(&mut self, values: &[T]) {
        self.count(values.len());
        self.raw(bytemuck::cast_slice(values));
    }

    /// Lists of plain values: how many lists, how long each is, and all values one behind the other.
    pub fn lists<'l, T: Pod>(&mut self, lists: impl ExactSizeIterator<Item = &'l [T]> + Clone) {
        self.count(lists.len());
        for list in lists.clone() {
            self.u32(u32::try_from(list.len()).expect("a list is shorter than 2^32"));
        }
        lists.for_each(|list| self.raw(bytemuck::cast_slice(list)));
    }
}

/// Gives back what a [`Writer`] took.
pub struct Reader<'a> {
    input: &'a mut dyn Read,
    chunk: Vec<u8>,
    at: usize,
    frames: Frames,
}

type Got<T> = Result<T, Unsound>;

impl<'a> Reader<'a> {
    pub fn new(input: &'a mut dyn Read) -> Got<(Header, Self)> {
        let mut header = [0; HEADER_BYTES];
        input.read_exact(&mut header)?;
        let known = Header::read(&header)?;
        Ok((known, Self { input, chunk: Vec::new(), at: 0, frames: Frames::new(&header) }))
    }

    /// Makes sure that everything was read, and that the image was written to its end.
    pub fn finish(mut self) -> Got<()> {
        if self.at < self.chunk.len() || self.next_chunk()? > 0 {
            return Err(Unsound::Content("bytes are left over"));
        }
        Ok(())
    }

    fn next_chunk(&mut self) -> Got<usize> {
        let mut frame = [0; FRAME_BYTES];
        self.input.read_exact(&mut frame)?;
        let [a, b, c, d, checksum @ ..] = frame;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > CHUNK_BYTES {
            return Err(Unsound::Damaged);
        }
        self.chunk.resize(length, 0);
        self.input.read_exact(&mut self.chunk)?;
        self.at = 0;
        if self.frames.checksum(&self.chunk) != u32::from_le_bytes(checksum) {
            return Err(Unsound::Damaged);
        }
        Ok(length)
    }

    pub fn raw(&mut self, mut out: &mut [u8]) -> Got<()> {
        while !out.is_empty() {
            if self.at == self.chunk.len() && self.next_chunk()? == 0 {
                return Err(Unsound::Content("a part is cut off"));
            }
            let count = out.len().min(self.chunk.len() - self.at);
            let (now, later) = out.split_at_mut(count);
            now.copy_from_slice(&self.chunk[self.at..self.at + count]);
            self.at += count;
            out = later;
        }
        Ok(())
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Got<[u8; N]> {
        if let Some(bytes) = self.chunk.get(self.at..self.at + N) {
            self.at += N;
            return Ok(bytes.try_into().expect("exactly N bytes were taken"));
        }
        let mut bytes = [0; N];
        self.raw(&mut bytes)?;
        Ok(bytes)
    }

    pub fn part<P: Part>(&mut self) -> Got<P> {
        if self.u32()? != part_tag(P::NAME) {
            return Err(Unsound::Content(P::NAME));
        }
        let version = self.u32()?;
        if version != P::VERSION {
            return Err(Unsound::Version(P::NAME, version));
        }
        P::read(self)
    }

    pub fn u8(&mut self) -> Got<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u16(&mut self) -> Got<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Got<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Got<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn time(&mut self) -> Got<Timestamp> {
        Ok(Timestamp(i64::from_le_bytes(self.array()?)))
    }

    pub fn count(&mut self) -> Got<usize> {
        usize::try_from(self.u64()?).map_err(|_| Unsound::Content("a count"))
    }

    /// Room for `count` things, as far as that can be believed before they are read.
    pub fn room<T>(&self, count: usize) -> Vec<T> {
        Vec::with_capacity(count.min((64 << 20) / size_of::<T>().max(1)))
    }

    pub fn boxed_bytes(&mut self, count: usize) -> Got<Box<[u8]>> {
        self.boxed(count)
    }

    pub fn boxed<T: Pod>(&mut self, count: usize) -> Got<Box<[T]>> {
        let values = bytemuck::allocation::try_zeroed_slice_box(count);
        let mut values: Box<[T]> = values.map_err(|()| Unsound::Content("a length"))?;
        self.raw(bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }

    pub fn text(&mut self) -> Got<Box<str>> {
        let length = self.u32()? as usize;
        let bytes = self.boxed_bytes(length)?;
        let text = String::from_utf8(bytes.into_vec());
        Ok(text.map_err(|_| Unsound::Content("a text is no UTF-8"))?.into_boxed_str())
    }

    pub fn id(&mut self) -> Got<MemoryId> {
        MemoryId::new(&self.text()?).map_err(|_| Unsound::Content("an id"))
    }

    pub fn space_name(&mut self) -> Got<SpaceName> {
        SpaceName::new(&self.text()?).map_err(|_| Unsound::Content("the name of a space"))
    }

    pub fn link_kind(&mut self) -> Got<LinkKind> {
        LinkKind::new(&self.text()?).map_err(|_| Unsound::Content("a kind of links"))
    }

    pub fn pods<T: Pod>(&mut self) -> Got<Vec<T>> {
        let count = self.count()?;
        Ok(self.boxed(count)?.into_vec())
    }

    /// What [`Writer::lists`] wrote; `take` makes one list of so many values.
    pub fn lists<L>(&mut self, take: impl Fn(&mut Self, usize) -> Got<L>) -> Got<Vec<L>> {
        let lengths: Vec<u32> = self.pods()?;
        let mut lists = Vec::with_capacity(lengths.len());
        for length in lengths {
            lists.push(take(self, length as usize)?);
        }
        Ok(lists)
    }

    /// One plain value.
    #[inline]
    pub fn pod<T: Pod + Zeroable>(&mut self) -> Got<T> {
        let mut value = T::zeroed();
        self.raw(bytemuck::bytes_of_mut(&mut value))?;
        Ok(value)
    }
}

/// Fails with `what` unless a condition holds.
pub(crate) fn ensure(holds: bool, what: &'static str) -> Got<()> {
    if holds { Ok(()) } else { Err(Unsound::Content(what)) }
}

fn part_tag(name: &str) -> u32 {
    crc32c::crc32c(name.as_bytes())
}
