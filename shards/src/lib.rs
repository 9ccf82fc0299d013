//! Shards of Engram: one engine on each placed core, with its mailbox and its log.
//!
//! *Invariants*: a shard is touched by its own executor only; what it acknowledges is on stable
//! storage; messages between two shards arrive in the order in which they were sent.
//!
//! *Not here*: what a memory is (`engram-engine`), HTTP (`engram-net`).

mod admission;
mod cache;
mod check;
mod cold;
pub mod compaction;
mod core;
mod directory;
pub mod disk;
mod error;
mod images;
mod life;
pub mod log;
mod memory_node;
mod mesh;
mod meters;
mod notify;
mod patience;
mod plain;
pub mod recover;
mod reshard;
mod ring;
mod room;
mod run;
pub mod segment;
mod snapshot;
mod stall;
mod status;
mod watchdog;

pub use crate::core::Handle;
pub use check::{CheckOptions, Checked, Finding, Missing, check};
pub use cold::ColdTier;
pub use directory::{Directory, Manifest, read_or_make_manifest, shard_path, write_manifest};
pub use error::ShardsError;
pub use images::{ImageOptions, ImageTier};
pub use life::{Life, Stage, Transitions};
pub use meters::{Meters, RECALL_PHASES};
pub use plain::PlainDisk;
pub use reshard::{Progress, move_logs};
pub use ring::RingDisk;
pub use room::{Room, Rooms};
pub use run::{Config, CorePlace, Running, start};
pub use segment::DISK_RESERVE_BYTES;
pub use snapshot::{
    Copied, SnapshotError, SnapshotManifest, Wanted, restore, snapshot_names, verify,
};
pub use stall::{HELD_MAX, Stalls, Work};
pub use status::{Counters, Status};
