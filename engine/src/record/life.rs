//! What records say of use and of consolidations.
//!
//! *Invariants*: what an earlier version wrote is read as what it meant.
//!
//! *Not here*: the other records (`record`), what a run does (`shard::consolidate`).

use crate::key::MemoryKey;
use crate::life::run::{Run, RunCounts, RunId, RunState};
use crate::life::{Lived, Trace};
use crate::mesh::AutomaticKind;
use crate::model::{LinkKind, Timestamp};

use super::{Damage, Reader, SpaceNumber, TracesRecord, Writer, length_u32};

pub(super) fn write_traces(w: &mut Writer, traces: &TracesRecord) {
    w.u32(traces.space.0).u32(length_u32(traces.memories.len()));
    for (key, trace) in &traces.memories {
        w.u64(key.0);
        write_trace(w, *trace);
    }
    w.u32(length_u32(traces.ways.len()));
    for (from, to, kind, trace) in &traces.ways {
        w.u64(from.0).u64(to.0).short(kind.as_str());
        write_trace(w, *trace);
    }
}

fn write_trace(w: &mut Writer, trace: Trace) {
    w.u32(trace.strength.cast_unsigned()).u32(trace.at.0);
}

pub(super) fn read_traces(r: &mut Reader<'_>) -> Result<TracesRecord, Damage> {
    let space = SpaceNumber(r.u32()?);
    let count = r.u32()? as usize;
    let mut memories = Vec::with_capacity(count.min(r.0.len() / 16));
    for _ in 0..count {
        memories.push((MemoryKey(r.u64()?), read_trace(r)?));
    }
    let count = r.u32()? as usize;
    let mut ways = Vec::with_capacity(count.min(r.0.len() / 26));
    for _ in 0..count {
        let (from, to) = (MemoryKey(r.u64()?), MemoryKey(r.u64()?));
        let kind = LinkKind::new(r.short()?).map_err(|_| Damage::Content("link kind"))?;
        ways.push((from, to, kind, read_trace(r)?));
    }
    Ok(TracesRecord { space, memories, ways })
}

fn read_trace(r: &mut Reader<'_>) -> Result<Trace, Damage> {
    Ok(Trace::from_parts(r.u32()?.cast_signed(), Lived(r.u32()?)))
}

pub(super) fn read_pruned(r: &mut Reader<'_>) -> Result<Vec<(MemoryKey, AutomaticKind)>, Damage> {
    let count = r.u32()? as usize;
    let mut links = Vec::with_capacity(count.min(r.0.len() / 10));
    for _ in 0..count {
        let (to, name) = (MemoryKey(r.u64()?), r.short()?);
        let kind = AutomaticKind::ALL.into_iter().find(|kind| kind.as_str() == name);
        links.push((to, kind.ok_or(Damage::Content("kind of an automatic link"))?));
    }
    Ok(links)
}

pub(super) fn write_run(w: &mut Writer, run: &Run) {
    w.u64(run.id.0).u8(run.state as u8);
    w.i64(run.started_at.0).i64(run.finished_at.map_or(i64::MIN, |at| at.0));
    w.u32(run.threshold.to_bits());
    w.u64(run.counts.compared).u64(run.counts.merged).u64(run.counts.pruned);
    w.u64(run.counts.demoted);
}

pub(super) fn read_run(r: &mut Reader<'_>) -> Result<Run, Damage> {
    let (id, state) = (RunId(r.u64()?), r.u8()?);
    let state = RunState::ALL.into_iter().find(|known| *known as u8 == state);
    let (started_at, finished_at) = (Timestamp(r.i64()?), r.i64()?);
    Ok(Run {
        id,
        state: state.ok_or(Damage::Content("state of a run"))?,
        started_at,
        finished_at: (finished_at != i64::MIN).then_some(Timestamp(finished_at)),
        threshold: f32::from_bits(r.u32()?),
        counts: RunCounts {
            compared: r.u64()?,
            merged: r.u64()?,
            pruned: r.u64()?,
            // Runs of before there was demotion end here.
            demoted: if r.is_empty() { 0 } else { r.u64()? },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_before_there_was_demotion_is_read() {
        let run = Run {
            id: RunId(7),
            started_at: Timestamp(5),
            finished_at: Some(Timestamp(6)),
            state: RunState::Done,
            threshold: 0.3,
            counts: RunCounts { compared: 9, merged: 2, pruned: 1, demoted: 0 },
        };
        let mut w = Writer(Vec::new());
        write_run(&mut w, &run);
        let old = &w.0[..w.0.len() - size_of::<u64>()];
        for bytes in [&w.0, old] {
            assert_eq!(read_run(&mut Reader(bytes)), Ok(run.clone()));
        }
    }
}
