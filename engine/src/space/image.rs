//! A space in an image.
//!
//! *Invariants*: nothing that a space knows is left out: its struct is taken apart without `..`.
//!
//! *Not here*: the indexes of a space, which write themselves.

use std::collections::VecDeque;
use std::num::NonZeroU64;

use hashbrown::HashSet;

use crate::cold::{ColdAddress, ColdMemories, ColdSegmentId};
use crate::image::{Part, Reader, Unsound, Writer, ensure};
use crate::key::{KeyMap, MemoryKey};
use crate::life::Lived;
use crate::life::run::RunId;
use crate::mesh::{AutomaticKind, Member};
use crate::model::{Metric, SpaceConfig, VectorEncoding};
use crate::node::NodeIx;
use crate::record::SpaceNumber;
use crate::text::TermKey;

use super::merged::{Absorbed, Into, Merged, PrunedLink};
use super::{Entry, LogAddress, Space};

/// What is known of memories, by node, and which of them wait to be associated.
type Entries = (Vec<Option<Box<Entry>>>, HashSet<NodeIx>);

impl Part for Space {
    const NAME: &'static str = "space";
    const VERSION: u32 = 2;

    fn write(&self, out: &mut Writer<'_>) {
        let Self {
            number,
            name,
            config,
            at,
            graph,
            vectors,
            text,
            names,
            terms,
            attributes,
            metadata,
            traces,
            merged,
            sequences,
            entries,
            cold,
            foreign_ids,
            deleted_at,
            to_associate,
            queued,
            phrases,
            link_times,
            texts,
            text_bytes: _,
            memories,
            expiring,
            expiring_may_end,
            names_version,
            seed,
        } = self;
        out.u32(number.0);
        out.text(name.as_str());
        out.part(config);
        out.time(*at);
        out.part(graph);
        out.u8(u8::from(vectors.is_some()));
        vectors.iter().for_each(|vectors| out.part(vectors));
        out.part(text);
        out.part(names);
        out.part(terms);
        out.part(attributes);
        out.part(metadata);
        out.part(traces);
        out.part(merged);
        write_map(out, sequences, |out, members| {
            out.count(members.len());
            members.iter().for_each(|member| write_member(out, member));
        });
        write_entries(out, entries, queued);
        write_cold(out, cold);
        write_map(out, foreign_ids, |out, id| out.text(id.as_str()));
        write_map(out, deleted_at, |out, at| out.time(*at));
        out.count(to_associate.len());
        to_associate.iter().for_each(|node| out.u32(node.0));
        out.count(phrases.len());
        phrases.iter().for_each(|phrase| out.pods(phrase));
        write_map(out, link_times, |out, at| out.time(*at));
        write_map(out, texts, |out, text| out.text(text));
        out.u64(*memories);
        out.u64(*expiring);
        out.time(*expiring_may_end);
        out.u64(*names_version);
        out.u64(*seed);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Unsound> {
        let number = SpaceNumber(input.u32()?);
        let (name, config, at) = (input.space_name()?, input.part()?, input.time()?);
        let graph = input.part()?;
        let vectors = if input.u8()? == 1 { Some(input.part()?) } else { None };
        let (text, names, terms) = (input.part()?, input.part()?, input.part()?);
        let (attributes, metadata) = (input.part()?, input.part()?);
        let (traces, merged) = (input.part()?, input.part()?);
        let sequences = read_map(input, |input| {
            let count = input.count()?;
            let mut members = input.room(count);
            for _ in 0..count {
                members.push(read_member(input)?);
            }
            Ok(members)
        })?;
        let (entries, queued) = read_entries(input)?;
        let cold = read_cold(input)?;
        let foreign_ids = read_map(input, Reader::id)?;
        let deleted_at = read_map(input, Reader::time)?;
        let to_associate = input.pods()?.into();
        let mut phrases: VecDeque<Vec<TermKey>> = VecDeque::new();
        for _ in 0..input.count()? {
            phrases.push_back(input.pods()?);
        }
        let link_times = read_map(input, Reader::time)?;
        let texts: KeyMap<String> = read_map(input, |input| Ok(input.text()?.into()))?;
        let text_bytes = texts.values().map(String::len).sum();
        let space = Self {
            number,
            name,
            config,
            at,
            graph,
            vectors,
            text,
            names,
            terms,
            attributes,
            metadata,
            traces,
            merged,
            sequences,
            entries,
            cold,
            foreign_ids,
            deleted_at,
            to_associate,
            queued,
            phrases,
            link_times,
            texts,
            text_bytes,
            memories: input.u64()?,
            expiring: input.u64()?,
            expiring_may_end: input.time()?,
            names_version: input.u64()?,
            seed: input.u64()?,
        };
        space.check()?;
        Ok(space)
    }
}

impl Space {
    /// The parts of an image fit each other.
    fn check(&self) -> Result<(), Unsound> {
        let nodes = self.graph.len();
        ensure(self.entries.len() <= nodes, "entries without nodes")?;
        let is_memory = |at: usize| {
            let node = u32::try_from(at).map(NodeIx);
            at < nodes && node.is_ok_and(|node| self.graph.is_memory(node))
        };
        let held = self.entries.iter().enumerate().filter(|(_, entry)| entry.is_some());
        let count = held.clone().filter(|(at, _)| is_memory(*at)).count();
        ensure(held.count() == count, "an entry of what is no memory")?;
        ensure((0..nodes).filter(|at| is_memory(*at)).count() == count, "a memory has no entry")?;
        ensure(self.memories == count as u64, "the number of memories")?;
        let is_there =
            |key: &MemoryKey| self.graph.find(*key).is_some_and(|n| is_memory(n.index()));
        let cold = self.cold.segments().values().flatten();
        ensure(cold.clone().all(is_there), "a cold memory that does not exist")?;
        let queued = |node: &NodeIx| node.index() < nodes;
        ensure(self.to_associate.iter().all(queued), "the queue of associations")
    }
}

impl Part for SpaceConfig {
    const NAME: &'static str = "space configuration";
    const VERSION: u32 = 1;

    fn write(&self, out: &mut Writer<'_>) {
        let Self { dimensions, metric, encoding, half_life_s, associate, title_from_content } =
            self;
        out.u16(dimensions.unwrap_or(0));
        out.u8(*metric as u8);
        out.u8(*encoding as u8);
        out.u8(u8::from(half_life_s.is_some()));
        out.u64(half_life_s.unwrap_or(0));
        out.u8(u8::from(*associate));
        out.u8(u8::from(*title_from_content));
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Unsound> {
        let dimensions = input.u16()?;
        let (metric, encoding) = (input.u8()?, input.u8()?);
        let unknown = || Unsound::Content("the configuration of a space");
        let metrics = [Metric::Cosine, Metric::Dot, Metric::L2];
        let encodings = [VectorEncoding::Int8, VectorEncoding::F16, VectorEncoding::F32];
        let metric = metrics.into_iter().find(|&m| m as u8 == metric).ok_or_else(unknown)?;
        let encoding = encodings.into_iter().find(|&e| e as u8 == encoding).ok_or_else(unknown)?;
        let (decays, half_life_s) = (input.u8()? == 1, input.u64()?);
        Ok(Self {
            dimensions: (dimensions > 0).then_some(dimensions),
            metric,
            encoding,
            half_life_s: decays.then_some(half_life_s),
            associate: input.u8()? == 1,
            title_from_content: input.u8()? == 1,
        })
    }
}

fn write_member(out: &mut Writer<'_>, member: &Member) {
    let Member { created_at, arrived_at, key } = member;
    out.time(*created_at);
    out.time(*arrived_at);
    out.u64(key.0);
}

fn read_member(input: &mut Reader<'_>) -> Result<Member, Unsound> {
    let (created_at, arrived_at) = (input.time()?, input.time()?);
    Ok(Member { created_at, arrived_at, key: MemoryKey(input.u64()?) })
}

fn write_entries(out: &mut Writer<'_>, entries: &[Option<Box<Entry>>], queued: &HashSet<NodeIx>) {
    out.count(entries.len());
    for (node, entry) in (0u32..).map(NodeIx).zip(entries) {
        out.u8(u8::from(entry.is_some()));
        if let Some(entry) = entry {
            write_entry(out, entry);
            out.u8(u8::from(queued.contains(&node)));
        }
    }
}

fn write_entry(out: &mut Writer<'_>, entry: &Entry) {
    let Entry {
        id,
        created_at,
        arrived_at,
        updated_at,
        expires_at,
        address: LogAddress { segment, offset, head_bytes, tail_bytes },
        sequence,
        fresh_at,
    } = entry;
    out.text(id.as_str());
    for time in [created_at, arrived_at, updated_at, expires_at] {
        out.time(*time);
    }
    for value in [segment, offset, head_bytes, tail_bytes] {
        out.u32(*value);
    }
    out.u8(u8::from(sequence.is_some()));
    out.u64(sequence.map_or(0, NonZeroU64::get));
    out.u32(fresh_at.0);
}

fn read_entries(input: &mut Reader<'_>) -> Result<Entries, Unsound> {
    let count = input.count()?;
    let (mut entries, mut queued) = (input.room(count), HashSet::new());
    for node in (0u32..).map(NodeIx).take(count) {
        if input.u8()? != 1 {
            entries.push(None);
            continue;
        }
        entries.push(Some(Box::new(read_entry(input)?)));
        if input.u8()? == 1 {
            queued.insert(node);
        }
    }
    Ok((entries, queued))
}

fn read_entry(input: &mut Reader<'_>) -> Result<Entry, Unsound> {
    let id = input.id()?;
    let (created_at, arrived_at) = (input.time()?, input.time()?);
    let (updated_at, expires_at) = (input.time()?, input.time()?);
    let address = LogAddress {
        segment: input.u32()?,
        offset: input.u32()?,
        head_bytes: input.u32()?,
        tail_bytes: input.u32()?,
    };
    let (in_sequence, sequence) = (input.u8()? == 1, input.u64()?);
    let sequence = NonZeroU64::new(sequence).filter(|_| in_sequence);
    let fresh_at = Lived(input.u32()?);
    Ok(Entry { id, created_at, arrived_at, updated_at, expires_at, address, sequence, fresh_at })
}

fn write_cold(out: &mut Writer<'_>, cold: &ColdMemories) {
    out.count(cold.len());
    for (key, address) in cold.iter() {
        let ColdAddress {
            segment,
            records,
            block_offset,
            block_bytes,
            record_offset,
            record_bytes,
        } = address;
        out.u64(key.0);
        out.u64(segment.0);
        for value in [records, block_offset, block_bytes, record_offset, record_bytes] {
            out.u32(value);
        }
        out.u64(cold.run_of(key).map_or(0, |run| run.0));
    }
}

fn read_cold(input: &mut Reader<'_>) -> Result<ColdMemories, Unsound> {
    let mut cold = ColdMemories::default();
    for _ in 0..input.count()? {
        let key = MemoryKey(input.u64()?);
        let address = ColdAddress {
            segment: ColdSegmentId(input.u64()?),
            records: input.u32()?,
            block_offset: input.u32()?,
            block_bytes: input.u32()?,
            record_offset: input.u32()?,
            record_bytes: input.u32()?,
        };
        let run = input.u64()?;
        cold.insert(key, address, (run != 0).then_some(RunId(run)));
    }
    Ok(cold)
}

impl Part for Merged {
    const NAME: &'static str = "merged";
    const VERSION: u32 = 1;

    fn write(&self, out: &mut Writer<'_>) {
        let Self { absorbed, sources, elsewhere, pruned } = self;
        write_map(out, absorbed, |out, one| {
            let Absorbed { entry, into: Into { key, id, version }, run, returning: _ } = one;
            write_entry(out, entry);
            out.u64(key.0);
            out.text(id.as_str());
            out.time(*version);
            out.u64(run.0);
        });
        write_map(out, sources, |out, sources| {
            out.count(sources.len());
            for (key, id) in sources {
                out.u64(key.0);
                out.text(id.as_str());
            }
        });
        write_map(out, elsewhere, |out, key| out.u64(key.0));
        write_map(out, pruned, |out, links| {
            out.count(links.len());
            for PrunedLink { to, kind, run } in links {
                out.u64(to.0);
                out.u8(*kind as u8);
                out.u64(run.0);
            }
        });
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Unsound> {
        let absorbed = read_map(input, |input| {
            let entry = Box::new(read_entry(input)?);
            let (key, id) = (MemoryKey(input.u64()?), input.id()?);
            let (version, run) = (input.time()?, RunId(input.u64()?));
            Ok(Absorbed { entry, into: Into { key, id, version }, run, returning: false })
        })?;
        let sources = read_map(input, |input| {
            let count = input.count()?;
            let mut sources = input.room(count);
            for _ in 0..count {
                sources.push((MemoryKey(input.u64()?), input.id()?));
            }
            Ok(sources)
        })?;
        let elsewhere = read_map(input, |input| Ok(MemoryKey(input.u64()?)))?;
        let pruned = read_map(input, |input| {
            let count = input.count()?;
            let mut links = input.room(count);
            for _ in 0..count {
                let (to, kind) = (MemoryKey(input.u64()?), input.u8()?);
                let kind = AutomaticKind::ALL.into_iter().find(|known| *known as u8 == kind);
                let kind = kind.ok_or(Unsound::Content("a pruned link"))?;
                links.push(PrunedLink { to, kind, run: RunId(input.u64()?) });
            }
            Ok(links)
        })?;
        Ok(Self { absorbed, sources, elsewhere, pruned })
    }
}

fn write_map<V>(out: &mut Writer<'_>, map: &KeyMap<V>, mut write: impl FnMut(&mut Writer<'_>, &V)) {
    out.count(map.len());
    for (key, value) in map {
        out.u64(*key);
        write(out, value);
    }
}

fn read_map<'a, V>(
    input: &mut Reader<'a>,
    mut read: impl FnMut(&mut Reader<'a>) -> Result<V, Unsound>,
) -> Result<KeyMap<V>, Unsound> {
    let count = input.count()?;
    let mut map =
        KeyMap::with_capacity_and_hasher(input.room::<u64>(count).capacity(), Default::default());
    for _ in 0..count {
        map.insert(input.u64()?, read(input)?);
    }
    Ok(map)
}
