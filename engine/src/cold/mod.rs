//! The cold tier as the engine sees it: where a memory's record lies there, and what of the memory
//! stays behind so that recall finds it all the same.
//!
//! *Invariants*: what a [`Demoted`] record says brings back every index of the memory to the bit;
//! decoding any bytes returns a value or an error and never panics.
//!
//! *Not here*: when a memory is demoted (`shard::demotion`), the bytes of a cold segment
//! (`segment`), files and S3 (`engram-cold`).

pub mod segment;

use std::collections::BTreeMap;

use crate::key::{KeyMap, MemoryKey};
use crate::life::run::RunId;
use crate::model::Timestamp;
use crate::names::Name;
use crate::record::{Damage, Put, Reader, Writer, length_u32, read_put, write_put};
use crate::terms::{SharedTerm, SharedTermKey};
use crate::text::{Analyzed, TermKey};

/// Name of a cold segment: unique for the life of a data directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ColdSegmentId(pub u64);

/// Where a record lies in the cold tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ColdAddress {
    /// The segment.
    pub segment: ColdSegmentId,
    /// Records in that segment, which is a part of its name.
    pub records: u32,
    /// Offset of the record's block in the segment, in bytes.
    pub block_offset: u32,
    /// Bytes of the block as it is stored.
    pub block_bytes: u32,
    /// Offset of the record in the block once it is unpacked.
    pub record_offset: u32,
    /// Bytes of the record.
    pub record_bytes: u32,
}

/// A demoted memory as its record in the log holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Demoted {
    /// The memory, without content and embedding.
    pub put: Put,
    /// When it was demoted.
    pub at: Timestamp,
    /// Where all of it lies.
    pub address: ColdAddress,
    /// Terms of its content, where it has one.
    pub text: Option<Analyzed>,
    /// Its names.
    pub names: Vec<Name>,
    /// Its shared terms.
    pub terms: Vec<SharedTerm>,
    /// What its content mentions, with the weight of each link in units.
    pub mentions: Vec<(MemoryKey, u16)>,
    /// Its vector as the index keeps it.
    pub vector: Option<Vec<u8>>,
    /// The consolidation that demoted it; `None`: a client did.
    pub run: Option<RunId>,
}

/// The cold memories of one space on one shard.
#[derive(Clone, Debug, Default)]
pub struct ColdMemories {
    addresses: KeyMap<ColdAddress>,
    segments: BTreeMap<ColdSegmentId, Vec<MemoryKey>>,
    runs: KeyMap<RunId>,
}

impl ColdMemories {
    /// Where the record of a memory lies, if it is cold.
    pub fn address(&self, key: MemoryKey) -> Option<ColdAddress> {
        self.addresses.get(&key.0).copied()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.addresses.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// Every one and where its record lies.
    pub fn iter(&self) -> impl Iterator<Item = (MemoryKey, ColdAddress)> + '_ {
        self.addresses.iter().map(|(key, address)| (MemoryKey(*key), *address))
    }

    /// Each segment that is in use, with the memories in it.
    pub fn segments(&self) -> &BTreeMap<ColdSegmentId, Vec<MemoryKey>> {
        &self.segments
    }

    /// The consolidation that demoted a memory.
    pub fn run_of(&self, key: MemoryKey) -> Option<RunId> {
        self.runs.get(&key.0).copied()
    }

    /// Memories that a consolidation demoted and that are still cold, in order, at most so many.
    pub fn of_run(&self, run: RunId, limit: usize) -> Vec<MemoryKey> {
        let of_run = self.runs.iter().filter(|(_, of)| **of == run);
        let mut keys: Vec<MemoryKey> = of_run.map(|(key, _)| MemoryKey(*key)).take(limit).collect();
        keys.sort_unstable();
        keys
    }

    pub(crate) fn insert(&mut self, key: MemoryKey, address: ColdAddress, run: Option<RunId>) {
        self.remove(key);
        self.addresses.insert(key.0, address);
        if let Some(run) = run {
            self.runs.insert(key.0, run);
        }
        self.segments.entry(address.segment).or_default().push(key);
    }

    pub(crate) fn remove(&mut self, key: MemoryKey) {
        let Some(address) = self.addresses.remove(&key.0) else { return };
        self.runs.remove(&key.0);
        let keys = self.segments.get_mut(&address.segment).expect("in use while it has memories");
        let at = keys.iter().position(|k| *k == key).expect("each address is in its segment");
        keys.swap_remove(at);
        if keys.is_empty() {
            self.segments.remove(&address.segment);
        }
    }
}

impl Demoted {
    pub(crate) fn write(&self, w: &mut Writer) {
        write_put(w, &self.put);
        w.i64(self.at.0);
        let a = &self.address;
        w.u64(a.segment.0).u32(a.records).u32(a.block_offset).u32(a.block_bytes);
        w.u32(a.record_offset).u32(a.record_bytes);
        w.u8(u8::from(self.text.is_some()));
        if let Some(text) = &self.text {
            w.u32(text.length).u32(length_u32(text.terms.len()));
            for (term, count) in &text.terms {
                w.u64(term.0).u32(*count);
            }
        }
        w.u32(length_u32(self.names.len()));
        for name in &self.names {
            w.u32(name.weight.to_bits()).long(&name.normal);
        }
        w.u32(length_u32(self.terms.len()));
        for term in &self.terms {
            w.u64(term.key.0).long(&term.display);
        }
        w.u32(length_u32(self.mentions.len()));
        for (key, units) in &self.mentions {
            w.u64(key.0).u32(u32::from(*units));
        }
        if let Some(run) = self.run {
            w.u64(run.0);
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>, tail: &[u8]) -> Result<Self, Damage> {
        Ok(Self {
            put: read_put(r)?,
            at: Timestamp(r.i64()?),
            address: ColdAddress {
                segment: ColdSegmentId(r.u64()?),
                records: r.u32()?,
                block_offset: r.u32()?,
                block_bytes: r.u32()?,
                record_offset: r.u32()?,
                record_bytes: r.u32()?,
            },
            text: read_text(r)?,
            names: read_names(r)?,
            terms: read_terms(r)?,
            mentions: read_mentions(r)?,
            run: if r.is_empty() { None } else { Some(RunId(r.u64()?)) },
            vector: (!tail.is_empty()).then(|| tail.to_vec()),
        })
    }
}

fn read_text(r: &mut Reader<'_>) -> Result<Option<Analyzed>, Damage> {
    if r.u8()? == 0 {
        return Ok(None);
    }
    let length = r.u32()?;
    let mut terms = Vec::new();
    for _ in 0..r.count(12)? {
        terms.push((TermKey(r.u64()?), r.u32()?));
    }
    let rising = terms.windows(2).all(|pair| pair[0].0 < pair[1].0);
    let counted: u64 = terms.iter().map(|(_, count)| u64::from(*count)).sum();
    if !rising || counted != u64::from(length) || terms.iter().any(|(_, count)| *count == 0) {
        return Err(Damage::Content("terms"));
    }
    Ok(Some(Analyzed { terms, length }))
}

fn read_names(r: &mut Reader<'_>) -> Result<Vec<Name>, Damage> {
    let mut names = Vec::new();
    for _ in 0..r.count(8)? {
        let weight = f32::from_bits(r.u32()?);
        if !(weight > 0.0 && weight <= 1.0) {
            return Err(Damage::Content("weight of a name"));
        }
        names.push(Name { weight, normal: r.long()?.to_owned(), spelled: String::new() });
    }
    Ok(names)
}

fn read_terms(r: &mut Reader<'_>) -> Result<Vec<SharedTerm>, Damage> {
    let mut terms: Vec<SharedTerm> = Vec::new();
    for _ in 0..r.count(12)? {
        let (key, display) = (SharedTermKey(r.u64()?), r.long()?.to_owned());
        if terms.iter().any(|term| term.key == key) {
            return Err(Damage::Content("a shared term comes twice"));
        }
        terms.push(SharedTerm { key, display });
    }
    Ok(terms)
}

fn read_mentions(r: &mut Reader<'_>) -> Result<Vec<(MemoryKey, u16)>, Damage> {
    let mut mentions = Vec::new();
    for _ in 0..r.count(12)? {
        let key = MemoryKey(r.u64()?);
        let units = u16::try_from(r.u32()?).map_err(|_| Damage::Content("weight"))?;
        mentions.push((key, units));
    }
    Ok(mentions)
}
