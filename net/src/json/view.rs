//! Answers as JSON.
//!
//! *Invariants*: numbers are finite; what was not asked for is not there.
//!
//! *Not here*: statuses and headers (`routes`).

use engram_engine::life::run::{Merge, Prune, RunView};
use engram_engine::model::{LinkView, Memory, MemoryId, Metadata, Tier, Timestamp};
use engram_engine::request::{
    PathStep, PhaseTime, Recalled, RecalledMemory, Rejection, SpaceView, Stats, Stored, With,
};
use serde::Serialize;

use super::writer::to_json;
use super::{space, time};
use crate::error::Reason;

/// The name of a tier.
pub fn tier_name(tier: Tier) -> &'static str {
    match tier {
        Tier::Fast => "fast",
        Tier::Warm => "warm",
        Tier::Cold => "cold",
    }
}

/// One memory as it is read back.
pub fn memory(memory: &Memory, with: With) -> impl Serialize + '_ {
    memory_json(memory, with)
}

fn memory_json(memory: &Memory, with: With) -> MemoryJson<'_, impl Serialize + '_> {
    MemoryJson {
        id: memory.id.as_str(),
        score: None,
        score_breakdown: None,
        hops: None,
        content: with.content.then_some(memory.content.as_deref()),
        embedding: with.embedding.then_some(memory.embedding.as_deref()),
        metadata: with.metadata.then_some(&memory.metadata),
        confidence: memory.confidence,
        links: with.links.then(|| links(memory.links.as_deref().unwrap_or_default())),
        merged: with.merged.then(|| memory.merged.iter().map(MemoryId::as_str).collect()),
        merged_into: memory.merged_into.as_ref().map(MemoryId::as_str),
        created_at: memory.created_at,
        updated_at: memory.updated_at,
        expires_at: memory.expires_at,
        tier: tier_name(memory.tier),
        path: None,
    }
}

/// A page of memories.
pub fn page(memories: &[Memory], next_cursor: Option<&str>, with: With) -> Vec<u8> {
    #[derive(Serialize)]
    struct Page<'a, M: Serialize> {
        memories: Vec<M>,
        next_cursor: Option<&'a str>,
    }
    let memories = memories.iter().map(|one| memory(one, with)).collect();
    to_json(&Page { memories, next_cursor })
}

/// What became of a memory that was stored by itself.
pub fn stored(stored: &Stored, durable: bool) -> Vec<u8> {
    #[derive(Serialize)]
    struct View<'a> {
        id: &'a str,
        created: bool,
        #[serde(serialize_with = "time::serialize")]
        created_at: Timestamp,
        durable: bool,
    }
    let Stored { id, created, created_at } = stored;
    to_json(&View { id: id.as_str(), created: *created, created_at: *created_at, durable })
}

/// One verdict of a batch.
#[derive(Serialize)]
pub struct Verdict<'a> {
    /// Index in the batch, or number of the line, from 0.
    pub index: u64,
    /// 200 replaced, 201 created, else why not.
    pub status: u16,
    /// The id, where it was stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
    /// False where it is visible and not yet durable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub durable: Option<bool>,
    /// Stable name of the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    /// The reason for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<&'a str>,
    /// Where in the memory.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub pointer: &'a str,
}

impl<'a> Verdict<'a> {
    /// Of a memory that was stored.
    pub fn stored(index: u64, stored: &'a Stored, durable: bool) -> Self {
        Self {
            index,
            status: if stored.created { 201 } else { 200 },
            id: Some(stored.id.as_str()),
            durable: (!durable).then_some(false),
            code: None,
            detail: None,
            pointer: "",
        }
    }

    /// Of one that was refused.
    pub fn refused(index: u64, reason: Reason, detail: &'a str, pointer: &'a str) -> Self {
        Self {
            index,
            status: reason.status().as_u16(),
            id: None,
            durable: None,
            code: Some(reason.name()),
            detail: Some(detail),
            pointer,
        }
    }

    /// Of either.
    pub fn of(index: u64, verdict: &'a Result<Stored, Rejection>, durable: bool) -> Self {
        match verdict {
            Ok(one) => Self::stored(index, one, durable),
            Err(no) => Self::refused(index, no.code.into(), &no.detail, &no.pointer),
        }
    }
}

/// All verdicts of a batch that came as one JSON array.
pub fn verdicts(verdicts: &[Result<Stored, Rejection>], durable: bool) -> Vec<u8> {
    #[derive(Serialize)]
    struct View<'a> {
        stored: usize,
        refused: usize,
        durable: bool,
        verdicts: Vec<Verdict<'a>>,
    }
    let stored = verdicts.iter().filter(|verdict| verdict.is_ok()).count();
    let refused = verdicts.len() - stored;
    let verdicts =
        (0..).zip(verdicts).map(|(index, one)| Verdict::of(index, one, durable)).collect();
    to_json(&View { stored, refused, durable, verdicts })
}

/// What became of links that were written.
pub fn linked(verdicts: &[Result<(), Rejection>], durable: bool) -> Vec<u8> {
    #[derive(Serialize)]
    struct View<'a> {
        linked: usize,
        refused: usize,
        durable: bool,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        refusals: Vec<Verdict<'a>>,
    }
    let refusals: Vec<_> = (0..)
        .zip(verdicts)
        .filter_map(|(index, verdict)| {
            let no = verdict.as_ref().err()?;
            Some(Verdict::refused(index, no.code.into(), &no.detail, &no.pointer))
        })
        .collect();
    let refused = refusals.len();
    to_json(&View { linked: verdicts.len() - refused, refused, durable, refusals })
}

/// What became of a reinforcement.
pub fn reinforced(reinforced: u64, missing: &[MemoryId], durable: bool) -> Vec<u8> {
    #[derive(Serialize)]
    struct View<'a> {
        reinforced: u64,
        missing: Vec<&'a str>,
        durable: bool,
    }
    let missing = missing.iter().map(MemoryId::as_str).collect();
    to_json(&View { reinforced, missing, durable })
}

/// A consolidation; what it did is listed where `whole` is set.
pub fn run(view: &RunView, whole: bool) -> impl Serialize + '_ {
    #[derive(Serialize)]
    struct View<'a> {
        id: String,
        space: &'a str,
        state: &'static str,
        phase: &'static str,
        dry_run: bool,
        threshold: f32,
        #[serde(serialize_with = "time::serialize")]
        started_at: Timestamp,
        #[serde(serialize_with = "time::serialize_option")]
        finished_at: Option<Timestamp>,
        progress: f64,
        compared: u64,
        merged: u64,
        pruned: u64,
        demoted: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        merges: Option<Vec<MergeJson<'a>>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        prunes: Option<Vec<PruneJson<'a>>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        demotions: Option<Vec<&'a str>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        more: Option<bool>,
    }
    #[derive(Serialize)]
    struct PruneJson<'a> {
        from: &'a str,
        links: u32,
    }
    fn prune_json(prune: &Prune) -> PruneJson<'_> {
        PruneJson { from: prune.from.as_str(), links: prune.links }
    }
    #[derive(Serialize)]
    struct MergeJson<'a> {
        into: &'a str,
        merged: Vec<&'a str>,
    }
    fn merge_json(merge: &Merge) -> MergeJson<'_> {
        let merged = merge.merged.iter().map(MemoryId::as_str).collect();
        MergeJson { into: merge.into.as_str(), merged }
    }
    let run = &view.run;
    View {
        id: run.id.to_string(),
        space: view.space.as_str(),
        state: run.state.as_str(),
        phase: view.phase.as_str(),
        dry_run: view.dry_run,
        threshold: run.threshold,
        started_at: run.started_at,
        finished_at: run.finished_at,
        progress: run.progress(view.total),
        compared: run.counts.compared,
        merged: run.counts.merged,
        pruned: run.counts.pruned,
        demoted: run.counts.demoted,
        reason: view.reason.as_deref(),
        merges: whole.then(|| view.merges.iter().map(merge_json).collect()),
        prunes: whole.then(|| view.prunes.iter().map(prune_json).collect()),
        demotions: whole.then(|| view.demotions.iter().map(MemoryId::as_str).collect()),
        more: (whole && view.more).then_some(true),
    }
}

/// Links of one memory.
pub fn links(links: &[LinkView]) -> Vec<impl Serialize + '_> {
    links.iter().map(link).collect()
}

fn link(link: &LinkView) -> impl Serialize + '_ {
    #[derive(Serialize)]
    struct View<'a> {
        from: &'a str,
        to: &'a str,
        weight: f32,
        kind: &'a str,
        automatic: bool,
        live: bool,
    }
    View {
        from: link.from.as_str(),
        to: link.to.as_str(),
        weight: link.weight,
        kind: link.kind.as_str(),
        automatic: link.automatic,
        live: link.live,
    }
}

/// The answer to a recall.
pub fn recalled<'a>(
    recalled: &'a Recalled,
    with: With,
    explain: bool,
    took_us: u64,
) -> impl Serialize + 'a {
    #[derive(Serialize)]
    struct View<M: Serialize> {
        memories: Vec<M>,
        truncated: bool,
        took_us: u64,
        visited: Visited,
        #[serde(skip_serializing_if = "Option::is_none")]
        phases: Option<Vec<PhaseJson>>,
    }
    #[derive(Serialize)]
    struct Visited {
        memories: u64,
        links: u64,
        shards: u64,
        messages: u64,
    }
    #[derive(Serialize)]
    struct PhaseJson {
        name: &'static str,
        took_us: u64,
    }
    let phase = |time: &PhaseTime| PhaseJson { name: time.phase.as_str(), took_us: time.took_us };
    let visited = recalled.visited;
    View {
        memories: recalled.memories.iter().map(|one| recalled_memory(one, with, explain)).collect(),
        truncated: recalled.truncated,
        took_us,
        visited: Visited {
            memories: visited.memories,
            links: visited.links,
            shards: visited.shards,
            messages: visited.messages,
        },
        phases: explain.then(|| recalled.phases.iter().map(phase).collect()),
    }
}

fn recalled_memory(one: &RecalledMemory, with: With, explain: bool) -> impl Serialize + '_ {
    MemoryJson {
        score: Some(one.score),
        score_breakdown: Some(BreakdownJson {
            semantic: one.breakdown.semantic,
            lexical: one.breakdown.lexical,
            activation: one.breakdown.activation,
            recency: one.breakdown.recency,
        }),
        hops: Some(one.hops),
        path: explain.then(|| one.path.iter().map(step).collect()),
        ..memory_json(&one.memory, with)
    }
}

#[derive(Serialize)]
struct BreakdownJson {
    semantic: f64,
    lexical: f64,
    activation: f64,
    recency: f64,
}

#[derive(Serialize)]
struct StepJson<'a> {
    id: &'a str,
    activation: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    term: Option<&'a str>,
}

fn step(step: &PathStep) -> StepJson<'_> {
    StepJson {
        id: step.id.as_str(),
        activation: step.activation,
        kind: step.kind.as_ref().map(|kind| kind.as_str()),
        weight: step.kind.is_some().then_some(step.weight),
        term: step.term.as_deref(),
    }
}

/// One space.
pub fn space(view: &SpaceView) -> impl Serialize + '_ {
    #[derive(Serialize)]
    struct View<'a> {
        name: &'a str,
        dimensions: Option<u16>,
        metric: &'static str,
        encoding: &'static str,
        half_life: Option<u64>,
        associate: bool,
        title_from_content: bool,
        memories: u64,
        links: u64,
    }
    View {
        name: view.name.as_str(),
        dimensions: view.config.dimensions,
        metric: space::metric_name(view.config.metric),
        encoding: space::encoding_name(view.config.encoding),
        half_life: view.config.half_life_s,
        associate: view.config.associate,
        title_from_content: view.config.title_from_content,
        memories: view.memories,
        links: view.links,
    }
}

/// Counts of the whole server.
pub fn stats(stats: &Stats) -> Vec<u8> {
    #[derive(Serialize)]
    struct View {
        memories: u64,
        links: u64,
        automatic_links: u64,
        cold_memories: u64,
        spaces: u64,
        index_backlog: u64,
        association_backlog: u64,
        merged: u64,
        pruned_links: u64,
        traces: u64,
        memory_bytes: serde_json::Map<String, serde_json::Value>,
        shards: Vec<Shard>,
    }
    #[derive(Serialize)]
    struct Shard {
        shard: u16,
        memories: u64,
        links: u64,
        log_bytes: u64,
    }
    let shard = |shard: &engram_engine::request::ShardStats| Shard {
        shard: shard.shard,
        memories: shard.memories,
        links: shard.links,
        log_bytes: shard.log_bytes,
    };
    let part = |&(name, bytes): &(&str, u64)| (name.to_owned(), bytes.into());
    to_json(&View {
        memories: stats.memories,
        links: stats.links,
        automatic_links: stats.automatic_links,
        cold_memories: stats.cold_memories,
        spaces: stats.spaces,
        index_backlog: stats.index_backlog,
        association_backlog: stats.association_backlog,
        merged: stats.merged,
        pruned_links: stats.pruned_links,
        traces: stats.traces,
        memory_bytes: stats.memory_bytes.iter().map(part).collect(),
        shards: stats.shards.iter().map(shard).collect(),
    })
}

#[derive(Serialize)]
struct MemoryJson<'a, L: Serialize> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    score_breakdown: Option<BreakdownJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hops: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    embedding: Option<Option<&'a [f32]>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a Metadata>,
    confidence: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    links: Option<Vec<L>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    merged: Option<Vec<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    merged_into: Option<&'a str>,
    #[serde(serialize_with = "time::serialize")]
    created_at: Timestamp,
    #[serde(serialize_with = "time::serialize")]
    updated_at: Timestamp,
    #[serde(serialize_with = "time::serialize_option")]
    expires_at: Option<Timestamp>,
    tier: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<Vec<StepJson<'a>>>,
}
