//! Every bound of Engram in one place, related to the others where they depend on each other.
//!
//! *Invariants*: at a bound the server sheds or says `truncated`; it never grows without limit.
//!
//! *Not here*: budgets that depend on the machine (memory, CPUs), which `platform` computes.

/// Longest memory id, in bytes of UTF-8.
pub const ID_BYTES_MAX: usize = 256;
/// Longest content of one memory, in bytes of UTF-8.
pub const CONTENT_BYTES_MAX: usize = 1 << 20;
/// Longest metadata of one memory, in bytes of JSON.
pub const METADATA_BYTES_MAX: usize = 64 << 10;
/// Most keys in the metadata of one memory, nested ones included.
pub const METADATA_KEYS_MAX: usize = 256;
/// Most distinct metadata keys of one space on one shard.
pub const METADATA_KEYS_PER_SPACE_MAX: usize = 16_384;
/// Deepest JSON that is read, in levels.
pub const JSON_DEPTH_MAX: usize = 32;
/// Most dimensions of an embedding.
pub const DIMENSIONS_MAX: usize = 4096;
/// Widest search of the vector index's graph, in points that are kept on the way.
pub const VECTOR_EF_MAX: usize = 4096;
/// Most links written with one memory or named in one links request.
pub const LINKS_PER_REQUEST_MAX: usize = 1024;
/// Most links that one memory may have in one direction, client links and automatic ones together.
pub const LINKS_PER_MEMORY_MAX: usize = 65_536;
/// Longest name of a link kind, in bytes.
pub const LINK_KIND_BYTES_MAX: usize = 64;
/// Most link kinds in one space.
pub const LINK_KINDS_MAX: usize = 4096;
/// Longest name of a space, in bytes.
pub const SPACE_NAME_BYTES_MAX: usize = 64;
/// Most spaces of one server.
pub const SPACES_MAX: usize = 10_000;
/// Most cues in one recall.
pub const CUES_MAX: usize = 64;
/// Longest text of one cue, in bytes of UTF-8.
pub const CUE_TEXT_BYTES_MAX: usize = 32 << 10;
/// Most results of one recall.
pub const TOP_K_MAX: usize = 1000;
/// Most hops of one recall.
pub const HOPS_MAX: u8 = 8;
/// Most links followed out of one memory in one hop.
pub const FAN_OUT_MAX: u32 = 1024;
/// Most seeds of one recall.
pub const SEEDS_MAX: u32 = 1000;
/// Most links that one recall follows in all; past it the recall is `truncated`.
pub const LINKS_PER_RECALL_MAX: u64 = 200_000;
/// Longest time a request may ask for, in milliseconds.
pub const TIMEOUT_MS_MAX: u64 = 60_000;
/// Most recalls in one batch.
pub const RECALLS_PER_BATCH_MAX: usize = 128;
/// Most memories in one JSON batch body; an NDJSON stream has no such bound.
pub const MEMORIES_PER_BATCH_MAX: usize = 10_000;
/// Largest request body other than an NDJSON stream, in bytes.
pub const BODY_BYTES_MAX: usize = 64 << 20;
/// Longest line of an NDJSON stream, in bytes.
pub const NDJSON_LINE_BYTES_MAX: usize = 4 << 20;
/// Most memories on one page of a listing.
pub const PAGE_MEMORIES_MAX: usize = 1000;
/// Most conditions in one filter, nested ones included.
pub const FILTER_CONDITIONS_MAX: usize = 256;
/// Deepest nesting of a filter.
pub const FILTER_DEPTH_MAX: usize = 8;
/// Most values in one `any` or `except`, and most ids in one `has_id`.
pub const FILTER_VALUES_MAX: usize = 10_000;
/// Most ids in one reinforce or forget request.
pub const IDS_PER_REQUEST_MAX: usize = 10_000;
/// Recalls that one shard is home of and works on at once.
pub const RECALLS_IN_FLIGHT_MAX: usize = 32;
/// Recalls that wait for that.
pub const RECALLS_WAITING_MAX: usize = 1024;
/// Longest time that a recall waits, and half of its own at most; past it, 429.
pub const RECALL_WAIT_MS_MAX: u64 = 100;
/// Writes that one shard is home of and works on at once: many, since they share their syncs.
pub const WRITES_IN_FLIGHT_MAX: usize = 1024;
/// Writes that wait for that.
pub const WRITES_WAITING_MAX: usize = 4096;
/// Other reads that one shard is home of and works on at once.
pub const READS_IN_FLIGHT_MAX: usize = 256;
/// Other reads that wait for that.
pub const READS_WAITING_MAX: usize = 4096;
/// Longest time that writes and other reads wait; past it, 429.
pub const WAIT_MS_MAX: u64 = 5000;
/// Bytes of records that are not yet on disk, past which no further write is begun: what is answered
/// before it is durable could pile up otherwise.
pub const LOG_WAITING_BYTES_MAX: u64 = 32 << 20;
/// Most ways out of one memory of which it is known how often they were used.
pub const TRACED_WAYS_PER_MEMORY_MAX: usize = 256;
/// Most memories in one reinforce request between which links are reinforced too.
pub const REINFORCED_TOGETHER_MAX: usize = 100;
/// Most shards of one server.
pub const SHARDS_MAX: usize = 1024;

const _: () = assert!(CONTENT_BYTES_MAX + METADATA_BYTES_MAX < NDJSON_LINE_BYTES_MAX);
const _: () = assert!(METADATA_KEYS_MAX <= METADATA_KEYS_PER_SPACE_MAX);
const _: () = assert!(NDJSON_LINE_BYTES_MAX < BODY_BYTES_MAX);
const _: () = assert!(TOP_K_MAX <= SEEDS_MAX as usize);
const _: () = assert!(REINFORCED_TOGETHER_MAX <= IDS_PER_REQUEST_MAX);
/// Most memories of one shard that a shared term may tie together and still count.
pub const TERM_MEMBERS_MAX: usize = 2048;
