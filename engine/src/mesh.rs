//! What shards say to each other.
//!
//! *Invariants*: every `Ask` gets exactly one `Reply`; a `Tell` gets none; envelopes between two
//! shards arrive in the order in which they were sent, which is what makes a write visible to
//! every recall that starts after its answer.
//!
//! *Not here*: mailboxes (`shards`), what is done about a message (`shard`).

use std::sync::Arc;

use crate::attributes::Attribute;
use crate::cold::ColdSegmentId;
use crate::filter::Filter;
use crate::fixed::Activation;
use crate::key::MemoryKey;
use crate::life::run::RunId;
use crate::life::{Lift, Lived, Outcome};
use crate::model::{
    Link, LinkKind, Memory, MemoryId, NewMemory, SpaceConfig, SpaceName, Tier, Timestamp,
};
use crate::names::NameSpan;
use crate::node::NodeIx;
use crate::request::{
    Direction, LinkName, Patch, Rejection, ShardStats, StoreMode, Stored, Wait, With,
};
use crate::shard::{ConsolidateAsk, ConsolidateReply, ReinforceAsk};
use crate::terms::SharedTermKey;
use crate::text::TermKey;

/// Number of an operation on its home shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// One message with the sender's clock, which the receiver's never falls behind.
#[derive(Debug)]
pub struct Envelope {
    /// The newest timestamp that the sender gave.
    pub clock: Timestamp,
    /// How long the sender has lived.
    pub lived: Lived,
    /// What it says.
    pub message: Message,
}

/// What an envelope says.
#[derive(Debug)]
pub enum Message {
    /// Asks for one reply.
    Ask(OpId, Ask),
    /// The reply, and for how many microseconds it waited for stable storage.
    Reply(OpId, Result<Reply, Rejection>, u32),
    /// Needs no reply.
    Tell(SpaceName, Tell),
}

/// What a home shard asks of an owner.
#[derive(Debug)]
pub enum Ask {
    /// Store memories that the shard owns.
    Store { space: SpaceName, items: Vec<StoreItem>, mode: StoreMode, wait: Wait },
    /// Read one.
    Read { space: SpaceName, id: MemoryId, with: With },
    /// Change one.
    Patch { space: SpaceName, id: MemoryId, patch: Box<Patch>, wait: Wait },
    /// Forget one.
    Delete { space: SpaceName, id: MemoryId, wait: Wait },
    /// Write links that leave memories of this shard.
    Link { space: SpaceName, items: Vec<LinkItem>, wait: Wait },
    /// Remove links that leave memories of this shard.
    Unlink { space: SpaceName, items: Vec<LinkName>, wait: Wait },
    /// Links of one memory.
    Links { space: SpaceName, id: MemoryId, direction: Direction, kind: Option<LinkKind> },
    /// The memories that follow `after` in the order of keys.
    List {
        space: SpaceName,
        after: Option<MemoryKey>,
        limit: usize,
        filter: Arc<Filter>,
        with: With,
    },
    /// How many memories a filter lets through.
    Count { space: SpaceName, filter: Arc<Filter> },
    /// To the authority: create a space, or change what may change.
    PutSpace { space: SpaceName, config: SpaceConfig },
    /// To the authority: make sure that a space exists, with these dimensions if any are given.
    EnsureSpace { space: SpaceName, dimensions: Option<u16> },
    /// To the authority: forget a space.
    DropSpace { space: SpaceName },
    /// Memories of the sender are gone, durably: links to them go with them.
    Forget(Arc<Vec<(SpaceName, Vec<MemoryKey>)>>),
    /// Answer once everything that was appended so far is durable.
    Barrier,
    /// Answer at once: by then, what this shard was told before has been heard.
    Echo,
    /// Counts of each space.
    Spaces { space: Option<SpaceName> },
    /// Counts of the shard.
    Stats,
    /// The ids of keys.
    Names { space: SpaceName, keys: Vec<MemoryKey> },
    /// First phase of a recall.
    Probe(Arc<Probe>),
    /// Second phase: lexical search under the statistics of all shards.
    Lexical(Arc<LexicalAsk>, Vec<MemoryKey>),
    /// One hop of spreading.
    Hop(Arc<HopAsk>, Vec<Source>),
    /// The members of shared terms; how they read, where `explain` is set.
    Terms { space: SpaceName, terms: Arc<Vec<SharedTermKey>>, explain: bool },
    /// BM25 of memories for the terms of the cue that no seed holds, and what use did to them.
    Score(Arc<ScoreAsk>, Vec<MemoryKey>),
    /// Contents of the best, for the answer.
    Fetch { space: SpaceName, keys: Vec<MemoryKey>, filter: Arc<Filter>, with: With, reach: Reach },
    /// The contents of a cold memory for the answer; it comes back to warm.
    FetchCold { space: SpaceName, key: MemoryKey, with: With },
    /// Move memories of this shard to the cold tier, for a client or for a consolidation.
    Demote { space: SpaceName, keys: Vec<MemoryKey>, run: Option<RunId> },
    /// Forget memories whose time is over, a bounded number at once.
    Expire,
    /// How many records of each cold segment are in use, once that is durable.
    ColdUse,
    /// Move what is in use out of cold segments that hold what is forgotten.
    Rewrite { segments: Arc<Vec<ColdSegmentId>> },
    /// Which names each text mentions.
    Mentions { space: SpaceName, texts: Arc<Vec<String>> },
    /// Reinforce memories that the shard owns.
    Reinforce(ReinforceAsk, Vec<MemoryId>),
    /// Consolidation.
    Consolidate(SpaceName, ConsolidateAsk),
}

impl Ask {
    /// What is asked, in one word, for traces.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Store { .. } => "store",
            Self::Read { .. } => "read",
            Self::Patch { .. } => "patch",
            Self::Delete { .. } => "delete",
            Self::Link { .. } => "link",
            Self::Unlink { .. } => "unlink",
            Self::Links { .. } => "links",
            Self::List { .. } => "list",
            Self::Count { .. } => "count",
            Self::PutSpace { .. } => "put_space",
            Self::EnsureSpace { .. } => "ensure_space",
            Self::DropSpace { .. } => "drop_space",
            Self::Forget(_) => "forget",
            Self::Barrier => "barrier",
            Self::Echo => "echo",
            Self::Spaces { .. } => "spaces",
            Self::Stats => "stats",
            Self::Names { .. } => "names",
            Self::Probe(_) => "seed",
            Self::Lexical(..) => "lexical",
            Self::Hop(..) => "hop",
            Self::Terms { .. } => "terms",
            Self::Score(..) => "score",
            Self::Fetch { .. } => "fetch",
            Self::Mentions { .. } => "mentions",
            Self::Reinforce(..) => "reinforce",
            Self::Consolidate(..) => "consolidate",
            Self::Demote { .. } => "demote",
            Self::FetchCold { .. } => "cold",
            Self::Expire => "expire",
            Self::ColdUse => "cold_use",
            Self::Rewrite { .. } => "rewrite",
        }
    }
}

/// A memory to store, with its place in the request.
#[derive(Debug)]
pub struct StoreItem {
    /// Index in the request.
    pub position: usize,
    /// The memory.
    pub memory: NewMemory,
    /// When it arrived at its home shard, unique and rising there.
    pub arrived_at: Timestamp,
}

/// A link to write, with its place in the request.
#[derive(Debug)]
pub struct LinkItem {
    /// Index in the request.
    pub position: usize,
    /// The memory it leaves.
    pub from: MemoryId,
    /// The link.
    pub link: Link,
}

/// What an owner replies.
#[derive(Debug)]
pub enum Reply {
    /// A verdict for each item, with its place in the request.
    Stored(Vec<(usize, Result<Stored, Rejection>)>),
    /// One memory.
    Memory(Box<Memory>),
    /// Done, and durable where that was asked for.
    Done,
    /// A verdict for each link, with its place in the request.
    Linked(Vec<(usize, Result<(), Rejection>)>),
    /// How many were removed.
    Unlinked(u64),
    /// Links; an end that this shard does not know by id is a bare key.
    Links(Vec<LinkRow>),
    /// Memories in the order of keys, and whether there are more.
    Page { rows: Vec<(MemoryKey, Memory)>, more: bool },
    /// How many.
    Count(u64),
    /// Each space with memories and links.
    Spaces(Vec<(SpaceName, SpaceConfig, u64, u64)>),
    /// Counts of the shard.
    Stats(Box<ShardReport>),
    /// Ids, where the memory exists.
    Names(Vec<(MemoryKey, MemoryId)>),
    /// See [`Probed`].
    Probed(Box<Probed>),
    /// See [`LexicalFound`].
    Lexical(Box<LexicalFound>),
    /// See [`Hopped`].
    Hopped(Box<Hopped>),
    /// For each term asked for, in order.
    Terms(Vec<TermMembers>),
    /// Scores, in the order asked, and what use has done to those that were used.
    Scored { scores: Vec<f32>, lifts: Vec<(MemoryKey, Lift)> },
    /// The ids that name no memory.
    Reinforced(Vec<MemoryId>),
    /// Consolidation.
    Consolidated(ConsolidateReply),
    /// Contents, in the order asked.
    Fetched(Vec<Found>),
    /// The contents of one cold memory.
    FetchedCold(MemoryKey, Found),
    /// Those that lie in the cold tier now.
    Demoted(Vec<MemoryKey>),
    /// How many were forgotten, and whether there are more.
    Expired { count: u64, more: bool },
    /// Records in use by segment; a segment that is being written counts as [`SEGMENT_BUSY`].
    ColdUse(Vec<(ColdSegmentId, u32)>),
    /// For each text, the names in it that memories of this shard bear, and how often names were
    /// taken away on this shard until then.
    Mentions { found: Vec<Vec<Mention>>, names_version: u64 },
}

/// Where the contents of what a recall answers may lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// In the log or its caches.
    pub log: bool,
    /// In the cold tier.
    pub cold: bool,
}

/// In place of a number of records: the segment is being written.
pub const SEGMENT_BUSY: u32 = u32::MAX;

/// What there is of a memory that is wanted for an answer.
#[derive(Debug)]
pub enum Found {
    /// Filter, time or tier removed it.
    Nothing,
    /// It.
    Memory(Box<Memory>),
    /// It exists, its contents lie in the cold tier.
    Cold,
    /// Its contents can't be had from the cold tier now.
    OutOfReach,
}

/// A link as an owner reports it.
#[derive(Clone, Debug)]
pub struct LinkRow {
    /// Source.
    pub from: Result<MemoryId, MemoryKey>,
    /// Target.
    pub to: Result<MemoryId, MemoryKey>,
    /// Weight in units.
    pub weight: u16,
    /// Kind.
    pub kind: LinkKind,
    /// Made by the server.
    pub automatic: bool,
    /// The target exists.
    pub live: bool,
}

/// Counts of one shard.
#[derive(Clone, Debug, Default)]
pub struct ShardReport {
    /// Memories and links.
    pub stats: ShardStats,
    /// Links made by the server.
    pub automatic_links: u64,
    /// Memories whose contents lie in the cold tier.
    pub cold_memories: u64,
    /// Spaces.
    pub spaces: u64,
    /// Memories not yet in the vector index.
    pub index_backlog: u64,
    /// Memories not yet associated.
    pub association_backlog: u64,
    /// Memories that were merged into others.
    pub merged: u64,
    /// Links that are not made, since they were pruned.
    pub pruned_links: u64,
    /// Memories and ways on which use has left something.
    pub traces: u64,
    /// Bytes by part.
    pub memory_bytes: Vec<(&'static str, u64)>,
}

/// What every shard is asked first in a recall.
#[derive(Debug)]
pub struct Probe {
    /// Space.
    pub space: SpaceName,
    /// What may be found.
    pub filter: Filter,
    /// Embeddings, one search each.
    pub embeddings: Vec<Vec<f32>>,
    /// Distinct terms of the text cues.
    pub terms: Vec<TermKey>,
    /// Text cues in normal form, for names.
    pub texts: Vec<String>,
    /// Memories named by id.
    pub ids: Vec<MemoryKey>,
    /// How many of the nearest each search returns.
    pub candidates: usize,
    /// No approximate index.
    pub exact: bool,
    /// Names and attributes are looked for in the texts.
    pub names: bool,
}

/// What a shard finds first.
#[derive(Debug, Default)]
pub struct Probed {
    /// Documents in the text index.
    pub documents: u64,
    /// Sum of their lengths.
    pub total_length: u64,
    /// Memories in the space, for the weight of shared terms.
    pub memories: u64,
    /// In how many documents each term occurs.
    pub document_frequency: Vec<u32>,
    /// For each embedding, the nearest: key and similarity, best first.
    pub nearest: Vec<Vec<(MemoryKey, f32)>>,
    /// For each text, the names in it that memories of this shard bear.
    pub mentions: Vec<Vec<Mention>>,
    /// Which of the ids exist here.
    pub ids: Vec<MemoryKey>,
    /// Attribute values named in the texts.
    pub attributes: Vec<Attribute>,
    /// Neighbours in their sequences of the nearest.
    pub neighbours: Neighbours,
    /// Memories of this shard were reinforced.
    pub traced: bool,
}

/// Memories with their neighbours in a sequence and the weight of each.
pub type Neighbours = Vec<(MemoryKey, Vec<(MemoryKey, f32)>)>;

/// Who holds a shared term on one shard.
#[derive(Clone, Debug, Default)]
pub struct TermMembers {
    /// How many.
    pub count: u64,
    /// They, where they are few enough to matter.
    pub keys: Vec<MemoryKey>,
    /// How the term reads; only where asked for.
    pub display: Option<Arc<str>>,
}

/// A name that occurs in a text, with who bears it on one shard.
#[derive(Clone, Debug, PartialEq)]
pub struct Mention {
    /// Where, and which name.
    pub span: NameSpan,
    /// How many memories of the shard bear it.
    pub holder_count: u32,
    /// They, with the weight of the name for each; none where they are too many.
    pub holders: Vec<(MemoryKey, f32)>,
}

/// Lexical search under the statistics of all shards.
#[derive(Debug)]
pub struct LexicalAsk {
    /// Space.
    pub space: SpaceName,
    /// What may be found.
    pub filter: Filter,
    /// For each text cue, its terms with their weights (inverse document frequency).
    pub queries: Vec<Vec<(TermKey, f32)>>,
    /// Average length of a document.
    pub average_length: f64,
    /// How many each query returns.
    pub candidates: usize,
    /// Attributes whose bearers are marked.
    pub attributes: Vec<Attribute>,
}

/// A lexical query whose score is wanted for given memories.
#[derive(Debug)]
pub struct ScoreAsk {
    /// Space.
    pub space: SpaceName,
    /// Terms with their weights.
    pub terms: Vec<(TermKey, f32)>,
    /// Average length of a document.
    pub average_length: f64,
    /// When the recall began.
    pub lived: Lived,
}

/// What lexical search found.
#[derive(Debug, Default)]
pub struct LexicalFound {
    /// For each query: key and score, best first.
    pub hits: Vec<Vec<(MemoryKey, f32)>>,
    /// For each attribute, those of the hits and of the keys sent along that bear it.
    pub bearers: Vec<Vec<MemoryKey>>,
    /// Neighbours in their sequences of the hits.
    pub neighbours: Neighbours,
}

/// A memory that sends activation.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// Which.
    pub key: MemoryKey,
    /// How much it has to send.
    pub activation: Activation,
    /// Its number on its owner, where that is known; it may have changed since.
    pub node: NodeIx,
}

impl Source {
    /// A source whose number is not known.
    pub fn new(key: MemoryKey, activation: Activation) -> Self {
        Self { key, activation, node: NodeIx::NONE }
    }
}

/// Activation on its way along one link.
#[derive(Clone, Copy, Debug)]
pub struct Pulse {
    /// To which memory.
    pub key: MemoryKey,
    /// How much.
    pub amount: Activation,
    /// The target's number on the shard that says so.
    pub node: NodeIx,
}

/// One hop of spreading.
#[derive(Debug)]
pub struct HopAsk {
    /// Space.
    pub space: SpaceName,
    /// Kinds of links followed; `None`: all.
    pub kinds: Option<Vec<LinkKind>>,
    /// Strongest links followed out of one memory.
    pub fan_out: u32,
    /// Links that may be followed in all.
    pub budget: u64,
    /// Where activation came from is reported.
    pub explain: bool,
    /// The shared terms of the sources are reported.
    pub terms: bool,
    /// Terms of the cue: which of the first 64 the sources hold is reported.
    pub held: Vec<TermKey>,
    /// When the recall began.
    pub lived: Lived,
}

/// What a hop brought.
#[derive(Debug, Default)]
pub struct Hopped {
    /// A pulse for each link that was followed.
    pub pulses: Vec<Pulse>,
    /// For each pulse, where it came from; only where asked for.
    pub via: Vec<Via>,
    /// Shared terms of each source; only where asked for.
    pub terms: Vec<(MemoryKey, Vec<SharedTermKey>)>,
    /// A bit for each term of the cue that one of the sources holds.
    pub held: u64,
    /// Links followed.
    pub links: u64,
    /// The budget ended it early.
    pub truncated: bool,
    /// A part: another reply follows.
    pub more: bool,
}

/// How activation came to a memory.
#[derive(Clone, Debug)]
pub struct Via {
    /// From where.
    pub from: MemoryKey,
    /// Along which kind of link.
    pub kind: Arc<LinkKind>,
    /// Weight of the link after fan-out normalisation.
    pub weight: f64,
    /// How much.
    pub amount: Activation,
    /// The shared term, where it was one.
    pub term: Option<Arc<str>>,
}

/// A way that activation took and that was of use.
#[derive(Clone, Debug)]
pub struct UsedWay {
    /// From where.
    pub from: MemoryKey,
    /// To where.
    pub to: MemoryKey,
    /// Along which kind of link.
    pub kind: Arc<LinkKind>,
    /// How useful it was.
    pub outcome: Outcome,
}

/// A kind of automatic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AutomaticKind {
    /// The source's content names the target.
    Mentions,
    /// The target follows the source in a sequence.
    Next,
    /// The target precedes the source in a sequence.
    Previous,
    /// The target is two places away in a sequence.
    Near,
}

impl AutomaticKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Mentions, Self::Next, Self::Previous, Self::Near];

    /// The name that clients see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mentions => "mentions",
            Self::Next => "next",
            Self::Previous => "previous",
            Self::Near => "near",
        }
    }
}

/// What a shard lets another know.
#[derive(Debug)]
pub enum Tell {
    /// A space exists with this configuration.
    Space { at: Timestamp, config: SpaceConfig },
    /// A space is gone.
    SpaceGone { at: Timestamp },
    /// A memory of the sender links to one of the receiver.
    LinkIn(LinkIn),
    /// Such a link is gone.
    LinkGone { from: MemoryKey, to: MemoryKey, kind: LinkKind, automatic: bool },
    /// A memory of the sender, to which the receiver links, exists now.
    Live { key: MemoryKey },
    /// After recovery: a memory of the sender is gone since then, and with it the links that were
    /// written before.
    Gone { key: MemoryKey, at: Timestamp },
    /// Memories of the receiver that may mention one of these names are to be associated anew.
    Named { phrases: Vec<Vec<TermKey>> },
    /// Memories of the receiver are to be associated anew: a name that they mention changed hands.
    Reassociate { keys: Vec<MemoryKey> },
    /// Memories of the sender mention some of the receiver's, as it said when names had been taken
    /// away so many times: where more were since, they are to be looked at again.
    Scanned { keys: Vec<MemoryKey>, names_version: u64 },
    /// A memory joins a sequence that the receiver keeps.
    SequenceJoin { sequence: u64, member: Member },
    /// A memory leaves a sequence that the receiver keeps.
    SequenceLeave { sequence: u64, member: Member },
    /// The links that a memory of the receiver has in its sequence.
    SequenceLinks { of: MemoryKey, links: Vec<(MemoryKey, AutomaticKind, u16)> },
    /// A memory of the sender, to which the receiver links, was merged into another.
    Merged { key: MemoryKey, into: MemoryKey },
    /// A memory of the sender was merged into one of the receiver, as that one was then.
    Absorbed { of: MemoryKey, id: MemoryId, into: MemoryKey, version: Timestamp },
    /// It is merged into it no longer.
    Released { of: MemoryKey, into: MemoryKey },
    /// A memory of the receiver was merged into one that is gone or changed: it is to come back.
    Return { key: MemoryKey },
    /// Memories of the receiver and ways out of them were of use.
    Used { lived: Lived, memories: Vec<(MemoryKey, Outcome)>, ways: Vec<UsedWay> },
    /// After recovery: the sender has told all that others need.
    Exchanged,
    /// After recovery: it has answered what the others told.
    Answered,
}

/// A link from another shard's memory.
#[derive(Clone, Debug)]
pub struct LinkIn {
    /// Source.
    pub from: MemoryKey,
    /// Target.
    pub to: MemoryKey,
    /// Id of the target; automatic links know its key only.
    pub to_id: Option<MemoryId>,
    /// Kind.
    pub kind: LinkKind,
    /// Made by the server.
    pub automatic: bool,
    /// Weight in units.
    pub weight: u16,
    /// When it was written; older than the target's last deletion: it went with that.
    pub at: Timestamp,
}

/// A memory in a sequence: ordered by when it was made, then by arrival, then by key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// When it was made.
    pub created_at: Timestamp,
    /// When it arrived.
    pub arrived_at: Timestamp,
    /// Which it is.
    pub key: MemoryKey,
}

/// The tier of what is read from a shard's log.
pub const LOG_TIER: Tier = Tier::Warm;
