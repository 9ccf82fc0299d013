//! What a client may ask, what it gets, and why it may be refused.
//!
//! *Invariants*: the enums are closed: `net` turns each variant into HTTP by exhaustive matches.
//!
//! *Not here*: JSON (`net`), messages between shards (`mesh`).

use crate::cold::ColdSegmentId;
use crate::filter::Filter;
use crate::life::Outcome;
use crate::life::run::RunView;
use crate::model::{
    Link, LinkKind, LinkView, Memory, MemoryId, Metadata, NewMemory, SpaceConfig, SpaceName, Tier,
    Timestamp,
};
use crate::shard::ConsolidateAsk;

/// When a write is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wait {
    /// After the data is on stable storage.
    #[default]
    Durable,
    /// After it is visible, before it is durable.
    Applied,
}

/// What a store does with an id that exists, or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreMode {
    /// An id that exists is refused with [`Code::AlreadyExists`].
    Create,
    /// Create or replace.
    Upsert,
}

/// One request; every variant but the last few names its space.
#[derive(Clone, Debug)]
pub enum Request {
    /// Store memories; the answer is [`Answer::Stored`], one verdict for each, in order.
    Store { space: SpaceName, memories: Vec<NewMemory>, mode: StoreMode, wait: Wait },
    /// Read one; [`Answer::Memory`].
    Read { space: SpaceName, id: MemoryId, with: With },
    /// JSON merge patch (RFC 7396); [`Answer::Memory`].
    Patch { space: SpaceName, id: MemoryId, patch: Box<Patch>, wait: Wait },
    /// Forget for good; [`Answer::Deleted`].
    Delete { space: SpaceName, id: MemoryId, wait: Wait },
    /// A page of memories in the order of their ids' hashes; [`Answer::Page`].
    List { space: SpaceName, limit: usize, cursor: Option<String>, filter: Filter, with: With },
    /// Exact count under a filter; [`Answer::Count`].
    Count { space: SpaceName, filter: Filter },
    /// Write links; [`Answer::Linked`]. A link of the same ends and kind is replaced.
    Link { space: SpaceName, links: Vec<(MemoryId, Link)>, wait: Wait },
    /// Remove links; [`Answer::Unlinked`]. `kind: None` removes all kinds between the two.
    Unlink { space: SpaceName, links: Vec<LinkName>, wait: Wait },
    /// Links of one memory; [`Answer::Links`].
    Links { space: SpaceName, id: MemoryId, direction: Direction, kind: Option<LinkKind> },
    /// Recall; [`Answer::Recalled`].
    Recall { space: SpaceName, recall: Box<Recall> },
    /// Say how useful memories were; [`Answer::Reinforced`].
    Reinforce { space: SpaceName, ids: Vec<MemoryId>, outcome: Outcome, wait: Wait },
    /// Start, list, read or undo a consolidation; [`Answer::Run`] or [`Answer::Runs`].
    Consolidate { space: SpaceName, ask: ConsolidateAsk },
    /// Every space; [`Answer::Spaces`].
    ListSpaces,
    /// One space; [`Answer::Spaces`] with one entry.
    ReadSpace { space: SpaceName },
    /// Create a space or change what may change; [`Answer::Spaces`] with one entry.
    PutSpace { space: SpaceName, config: SpaceConfig },
    /// Forget a space with all that is in it; [`Answer::Deleted`].
    DropSpace { space: SpaceName },
    /// Counts and memory of the whole server; [`Answer::Stats`].
    Stats,
    /// Move memories to the cold tier; [`Answer::Demoted`].
    Demote { space: SpaceName, ids: Vec<MemoryId> },
    /// Forget what has expired; [`Answer::Expired`].
    Expire,
    /// Compare what the cold tier holds (segment and number of records) with what is in use, and
    /// rewrite segments that hold what is forgotten; [`Answer::Swept`].
    Sweep { listed: Vec<(ColdSegmentId, u32)> },
}

impl Request {
    /// The space that has to be there for this to be done.
    pub fn existing_space(&self) -> Option<&SpaceName> {
        match self {
            Self::Read { space, .. }
            | Self::Patch { space, .. }
            | Self::Delete { space, .. }
            | Self::List { space, .. }
            | Self::Count { space, .. }
            | Self::Link { space, .. }
            | Self::Unlink { space, .. }
            | Self::Links { space, .. }
            | Self::Recall { space, .. }
            | Self::Reinforce { space, .. }
            | Self::Consolidate { space, .. }
            | Self::ReadSpace { space }
            | Self::Demote { space, .. } => Some(space),
            Self::Store { .. }
            | Self::ListSpaces
            | Self::PutSpace { .. }
            | Self::DropSpace { .. }
            | Self::Stats
            | Self::Expire
            | Self::Sweep { .. } => None,
        }
    }
}

/// What of a memory is read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct With {
    /// The text.
    pub content: bool,
    /// The metadata.
    pub metadata: bool,
    /// The embedding.
    pub embedding: bool,
    /// The links that leave it.
    pub links: bool,
    /// What was merged into it.
    pub merged: bool,
}

impl With {
    /// Nothing but what is known without reading its record.
    pub const NONE: Self =
        Self { content: false, metadata: false, embedding: false, links: false, merged: false };
    /// All that its record holds.
    pub const ALL: Self = Self { content: true, metadata: true, embedding: true, ..Self::NONE };
    /// Content and metadata: what an answer holds when the client does not say.
    pub const DEFAULT: Self = Self { content: true, metadata: true, ..Self::NONE };
}

/// What a merge patch changes: outer `None` leaves, inner `None` removes (JSON `null`).
#[derive(Clone, Debug, Default)]
pub struct Patch {
    /// Text.
    pub content: Option<Option<String>>,
    /// Embedding.
    pub embedding: Option<Option<Vec<f32>>>,
    /// Merge patch of the metadata object; inner `None` empties it.
    pub metadata: Option<Option<Metadata>>,
    /// Confidence, 0 to 1.
    pub confidence: Option<Option<f32>>,
    /// Expiry.
    pub expires_at: Option<Option<Timestamp>>,
}

/// Which links of a memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Those that leave it.
    #[default]
    Out,
    /// Those that lead to it.
    In,
    /// Both.
    Both,
}

/// A link by its ends, and its kind where only that one is meant.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkName {
    /// The memory it leaves.
    pub from: MemoryId,
    /// The memory it leads to.
    pub to: MemoryId,
    /// Its kind; `None`: every kind.
    pub kind: Option<LinkKind>,
}

/// One cue of a recall.
#[derive(Clone, Debug, PartialEq)]
pub struct Cue {
    /// What it is.
    pub kind: CueKind,
    /// How much it counts beside the others, 0 < weight ≤ 1 (default 1).
    pub weight: f32,
}

/// What a cue is.
#[derive(Clone, Debug, PartialEq)]
pub enum CueKind {
    /// Words, searched lexically and for names.
    Text(String),
    /// A vector, searched by similarity.
    Embedding(Vec<f32>),
    /// A memory that lights up by itself.
    Id(MemoryId),
}

/// A recall; the defaults of its fields are those of [`Recall::default`].
#[derive(Clone, Debug)]
pub struct Recall {
    /// 1 to 64 cues.
    pub cues: Vec<Cue>,
    /// How many memories come back, 1 to 1,000.
    pub top_k: usize,
    /// What may come back; activation runs through other memories all the same.
    pub filter: Filter,
    /// How far activation runs, 0 to 8; 0 is search without spreading; `None`: as the recipe says.
    pub max_hops: Option<u8>,
    /// What is left of activation after each further hop, 0 to 1.
    pub decay: f32,
    /// Activation below this is not passed on, 0 to 1.
    pub min_activation: f32,
    /// Strongest links followed out of one memory.
    pub fan_out: u32,
    /// Most seeds, 1 to 1,000.
    pub max_seeds: u32,
    /// Kinds of links followed; `None`: all, shared terms included.
    pub link_kinds: Option<Vec<LinkKind>>,
    /// Names and attributes found in a text cue light up their memories.
    pub names: bool,
    /// Tiers that are searched.
    pub tiers: Vec<Tier>,
    /// No approximate index.
    pub exact: bool,
    /// Paths, parts of the score and times come with the answer.
    pub explain: bool,
    /// What comes back is strengthened.
    pub reinforce: bool,
    /// What of each memory comes back.
    pub with: With,
    /// Time after which what was found so far is answered, in milliseconds.
    pub timeout_ms: u64,
}

impl Default for Recall {
    fn default() -> Self {
        Self {
            cues: Vec::new(),
            top_k: 10,
            filter: Filter::default(),
            max_hops: None,
            decay: 0.5,
            min_activation: 0.001,
            fan_out: 256,
            max_seeds: 10,
            link_kinds: None,
            names: true,
            tiers: vec![Tier::Fast, Tier::Warm],
            exact: false,
            explain: false,
            reinforce: false,
            with: With::DEFAULT,
            timeout_ms: 1000,
        }
    }
}

/// The answer to a [`Request`]; which variant is said there.
#[derive(Clone, Debug)]
pub enum Answer {
    /// One verdict for each memory, in order.
    Stored { verdicts: Vec<Result<Stored, Rejection>>, durable: bool },
    /// One memory.
    Memory(Box<Memory>),
    /// It is gone.
    Deleted { durable: bool },
    /// A page, and where the next one starts.
    Page { memories: Vec<Memory>, next_cursor: Option<String> },
    /// How many.
    Count(u64),
    /// How many links were written, and which of them were refused.
    Linked { verdicts: Vec<Result<(), Rejection>>, durable: bool },
    /// How many links were removed.
    Unlinked { removed: u64, durable: bool },
    /// Links of one memory.
    Links(Vec<LinkView>),
    /// A consolidation.
    Run(Box<RunView>),
    /// Consolidations, newest first.
    Runs(Vec<RunView>),
    /// How many distinct memories were reinforced, and which ids name none.
    Reinforced { reinforced: u64, missing: Vec<MemoryId>, durable: bool },
    /// What came to mind.
    Recalled(Box<Recalled>),
    /// Spaces with their counts.
    Spaces(Vec<SpaceView>),
    /// Counts of the whole server.
    Stats(Box<Stats>),
    /// How many lie in the cold tier now that did not before.
    Demoted(u64),
    /// How many were forgotten.
    Expired(u64),
    /// Segments that nothing needs any more, and whether some were rewritten.
    Swept { unused: Vec<(ColdSegmentId, u32)>, rewritten: u64 },
}

/// What became of one memory that was stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Its id.
    pub id: MemoryId,
    /// It did not exist before.
    pub created: bool,
    /// When it was made, as it will be read back.
    pub created_at: Timestamp,
}

/// The answer to a recall.
#[derive(Clone, Debug, Default)]
pub struct Recalled {
    /// Best first.
    pub memories: Vec<RecalledMemory>,
    /// A time or work budget ended the spreading early.
    pub truncated: bool,
    /// What was done for it.
    pub visited: Visited,
    /// Time by phase, in the order in which they ran.
    pub phases: Vec<PhaseTime>,
}

/// One phase of a recall and how long it took.
#[derive(Clone, Copy, Debug)]
pub struct PhaseTime {
    /// The phase.
    pub phase: RecallPhase,
    /// Duration in microseconds.
    pub took_us: u64,
}

/// What a recall waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecallPhase {
    /// The nearest by vector, names and ids.
    Probe,
    /// Lexical search.
    Lexical,
    /// One hop of spreading.
    Hop,
    /// Members of shared terms, in the first hop.
    Terms,
    /// BM25 for what the seeds lack of the cue.
    Score,
    /// Contents.
    Fetch,
    /// Contents from the cold tier.
    Cold,
    /// Names of what lies on the paths.
    Names,
}

impl RecallPhase {
    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Lexical => "lexical",
            Self::Hop => "hop",
            Self::Terms => "terms",
            Self::Score => "score",
            Self::Fetch => "fetch",
            Self::Cold => "cold",
            Self::Names => "names",
        }
    }
}

/// What a recall touched.
#[derive(Clone, Copy, Debug, Default)]
pub struct Visited {
    /// Memories that were activated or scored.
    pub memories: u64,
    /// Links and shared-term edges that were followed.
    pub links: u64,
    /// Shards that took part.
    pub shards: u64,
    /// Envelopes between shards.
    pub messages: u64,
}

/// One memory that came to mind.
#[derive(Clone, Debug)]
pub struct RecalledMemory {
    /// The memory, as far as it was asked for.
    pub memory: Memory,
    /// 0 to 1, by which the answer is ordered.
    pub score: f64,
    /// Its parts.
    pub breakdown: ScoreBreakdown,
    /// How far it is from the nearest seed on its strongest path; 0: a direct hit.
    pub hops: u8,
    /// The strongest path from a seed to it; only with `explain`.
    pub path: Vec<PathStep>,
}

/// The parts of a score, each 0 to 1 but for `recency`, which is -1/2 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ScoreBreakdown {
    /// Similarity of the embedding, scaled over the candidates.
    pub semantic: f64,
    /// BM25, scaled over the candidates.
    pub lexical: f64,
    /// Activation that came along links.
    pub activation: f64,
    /// What use does to it: 0 for what was never reinforced, below 0 after bad outcomes.
    pub recency: f64,
}

/// One step of a path: the memory, and the link by which activation left it for the next step.
#[derive(Clone, Debug, PartialEq)]
pub struct PathStep {
    /// The memory.
    pub id: MemoryId,
    /// Kind of the link to the next step (`shared_term` for one over a shared term); `None` last.
    pub kind: Option<LinkKind>,
    /// Weight of that link after fan-out normalisation.
    pub weight: f64,
    /// Activation that the memory had.
    pub activation: f64,
    /// The shared term, where `kind` is `shared_term`.
    pub term: Option<String>,
}

/// A space with its counts.
#[derive(Clone, Debug)]
pub struct SpaceView {
    /// Its name.
    pub name: SpaceName,
    /// What it is.
    pub config: SpaceConfig,
    /// Memories that exist.
    pub memories: u64,
    /// Links that leave them, automatic ones included.
    pub links: u64,
}

/// Counts of the whole server; bytes are those of the engine's own structures.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Memories that exist.
    pub memories: u64,
    /// Links, automatic ones included.
    pub links: u64,
    /// Links made by the server.
    pub automatic_links: u64,
    /// Memories whose contents lie in the cold tier.
    pub cold_memories: u64,
    /// Spaces.
    pub spaces: u64,
    /// Memories whose vector is searched exactly until the index holds it.
    pub index_backlog: u64,
    /// Memories whose automatic associations are not yet made.
    pub association_backlog: u64,
    /// Memories that were merged into others, and are not counted among them.
    pub merged: u64,
    /// Automatic links that consolidation has pruned.
    pub pruned_links: u64,
    /// Memories and ways on which use has left something.
    pub traces: u64,
    /// Memory by part, in bytes: (`vectors`, 123).
    pub memory_bytes: Vec<(&'static str, u64)>,
    /// The same for each shard: (shard, memories, links).
    pub shards: Vec<ShardStats>,
}

/// Counts of one shard.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShardStats {
    /// Number of the shard, from 0.
    pub shard: u16,
    /// Memories that it owns.
    pub memories: u64,
    /// Links that leave them.
    pub links: u64,
    /// Bytes of its log.
    pub log_bytes: u64,
}

/// Why a request was refused: the stable code, and one sentence that says what is wrong and what to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejection {
    /// Stable and documented.
    pub code: Code,
    /// For people.
    pub detail: String,
    /// Where in the request body, as a JSON pointer; empty: the whole.
    pub pointer: String,
}

impl Rejection {
    /// A rejection that concerns the whole request.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), pointer: String::new() }
    }

    /// A rejection that points into the request body.
    pub fn at(code: Code, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), pointer: pointer.into() }
    }
}

/// Why the engine or a shard refuses; `net` has further ones for HTTP itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// 404: no such memory.
    NotFound,
    /// 404: no such space.
    SpaceNotFound,
    /// 409: the id exists.
    AlreadyExists,
    /// 409: the space exists with other dimensions, metric or encoding.
    SpaceConflict,
    /// 409: a consolidation of the space is under way.
    ConsolidationRunning,
    /// 400: the embedding's length is not the space's.
    DimensionMismatch,
    /// 422: the embedding has no direction (zero vector under cosine).
    ZeroVector,
    /// 422: a value is outside of its range.
    InvalidValue,
    /// 422: a bound of [`crate::limits`] is passed.
    LimitExceeded,
    /// 429: too much is under way.
    TooManyRequests,
    /// 503: the server starts, drains or was told to stop.
    Unavailable,
    /// 503: the log could not be written; reads go on.
    Poisoned,
    /// 504: the deadline passed before there was anything to answer.
    DeadlineExceeded,
    /// 500: a record that was acknowledged can't be read back.
    Unreadable,
    /// 507: the memory budget is reached; reads and forgetting go on.
    MemoryBudget,
    /// 507: the disk is nearly full; reads and forgetting go on.
    DiskBudget,
    /// 404: no such snapshot.
    SnapshotNotFound,
    /// 409: a snapshot is being taken.
    SnapshotRunning,
    /// 503: the cold tier, where the content lies, can't be reached.
    ColdUnavailable,
}
