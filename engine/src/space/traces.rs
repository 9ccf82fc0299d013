//! What use has left on the memories of a space and on the ways between them.
//!
//! *Invariants*: nothing is kept of what was never used; a memory keeps a bounded number of ways,
//! and a trace goes with its memory.
//!
//! *Not here*: how a trace grows and fades (`life`), who reinforces what (`shard::reinforce`).

use crate::graph::KindIx;
use crate::image::{Part, Reader, Unsound, Writer};
use crate::key::{KeyMap, MemoryKey};
use crate::life::{HalfLife, Lift, Lived, Outcome, Trace};
use crate::limits;

/// A way that activation took out of a memory, and what its use has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WayTrace {
    /// Where it leads.
    pub to: MemoryKey,
    /// Along which kind of link.
    pub kind: KindIx,
    /// What is left.
    pub trace: Trace,
}

/// The trace of one way among those of [`Traces::ways_of`].
pub fn way_trace(ways: &[WayTrace], to: MemoryKey, kind: KindIx) -> Option<Trace> {
    let at = ways.binary_search_by_key(&(to, kind), |w| (w.to, w.kind)).ok()?;
    Some(ways[at].trace)
}

/// Traces of one space on one shard.
#[derive(Clone, Debug, Default)]
pub struct Traces {
    memories: KeyMap<Trace>,
    ways: KeyMap<Vec<WayTrace>>,
}

impl Part for Traces {
    const NAME: &'static str = "traces";
    const VERSION: u32 = 1;

    fn write(&self, out: &mut Writer<'_>) {
        let Self { memories, ways } = self;
        out.count(memories.len());
        for (key, trace) in memories {
            out.u64(*key);
            write_trace(out, *trace);
        }
        out.count(ways.len());
        for (from, ways) in ways {
            out.u64(*from);
            out.count(ways.len());
            for WayTrace { to, kind, trace } in ways {
                out.u64(to.0);
                out.u16(kind.0);
                write_trace(out, *trace);
            }
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Unsound> {
        let mut traces = Self::default();
        for _ in 0..input.count()? {
            traces.set(MemoryKey(input.u64()?), read_trace(input)?);
        }
        for _ in 0..input.count()? {
            let from = MemoryKey(input.u64()?);
            for _ in 0..input.count()? {
                let (to, kind) = (MemoryKey(input.u64()?), KindIx(input.u16()?));
                traces.set_way(from, WayTrace { to, kind, trace: read_trace(input)? });
            }
        }
        Ok(traces)
    }
}

fn write_trace(out: &mut Writer<'_>, trace: Trace) {
    out.u32(trace.strength.cast_unsigned());
    out.u32(trace.at.0);
}

fn read_trace(input: &mut Reader<'_>) -> Result<Trace, Unsound> {
    Ok(Trace::from_parts(input.u32()?.cast_signed(), Lived(input.u32()?)))
}

impl Traces {
    /// Nothing was ever reinforced here.
    pub fn is_empty(&self) -> bool {
        self.memories.is_empty() && self.ways.is_empty()
    }

    /// How many memories and ways have one.
    pub fn len(&self) -> usize {
        self.memories.len() + self.ways.values().map(Vec::len).sum::<usize>()
    }

    /// The trace of a memory.
    pub fn of(&self, key: MemoryKey) -> Option<Trace> {
        if self.memories.is_empty() { None } else { self.memories.get(&key.0).copied() }
    }

    /// What use does to a memory now; `None` where it was never used.
    pub fn lift(&self, key: MemoryKey, now: Lived, half_life: HalfLife) -> Option<Lift> {
        self.of(key).map(|trace| trace.lift(now, half_life))
    }

    /// The traces of the ways out of a memory, in the order of their ends and kinds.
    pub fn ways_of(&self, from: MemoryKey) -> &[WayTrace] {
        if self.ways.is_empty() {
            return &[];
        }
        self.ways.get(&from.0).map_or(&[], Vec::as_slice)
    }

    /// A memory was used; its trace from now on.
    pub fn reinforce(
        &mut self,
        key: MemoryKey,
        outcome: Outcome,
        now: Lived,
        half_life: HalfLife,
    ) -> Trace {
        let trace = self.memories.entry(key.0).or_default();
        *trace = trace.after(outcome, now, half_life);
        *trace
    }

    /// A way was used; its trace from now on.
    pub fn reinforce_way(
        &mut self,
        from: MemoryKey,
        (to, kind): (MemoryKey, KindIx),
        outcome: Outcome,
        now: Lived,
        half_life: HalfLife,
    ) -> Trace {
        let old = way_trace(self.ways_of(from), to, kind).unwrap_or_default();
        let trace = old.after(outcome, now, half_life);
        self.set_way(from, WayTrace { to, kind, trace });
        trace
    }

    /// Sets what a log or image says of a memory.
    pub fn set(&mut self, key: MemoryKey, trace: Trace) {
        self.memories.insert(key.0, trace);
    }

    /// Sets what a log or image says of a way. At the bound the one that was used longest ago goes.
    pub fn set_way(&mut self, from: MemoryKey, way: WayTrace) {
        let ways = self.ways.entry(from.0).or_default();
        let end = (way.to, way.kind);
        if let Ok(at) = ways.binary_search_by_key(&end, |w| (w.to, w.kind)) {
            ways[at] = way;
            return;
        }
        if ways.len() >= limits::TRACED_WAYS_PER_MEMORY_MAX {
            let oldest = (0..ways.len()).min_by_key(|at| (ways[*at].trace.at, *at));
            ways.remove(oldest.expect("the bound is above none"));
        }
        let at = ways.partition_point(|w| (w.to, w.kind) < end);
        ways.insert(at, way);
    }

    /// A memory is gone.
    pub fn forget(&mut self, key: MemoryKey) {
        self.memories.remove(&key.0);
        self.ways.remove(&key.0);
    }

    /// Every memory that was used, in the order of keys.
    pub fn memories(&self) -> Vec<(MemoryKey, Trace)> {
        let all = self.memories.iter().map(|(key, trace)| (MemoryKey(*key), *trace));
        let mut all: Vec<_> = all.collect();
        all.sort_unstable_by_key(|(key, _)| *key);
        all
    }

    /// Every way that was used, in the order of keys.
    pub fn ways(&self) -> Vec<(MemoryKey, WayTrace)> {
        let all = self.ways.iter().flat_map(|(from, ways)| ways.iter().map(|w| (*from, *w)));
        let mut all: Vec<_> = all.map(|(from, way)| (MemoryKey(from), way)).collect();
        all.sort_by_key(|(from, _)| *from);
        all
    }

    /// Bytes in memory.
    pub fn memory_bytes(&self) -> u64 {
        let slot = size_of::<(u64, Trace)>() + 1;
        let list = size_of::<(u64, Vec<WayTrace>)>() + 1;
        let ways = self.ways.values().map(|w| w.capacity() * size_of::<WayTrace>()).sum::<usize>();
        (self.memories.capacity() * slot + self.ways.capacity() * list + ways) as u64
    }
}
