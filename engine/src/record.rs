//! The records of the log: how a change of state is written as bytes, and read back.
//!
//! *Invariants*: decoding any bytes returns a value or an error and never panics; a record is whole
//! (both checksums fit) or it does not exist; a memory's newest `Put` holds all of it.
//!
//! *Not here*: segments, blocks and syncing (`shards`), the picture of the bytes (docs/formats.md).

mod life;

use crate::cold::Demoted;
use crate::fixed;
use crate::key::MemoryKey;
use crate::life::run::{Run, RunId};
use crate::life::{Lived, Trace};
use crate::mesh::AutomaticKind;
use crate::model::{
    Link, LinkKind, MemoryId, Metadata, Metric, SpaceConfig, SpaceName, Timestamp, VectorEncoding,
    Weight,
};

use life::{read_pruned, read_run, read_traces, write_run, write_traces};

/// Version of the record format.
pub const VERSION: u8 = 1;
/// Bytes of a record's header.
pub const HEADER_BYTES: usize = 32;
/// Records start at multiples of this.
pub const ALIGNMENT: usize = 8;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Fills a block up; holds nothing.
    Pad = 0,
    /// A space is created or changed.
    PutSpace = 1,
    /// A space is gone with all that was in it.
    DropSpace = 2,
    /// A memory, whole; the embedding is the tail.
    Put = 3,
    /// A memory is gone.
    Delete = 4,
    /// Links of memories that exist.
    Link = 5,
    /// Links are gone.
    Unlink = 6,
    /// What use has left on memories and ways.
    Traces = 7,
    /// How long the data directory has lived.
    Lived = 8,
    /// A memory is merged into another.
    Merge = 9,
    /// Automatic links of a memory are not made.
    Prune = 10,
    /// A consolidation began or is over.
    Run = 11,
    /// What a consolidation pruned is made again.
    Unprune = 12,
    /// A memory whose content and embedding lie in the cold tier from now on.
    Demote = 13,
}

impl Kind {
    /// Every kind there is.
    pub const ALL: [Self; 14] = [
        Self::Pad,
        Self::PutSpace,
        Self::DropSpace,
        Self::Put,
        Self::Delete,
        Self::Link,
        Self::Unlink,
        Self::Traces,
        Self::Lived,
        Self::Merge,
        Self::Prune,
        Self::Run,
        Self::Unprune,
        Self::Demote,
    ];
}

/// Where a record belongs: mixed into its checksum, so that bytes of another place never pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Position of the record in its shard's history, from 1.
    pub sequence: u64,
    /// Number of the batch that it was written with.
    pub batch: u32,
    /// Derived from the directory and the segment.
    pub epoch: u16,
}

/// The header of a record: 32 bytes, little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Header {
    /// CRC-32C of the rest of the header and of the head.
    pub checksum: u32,
    /// Bytes of the head, which follows the header.
    pub head_bytes: u32,
    /// Bytes of the tail, which follows the head.
    pub tail_bytes: u32,
    /// CRC-32C of the tail.
    pub tail_checksum: u32,
    /// See [`Stamp`].
    pub sequence: u64,
    /// See [`Stamp`].
    pub batch: u32,
    /// See [`Stamp`].
    pub epoch: u16,
    /// A [`Kind`].
    pub kind: u8,
    /// [`VERSION`].
    pub version: u8,
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Fewer bytes than the record says, or than a header has.
    Short,
    /// A checksum does not fit.
    Checksum,
    /// Whole, but of a version that this program does not know.
    Version(u8),
    /// Whole, but its contents make no sense.
    Content(&'static str),
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Short => write!(f, "the record is cut off"),
            Self::Checksum => write!(f, "the checksum does not fit"),
            Self::Version(v) => write!(f, "the record has version {v}, known is {VERSION}"),
            Self::Content(what) => write!(f, "the record makes no sense: {what}"),
        }
    }
}

impl std::error::Error for Damage {}

/// A record's contents before it has a place in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// What it is.
    pub kind: Kind,
    /// Contents but for the tail.
    pub head: Vec<u8>,
    /// The embedding of a memory, empty elsewhere.
    pub tail: Vec<u8>,
}

/// Bytes of a record with `head` and `tail` bytes, rounded up to [`ALIGNMENT`].
pub fn record_bytes(head: usize, tail: usize) -> usize {
    (HEADER_BYTES + head + tail).next_multiple_of(ALIGNMENT)
}

impl Draft {
    /// Bytes that it takes in the log.
    pub fn bytes(&self) -> usize {
        record_bytes(self.head.len(), self.tail.len())
    }

    /// Appends header, head, tail and padding to `out`.
    pub fn write(&self, stamp: Stamp, out: &mut Vec<u8>) {
        let mut header = Header {
            checksum: 0,
            head_bytes: length_u32(self.head.len()),
            tail_bytes: length_u32(self.tail.len()),
            tail_checksum: crc32c::crc32c(&self.tail),
            sequence: stamp.sequence,
            batch: stamp.batch,
            epoch: stamp.epoch,
            kind: self.kind as u8,
            version: VERSION,
        };
        header.checksum = head_checksum(&header, &self.head);
        let end = out.len() + self.bytes();
        out.extend_from_slice(bytemuck::bytes_of(&header));
        out.extend_from_slice(&self.head);
        out.extend_from_slice(&self.tail);
        out.resize(end, 0);
    }
}

/// A record as it lies in bytes, both checksums proven.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Its header.
    pub header: Header,
    /// What it is.
    pub kind: Kind,
    /// Contents but for the tail.
    pub head: &'a [u8],
    /// The tail.
    pub tail: &'a [u8],
}

impl<'a> View<'a> {
    /// Reads the record at the start of `bytes`.
    ///
    /// # Errors
    /// [`Damage`], where there is none.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Damage> {
        let (header, head) = read_head(bytes)?;
        let start = HEADER_BYTES + header.head_bytes as usize;
        let end = start.checked_add(header.tail_bytes as usize).ok_or(Damage::Short)?;
        let tail = bytes.get(start..end).ok_or(Damage::Short)?;
        if crc32c::crc32c(tail) != header.tail_checksum {
            return Err(Damage::Checksum);
        }
        if header.version != VERSION {
            return Err(Damage::Version(header.version));
        }
        Ok(Self { header, kind: kind_of(header.kind)?, head, tail })
    }

    /// Bytes that it takes, padding included.
    pub fn bytes(&self) -> usize {
        record_bytes(self.head.len(), self.tail.len())
    }

    /// Appends the same record to `out`, as one of the segment with this epoch.
    pub fn write(&self, epoch: u16, out: &mut Vec<u8>) {
        let mut header = Header { epoch, ..self.header };
        header.checksum = head_checksum(&header, self.head);
        let end = out.len() + self.bytes();
        out.extend_from_slice(bytemuck::bytes_of(&header));
        out.extend_from_slice(self.head);
        out.extend_from_slice(self.tail);
        out.resize(end, 0);
    }
}

/// What a record that begins there would have as its header: nothing of it is proven.
pub fn unproven_header(bytes: &[u8]) -> Option<Header> {
    bytes.get(..HEADER_BYTES).map(bytemuck::pod_read_unaligned)
}

/// Reads header and head of the record at the start of `bytes`, which may end before the tail.
///
/// # Errors
/// [`Damage`], where there is none.
pub fn read_head(bytes: &[u8]) -> Result<(Header, &[u8]), Damage> {
    let header = unproven_header(bytes).ok_or(Damage::Short)?;
    let end = HEADER_BYTES.checked_add(header.head_bytes as usize).ok_or(Damage::Short)?;
    let head = bytes.get(HEADER_BYTES..end).ok_or(Damage::Short)?;
    if head_checksum(&header, head) != header.checksum {
        return Err(Damage::Checksum);
    }
    Ok((header, head))
}

fn head_checksum(header: &Header, head: &[u8]) -> u32 {
    let rest = &bytemuck::bytes_of(header)[size_of::<u32>()..];
    crc32c::crc32c_append(crc32c::crc32c(rest), head)
}

fn kind_of(kind: u8) -> Result<Kind, Damage> {
    Kind::ALL.into_iter().find(|k| *k as u8 == kind).ok_or(Damage::Content("unknown kind"))
}

pub(crate) fn length_u32(length: usize) -> u32 {
    u32::try_from(length).expect("limits keep every part of a record below 4 GiB")
}

/// Number by which one shard's log knows a space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpaceNumber(pub u32);

/// A memory as a `Put` record holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Put {
    /// Its space.
    pub space: SpaceNumber,
    /// Its id.
    pub id: MemoryId,
    /// Text.
    pub content: Option<String>,
    /// JSON object as text.
    pub metadata: String,
    /// 0 to 1.
    pub confidence: Option<f32>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When the memory first arrived in this incarnation: unique on its shard.
    pub arrived_at: Timestamp,
    /// When this version was written.
    pub updated_at: Timestamp,
    /// From when on it does not exist.
    pub expires_at: Option<Timestamp>,
    /// Client links.
    pub links: Vec<Link>,
    /// The embedding, from the tail.
    pub embedding: Option<Vec<f32>>,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq)]
pub enum Contents {
    /// Nothing.
    Pad,
    /// See [`Kind::PutSpace`].
    PutSpace { space: SpaceNumber, at: Timestamp, name: SpaceName, config: SpaceConfig },
    /// See [`Kind::DropSpace`].
    DropSpace { at: Timestamp, name: SpaceName },
    /// See [`Kind::Put`].
    Put(Box<Put>),
    /// See [`Kind::Delete`].
    Delete { space: SpaceNumber, at: Timestamp, id: MemoryId },
    /// See [`Kind::Link`].
    Link { space: SpaceNumber, at: Timestamp, from: MemoryId, links: Vec<Link> },
    /// See [`Kind::Unlink`]; `kind: None` is every kind.
    Unlink { space: SpaceNumber, from: MemoryId, to: MemoryId, kind: Option<LinkKind> },
    /// See [`Kind::Demote`].
    Demote(Box<Demoted>),
    /// See [`Kind::Traces`].
    Traces(TracesRecord),
    /// See [`Kind::Lived`].
    Lived(Lived),
    /// See [`Kind::Merge`]; a later `Put` of the memory takes it back.
    Merge(MergeRecord),
    /// See [`Kind::Prune`].
    Prune {
        space: SpaceNumber,
        run: RunId,
        from: MemoryKey,
        links: Vec<(MemoryKey, AutomaticKind)>,
    },
    /// See [`Kind::Run`].
    Run { space: SpaceNumber, run: Run },
    /// See [`Kind::Unprune`].
    Unprune { space: SpaceNumber, run: RunId },
}

/// A memory that is merged into another.
#[derive(Clone, Debug, PartialEq)]
pub struct MergeRecord {
    /// The space.
    pub space: SpaceNumber,
    /// The memory.
    pub id: MemoryId,
    /// The other.
    pub into: MemoryId,
    /// When that one was last written.
    pub version: Timestamp,
    /// By which run.
    pub run: RunId,
}

/// Traces as they are from now on: set, not added, so that replaying them twice changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct TracesRecord {
    /// The space.
    pub space: SpaceNumber,
    /// Of memories.
    pub memories: Vec<(MemoryKey, Trace)>,
    /// Of ways out of memories of this shard: from, to, kind.
    pub ways: Vec<(MemoryKey, MemoryKey, LinkKind, Trace)>,
}

impl Contents {
    /// As a record without a place.
    pub fn draft(&self) -> Draft {
        let mut w = Writer(Vec::with_capacity(256));
        let mut tail = Vec::new();
        let kind = match self {
            Self::Pad => Kind::Pad,
            Self::PutSpace { space, at, name, config } => {
                w.u32(space.0).i64(at.0).short(name.as_str());
                write_config(&mut w, config);
                Kind::PutSpace
            }
            Self::DropSpace { at, name } => {
                w.i64(at.0).short(name.as_str());
                Kind::DropSpace
            }
            Self::Put(put) => {
                write_put(&mut w, put);
                if let Some(embedding) = &put.embedding {
                    tail.extend_from_slice(bytemuck::cast_slice(embedding));
                }
                Kind::Put
            }
            Self::Delete { space, at, id } => {
                w.u32(space.0).i64(at.0).short(id.as_str());
                Kind::Delete
            }
            Self::Link { space, at, from, links } => {
                w.u32(space.0).i64(at.0).short(from.as_str());
                write_links(&mut w, links);
                Kind::Link
            }
            Self::Unlink { space, from, to, kind } => {
                w.u32(space.0).short(from.as_str()).short(to.as_str());
                w.short(kind.as_ref().map_or("", LinkKind::as_str));
                Kind::Unlink
            }
            Self::Demote(demoted) => {
                demoted.write(&mut w);
                tail.extend_from_slice(demoted.vector.as_deref().unwrap_or(&[]));
                Kind::Demote
            }
            Self::Traces(traces) => {
                write_traces(&mut w, traces);
                Kind::Traces
            }
            Self::Lived(lived) => {
                w.u32(lived.0);
                Kind::Lived
            }
            Self::Merge(merge) => {
                w.u32(merge.space.0).u64(merge.run.0).i64(merge.version.0);
                w.short(merge.id.as_str()).short(merge.into.as_str());
                Kind::Merge
            }
            Self::Prune { space, run, from, links } => {
                w.u32(space.0).u64(run.0).u64(from.0).u32(length_u32(links.len()));
                for (to, kind) in links {
                    w.u64(to.0).short(kind.as_str());
                }
                Kind::Prune
            }
            Self::Run { space, run } => {
                w.u32(space.0);
                write_run(&mut w, run);
                Kind::Run
            }
            Self::Unprune { space, run } => {
                w.u32(space.0).u64(run.0);
                Kind::Unprune
            }
        };
        Draft { kind, head: w.0, tail }
    }

    /// Reads what a record says.
    ///
    /// # Errors
    /// [`Damage::Content`] where the bytes make no sense.
    pub fn read(kind: Kind, head: &[u8], tail: &[u8]) -> Result<Self, Damage> {
        let mut r = Reader(head);
        let contents = match kind {
            Kind::Pad => return Ok(Self::Pad),
            Kind::PutSpace => Self::PutSpace {
                space: SpaceNumber(r.u32()?),
                at: Timestamp(r.i64()?),
                name: r.space_name()?,
                config: read_config(&mut r)?,
            },
            Kind::DropSpace => Self::DropSpace { at: Timestamp(r.i64()?), name: r.space_name()? },
            Kind::Put => {
                let mut put = read_put(&mut r)?;
                put.embedding = read_embedding(tail)?;
                Self::Put(Box::new(put))
            }
            Kind::Delete => {
                Self::Delete { space: SpaceNumber(r.u32()?), at: Timestamp(r.i64()?), id: r.id()? }
            }
            Kind::Link => Self::Link {
                space: SpaceNumber(r.u32()?),
                at: Timestamp(r.i64()?),
                from: r.id()?,
                links: read_links(&mut r)?,
            },
            Kind::Unlink => Self::Unlink {
                space: SpaceNumber(r.u32()?),
                from: r.id()?,
                to: r.id()?,
                kind: read_optional_kind(&mut r)?,
            },
            Kind::Traces => Self::Traces(read_traces(&mut r)?),
            Kind::Lived => Self::Lived(Lived(r.u32()?)),
            Kind::Merge => Self::Merge(MergeRecord {
                space: SpaceNumber(r.u32()?),
                run: RunId(r.u64()?),
                version: Timestamp(r.i64()?),
                id: r.id()?,
                into: r.id()?,
            }),
            Kind::Prune => Self::Prune {
                space: SpaceNumber(r.u32()?),
                run: RunId(r.u64()?),
                from: MemoryKey(r.u64()?),
                links: read_pruned(&mut r)?,
            },
            Kind::Run => Self::Run { space: SpaceNumber(r.u32()?), run: read_run(&mut r)? },
            Kind::Unprune => Self::Unprune { space: SpaceNumber(r.u32()?), run: RunId(r.u64()?) },
            Kind::Demote => Self::Demote(Box::new(Demoted::read(&mut r, tail)?)),
        };
        if r.is_empty() { Ok(contents) } else { Err(Damage::Content("bytes left over")) }
    }
}

/// Reads the head of a `Put`, or what a `Demote` says of the memory; the embedding is left out.
///
/// # Errors
/// [`Damage::Content`] where the bytes make no sense.
pub fn read_put_head(head: &[u8]) -> Result<Put, Damage> {
    read_put(&mut Reader(head))
}

/// The same without its links, for whoever only shows what it says.
///
/// # Errors
/// As [`read_put_head`].
pub fn read_put_text(head: &[u8]) -> Result<Put, Damage> {
    read_unlinked(&mut Reader(head))
}

/// Space and id of the memory that the head of a `Put` or `Demote` is of.
///
/// # Errors
/// [`Damage::Content`] where the bytes make no sense.
pub fn read_put_id(head: &[u8]) -> Result<(SpaceNumber, MemoryId), Damage> {
    let mut r = Reader(head);
    let (space, flags) = (SpaceNumber(r.u32()?), r.u8()?);
    r.take(3 * size_of::<i64>())?;
    r.take(if flags & HAS_CONFIDENCE != 0 { size_of::<u32>() } else { 0 })?;
    r.take(if flags & HAS_EXPIRY != 0 { size_of::<i64>() } else { 0 })?;
    Ok((space, r.id()?))
}

/// Reads the tail of a `Put`; no bytes are no embedding.
///
/// # Errors
/// [`Damage::Content`] where it is no whole number of floats or one is not finite.
pub fn read_embedding(tail: &[u8]) -> Result<Option<Vec<f32>>, Damage> {
    if tail.is_empty() {
        return Ok(None);
    }
    if !tail.len().is_multiple_of(size_of::<f32>()) {
        return Err(Damage::Content("embedding is no whole number of floats"));
    }
    let floats: Vec<f32> = bytemuck::pod_collect_to_vec(tail);
    let finite = floats.iter().all(|x| x.is_finite());
    if finite { Ok(Some(floats)) } else { Err(Damage::Content("embedding is not finite")) }
}

/// Metadata as a record holds it.
pub fn metadata_text(metadata: &Metadata) -> String {
    if metadata.is_empty() {
        return String::new();
    }
    serde_json::to_string(metadata).expect("a JSON object always has a text")
}

/// Reads what [`metadata_text`] wrote.
///
/// # Errors
/// [`Damage::Content`] where it is not an object.
pub fn metadata_of(text: &str) -> Result<Metadata, Damage> {
    if text.is_empty() {
        return Ok(Metadata::new());
    }
    serde_json::from_str(text).map_err(|_| Damage::Content("metadata is no JSON object"))
}

const HAS_CONTENT: u8 = 1;
const HAS_CONFIDENCE: u8 = 2;
const HAS_EXPIRY: u8 = 4;

pub(crate) fn write_put(w: &mut Writer, put: &Put) {
    let flags = u8::from(put.content.is_some()) * HAS_CONTENT
        + u8::from(put.confidence.is_some()) * HAS_CONFIDENCE
        + u8::from(put.expires_at.is_some()) * HAS_EXPIRY;
    w.u32(put.space.0).u8(flags);
    w.i64(put.created_at.0).i64(put.arrived_at.0).i64(put.updated_at.0);
    if let Some(confidence) = put.confidence {
        w.u32(confidence.to_bits());
    }
    if let Some(expires_at) = put.expires_at {
        w.i64(expires_at.0);
    }
    w.short(put.id.as_str());
    w.long(put.content.as_deref().unwrap_or("")).long(&put.metadata);
    write_links(w, &put.links);
}

pub(crate) fn read_put(r: &mut Reader<'_>) -> Result<Put, Damage> {
    let put = read_unlinked(r)?;
    Ok(Put { links: read_links(r)?, ..put })
}

fn read_unlinked(r: &mut Reader<'_>) -> Result<Put, Damage> {
    let space = SpaceNumber(r.u32()?);
    let flags = r.u8()?;
    let [created_at, arrived_at, updated_at] =
        [Timestamp(r.i64()?), Timestamp(r.i64()?), Timestamp(r.i64()?)];
    let confidence =
        if flags & HAS_CONFIDENCE != 0 { Some(f32::from_bits(r.u32()?)) } else { None };
    let expires_at = if flags & HAS_EXPIRY != 0 { Some(Timestamp(r.i64()?)) } else { None };
    let id = r.id()?;
    let content = r.long()?.to_owned();
    Ok(Put {
        space,
        id,
        content: (flags & HAS_CONTENT != 0).then_some(content),
        metadata: r.long()?.to_owned(),
        confidence,
        created_at,
        arrived_at,
        updated_at,
        expires_at,
        links: Vec::new(),
        embedding: None,
    })
}

fn write_links(w: &mut Writer, links: &[Link]) {
    w.u32(length_u32(links.len()));
    for link in links {
        w.u32(u32::from(fixed::weight_units(link.weight.get())));
        w.short(link.to.as_str()).short(link.kind.as_str());
    }
}

fn read_links(r: &mut Reader<'_>) -> Result<Vec<Link>, Damage> {
    let count = r.u32()? as usize;
    let mut links = Vec::with_capacity(count.min(r.0.len() / 8));
    for _ in 0..count {
        let units = u16::try_from(r.u32()?).map_err(|_| Damage::Content("weight"))?;
        let weight = f32::from(units) / f32::from(fixed::WEIGHT_ONE);
        links.push(Link {
            weight: Weight::new(weight).map_err(|_| Damage::Content("weight"))?,
            to: r.id()?,
            kind: LinkKind::new(r.short()?).map_err(|_| Damage::Content("link kind"))?,
        });
    }
    Ok(links)
}

fn read_optional_kind(r: &mut Reader<'_>) -> Result<Option<LinkKind>, Damage> {
    let kind = r.short()?;
    if kind.is_empty() {
        return Ok(None);
    }
    LinkKind::new(kind).map(Some).map_err(|_| Damage::Content("link kind"))
}

const ASSOCIATES: u8 = 1;
const TITLE_FROM_CONTENT: u8 = 2;

fn write_config(w: &mut Writer, config: &SpaceConfig) {
    let metric = match config.metric {
        Metric::Cosine => 0,
        Metric::Dot => 1,
        Metric::L2 => 2,
    };
    let encoding = match config.encoding {
        VectorEncoding::Int8 => 0,
        VectorEncoding::F16 => 1,
        VectorEncoding::F32 => 2,
    };
    let flags = u8::from(config.associate) * ASSOCIATES
        + u8::from(config.title_from_content) * TITLE_FROM_CONTENT;
    w.u32(u32::from(config.dimensions.unwrap_or(0)));
    w.u8(metric).u8(encoding).u8(flags);
    w.i64(config.half_life_s.map_or(-1, |s| i64::try_from(s).unwrap_or(i64::MAX)));
}

fn read_config(r: &mut Reader<'_>) -> Result<SpaceConfig, Damage> {
    let dimensions = u16::try_from(r.u32()?).map_err(|_| Damage::Content("dimensions"))?;
    let metric = match r.u8()? {
        0 => Metric::Cosine,
        1 => Metric::Dot,
        2 => Metric::L2,
        _ => return Err(Damage::Content("metric")),
    };
    let encoding = match r.u8()? {
        0 => VectorEncoding::Int8,
        1 => VectorEncoding::F16,
        2 => VectorEncoding::F32,
        _ => return Err(Damage::Content("encoding")),
    };
    let flags = r.u8()?;
    Ok(SpaceConfig {
        dimensions: (dimensions > 0).then_some(dimensions),
        metric,
        encoding,
        half_life_s: u64::try_from(r.i64()?).ok(),
        associate: flags & ASSOCIATES != 0,
        title_from_content: flags & TITLE_FROM_CONTENT != 0,
    })
}

pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }
    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }
    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }
    pub(crate) fn i64(&mut self, value: i64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }
    pub(crate) fn short(&mut self, text: &str) -> &mut Self {
        let length = u16::try_from(text.len()).expect("ids, names and kinds are short");
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.extend_from_slice(text.as_bytes());
        self
    }
    pub(crate) fn long(&mut self, text: &str) -> &mut Self {
        self.u32(length_u32(text.len()));
        self.0.extend_from_slice(text.as_bytes());
        self
    }
}

pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Damage> {
        let (taken, rest) =
            self.0.split_at_checked(count).ok_or(Damage::Content("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        Ok(self.take(N)?.try_into().expect("exactly N bytes were taken"))
    }
    pub(crate) fn u8(&mut self) -> Result<u8, Damage> {
        Ok(self.array::<1>()?[0])
    }
    pub(crate) fn u32(&mut self) -> Result<u32, Damage> {
        self.array().map(u32::from_le_bytes)
    }
    pub(crate) fn u64(&mut self) -> Result<u64, Damage> {
        self.array().map(u64::from_le_bytes)
    }
    /// How many items follow, of at least `least_bytes` each.
    pub(crate) fn count(&mut self, least_bytes: usize) -> Result<usize, Damage> {
        let count = self.u32()? as usize;
        let fits = count <= self.0.len() / least_bytes;
        if fits { Ok(count) } else { Err(Damage::Content("more items than bytes")) }
    }
    pub(crate) fn i64(&mut self) -> Result<i64, Damage> {
        self.array().map(i64::from_le_bytes)
    }
    pub(crate) fn text(&mut self, length: usize) -> Result<&'a str, Damage> {
        std::str::from_utf8(self.take(length)?).map_err(|_| Damage::Content("text is not UTF-8"))
    }
    pub(crate) fn short(&mut self) -> Result<&'a str, Damage> {
        let length = u16::from_le_bytes(self.array()?);
        self.text(usize::from(length))
    }
    pub(crate) fn long(&mut self) -> Result<&'a str, Damage> {
        let length = self.u32()?;
        self.text(length as usize)
    }
    pub(crate) fn id(&mut self) -> Result<MemoryId, Damage> {
        MemoryId::new(self.short()?).map_err(|_| Damage::Content("id"))
    }
    pub(crate) fn space_name(&mut self) -> Result<SpaceName, Damage> {
        SpaceName::new(self.short()?).map_err(|_| Damage::Content("space name"))
    }
}
